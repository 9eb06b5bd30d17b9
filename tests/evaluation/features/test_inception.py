"""Inception: its structure, its two ways of preparing images, and files that are not it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data.embedded import SCENES
from dgq.errors import DGQError
from dgq.storage.files import sha256_of
from evaluation.features.extractors import Extractors
from evaluation.features.features import Feature
from evaluation.features.inception import BlockA, BlockE, Inception
from evaluation.features.inception_features import (
    InceptionFeatures,
    as_pytorch_fid,
    as_torch_fidelity,
)
from evaluation.images.files import to_images, to_tensor
from evaluation.protocol import Protocol

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random state dict as pytorch-fid publishes it: old, without counters of batches."""
    torch.manual_seed(0)
    state = {n: t for n, t in Inception().state_dict().items() if "num_batches" not in n}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    yield path
    path.unlink()


def bilinear(image: Array, place: Array) -> Array:
    """A square image [side, side] read between its pixels, at the same places along both axes."""
    side = len(image)
    low = np.clip(np.floor(place).astype(int), 0, side - 1)
    high = np.clip(low + 1, 0, side - 1)
    part = np.clip(place, 0, side - 1) - low
    rows = image[low] * (1 - part)[:, None] + image[high] * part[:, None]
    columns: Array = rows[:, low] * (1 - part) + rows[:, high] * part
    return columns


@pytest.mark.parametrize("side", [16, 64, 512])
def test_images_are_prepared_as_the_two_implementations_do(side: int) -> None:
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    channel = image[0, 1].double().numpy()
    centres = np.clip((np.arange(299) + 0.5) * side / 299 - 0.5, 0, None)
    for prepare, expected in (
        (as_pytorch_fid, 2 * bilinear(channel, centres) - 1),
        (as_torch_fidelity, (bilinear(255 * channel, np.arange(299) * side / 299) - 128) / 128),
    ):
        actual = prepare(image)
        assert actual.shape == (1, 3, 299, 299)
        np.testing.assert_allclose(actual[0, 1].numpy(), expected, atol=3e-4)


def test_the_network_has_the_published_sizes() -> None:
    with torch.device("meta"):
        network = Inception()
        shapes = {}
        for name in ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
            network.get_submodule(name).register_forward_hook(
                lambda _m, _a, output, name=name: shapes.update({name: tuple(output.shape)})
            )
        pooled = network(torch.empty(1, 3, 299, 299))
    assert shapes == {
        "Conv2d_4a_3x3": (1, 192, 71, 71),
        "Mixed_5d": (1, 288, 35, 35),
        "Mixed_6e": (1, 768, 17, 17),
        "Mixed_7c": (1, 2048, 8, 8),
    }
    assert pooled.shape == (1, 2048)
    n = sum(parameter.numel() for parameter in network.parameters())
    assert n == 21_785_568 + 1008 * (2048 + 1)  # of the published layers; its classes are 1008


def test_averages_leave_padding_out_and_the_last_block_pools_the_maximum() -> None:
    x = torch.ones(1, 192, 4, 4)
    seen: list[Tensor] = []
    block = BlockA(192, 32).eval()
    block.branch_pool.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block(x)
    torch.testing.assert_close(seen[0], x)  # with zeros counted, corners would be 4 / 9
    y = torch.rand(1, 1280, 3, 3)
    for pools_maximum, expected in (
        (True, F.max_pool2d(y, 3, 1, 1)),
        (False, F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)),
    ):
        last = BlockE(1280, pools_maximum).eval()
        last.branch_pool.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        last(y)
        torch.testing.assert_close(seen[-1], expected)


def test_features_and_logits_of_images(weights: Path) -> None:
    protocol = Protocol(features="inception", inception=weights)
    extractors = Extractors(protocol, benchmark=SCENES, device="cpu")
    images = [*to_images(torch.rand(1, 3, 32, 32)), *to_images(torch.rand(1, 3, 40, 20))]
    seen = extractors.extract([images], 2)
    assert seen.pooled.shape == (2, 2048)
    assert seen.logits is not None
    assert seen.logits.shape == (2, 1008)
    assert seen.embeddings is None  # the embedded CLIP beside Inception would be a mixture
    digest = sha256_of(weights)[:8]
    assert extractors.names == {
        Feature.POOLED: f"Inception-v3 (other weights, sha256 {digest})",
        Feature.LOGITS: f"Inception-v3 (other weights, sha256 {digest})",
        Feature.EMBEDDINGS: None,
    }
    network = Inception()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    with torch.no_grad():
        prepared = as_pytorch_fid(to_tensor(images[:1]))
        torch.testing.assert_close(seen.pooled[:1], network(prepared))
        other = network(as_torch_fidelity(to_tensor(images[:1])))
    torch.testing.assert_close(seen.logits[:1], other @ network.fc.weight.T)


def test_files_that_are_not_inception(weights: Path, tmp_path: Path) -> None:
    for content in ({"weight": torch.zeros(1)}, torch.zeros(3), {"fc.weight": "text"}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(DGQError, match=r"pytorch-fid: download https://github\.com"):
            InceptionFeatures(tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DGQError, match="cannot be read"):
        InceptionFeatures(tmp_path / "cut.pth")
    with pytest.raises(DGQError, match="no Inception weights at"):
        InceptionFeatures(tmp_path / "missing.pth")


def test_no_code_in_a_file_of_weights_is_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    torch.save({"fc.weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(DGQError, match="cannot be read"):
        InceptionFeatures(tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()


def test_where_torch_hub_keeps_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DGQError, match=r"checkpoints/pt_inception-2015-12-05-6726825d.pth"):
        InceptionFeatures(None)
