"""CLIP models: from transformers against torchmetrics, from open_clip against a stand-in."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.multimodal import CLIPScore

import scenes
from data.embedded import SCENES
from dgq.errors import DGQError
from evaluation.features.clip_features import ClipFeatures
from evaluation.features.extractors import Extractors, load_clip
from evaluation.features.features import Feature
from evaluation.features.fingerprint import short_hash
from evaluation.features.open_clip_features import OpenClipFeatures
from evaluation.images.files import to_images, to_tensor
from evaluation.metrics.clip_score import clip_scores
from evaluation.protocol import Protocol


def random_images(n: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    return to_images(torch.rand(n, 3, 16, 16, generator=generator))


def test_clip_score_equals_torchmetrics(clip_folder: Path) -> None:
    clip = ClipFeatures(clip_folder)
    prompts, images = ["a red circle"], random_images(1)
    _, embeddings = clip.images(images)
    # A tower of random weights may see opposites; the sign makes the comparison meaningful.
    ours = [clip_scores(s * embeddings, clip.texts(prompts)).mean().item() for s in (1, -1)]

    class Tensors:
        """What torchmetrics expects of a CLIP model: features as plain tensors."""

        def __init__(self, sign: int) -> None:
            self.config, self.sign = clip.model.config, sign

        def to(self, _: Any) -> "Tensors":
            return self

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return self.sign * clip.model.get_image_features(pixels).pooler_output

        def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return clip.model.get_text_features(tokens, attention_mask=mask).pooler_output

    for sign, score in zip((1, -1), ours, strict=True):
        model = SimpleNamespace(make=lambda s=sign: (Tensors(s), clip.processor))
        metric = CLIPScore(model_name_or_path=model.make)
        metric.update([(255 * to_tensor([i])[0]).to(torch.uint8) for i in images], prompts)
        assert score == pytest.approx(metric.compute().item(), abs=1e-3)
    assert max(ours) > 0


def test_features_do_not_depend_on_the_batches(clip_folder: Path) -> None:
    extractors = Extractors(Protocol(clip=str(clip_folder)), benchmark=SCENES, device="cpu")
    images = random_images(3)
    whole, parts = (extractors.extract(b, 2) for b in ([images], [images[:2], images[2:]]))
    torch.testing.assert_close(whole.pooled, parts.pooled)
    torch.testing.assert_close(whole.logits, parts.logits)
    assert whole.pooled.shape == (3, 12)
    assert whole.embeddings is not None
    torch.testing.assert_close(whole.embeddings.norm(dim=1), torch.ones(2))


def test_zero_shot_logits_of_scenes_are_those_of_the_model(clip_folder: Path) -> None:
    extractors = Extractors(Protocol(clip=str(clip_folder)), benchmark=SCENES, device="cpu")
    clip, images = ClipFeatures(clip_folder), random_images(2)
    inputs = clip.processor(
        text=scenes.class_prompts(), images=images, return_tensors="pt", padding=True
    )
    expected = clip.model(**inputs).logits_per_image
    torch.testing.assert_close(extractors.extract([images], 2).logits, expected)
    others = Extractors(Protocol(clip=str(clip_folder)), benchmark=None, device="cpu")
    assert others.extract([images], 2).logits is None
    assert others.names[Feature.LOGITS] is None


def test_half_precision_weights_are_computed_with_in_full(
    clip_folder: Path, tmp_path: Path
) -> None:
    clip = ClipFeatures(clip_folder)
    expected, _ = clip.images(random_images(1))
    clip.model.half().save_pretrained(tmp_path)
    clip.processor.save_pretrained(tmp_path)
    pooled, _ = ClipFeatures(tmp_path).images(random_images(1))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected, atol=0.01, rtol=0.01)


def test_names_tell_models_of_the_same_folder_name_apart(clip_folder: Path, tmp_path: Path) -> None:
    clip = ClipFeatures(clip_folder)
    with torch.no_grad():
        clip.model.logit_scale += 1
    copied = tmp_path / clip_folder.name
    clip.model.save_pretrained(copied)
    clip.processor.save_pretrained(copied)
    names = {ClipFeatures(folder).name for folder in (clip_folder, copied)}
    assert len(names) == 2
    assert all(name.startswith(f"{clip_folder.name} (sha256 ") for name in names)


def test_a_clip_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="no CLIP model can be loaded"):
        ClipFeatures(tmp_path / "missing")


class FakeTower(nn.Module):
    """What open_clip's models offer."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3)).half()

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens[:, :3].float()


class FakeTokenizer:
    """A token for each letter, between a start and an end; padding is 0."""

    context_length = 6

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        length = context_length or self.context_length
        tokens = [[*[1, *map(ord, text)][: length - 1], 2] for text in texts]
        return torch.tensor([each + [0] * (length - len(each)) for each in tokens])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a stand-in for open_clip was asked for; it loads ``tag`` only."""
    calls: list[tuple[Any, ...]] = []

    def create(architecture: str, pretrained: str, device: str) -> tuple[Any, Any, Any]:
        calls.append((architecture, pretrained, device))
        if pretrained != "tag":
            raise RuntimeError("Pretrained weights not found\nfor it")
        return FakeTower(), None, lambda image: to_tensor([image])[0]

    module: Any = ModuleType("open_clip")
    module.__spec__ = SimpleNamespace(name="open_clip")
    module.create_model_and_transforms = create
    module.get_tokenizer = lambda _: FakeTokenizer()
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return calls


def test_open_clip_features(asked: list[tuple[Any, ...]]) -> None:
    clip = load_clip("open_clip:ViT-g-14:tag", "cpu")
    assert isinstance(clip, OpenClipFeatures)
    assert asked == [("ViT-g-14", "tag", "cpu")]
    assert clip.name == f"ViT-g-14 tag (open_clip, sha256 {short_hash(FakeTower())})"
    images = random_images(2)
    pooled, embeddings = clip.images(images)
    expected = to_tensor(images).mean(dim=(2, 3))
    torch.testing.assert_close(pooled, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    texts = clip.texts(["", "abcd"])
    torch.testing.assert_close(texts[0], torch.tensor([1.0, 2.0, 0.0]) / 5**0.5)
    assert clip.n_too_long(["", "abcd", "abcde", "abcdef"]) == 2
    assert clip.logit_scale == pytest.approx(torch.tensor(2.0).exp().item())


@pytest.mark.parametrize("source", ["open_clip:ViT-g-14", "open_clip:", "open_clip:ViT-g-14:"])
def test_an_open_clip_name_without_weights_is_refused(source: str) -> None:
    with pytest.raises(DGQError, match="expected open_clip:ARCHITECTURE:WEIGHTS"):
        load_clip(source, "cpu")


@pytest.mark.usefixtures("asked")
def test_open_clip_weights_that_are_not_there() -> None:
    with pytest.raises(DGQError, match="cannot load ViT-g-14 with other: Pretrained") as error:
        load_clip("open_clip:ViT-g-14:other", "cpu")
    assert "\n" not in str(error.value)


def test_open_clip_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.extras.find_spec", lambda _: None)
    with pytest.raises(DGQError, match=r"pip install 'dgq\[open_clip\]'"):
        load_clip("open_clip:ViT-g-14:tag", "cpu")


State = dict[str, Tensor]


def without_one(state: State) -> State:
    return {name: state[name] for name in sorted(state)[1:]}


def with_another_shape(state: State) -> State:
    return state | {"visual_projection.weight": torch.ones(2, 2)}


def with_nan(state: State) -> State:
    return state | {"logit_scale": torch.tensor(torch.nan)}


@pytest.mark.parametrize("damage", [without_one, with_another_shape, with_nan, None])
def test_a_damaged_clip_is_one_line(
    damage: Callable[[State], State] | None, clip_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    file = folder / "model.safetensors"
    if damage is None:
        file.write_bytes(file.read_bytes()[:100])
    else:
        save_file(damage(load_file(file)), file, {"format": "pt"})
    with pytest.raises(DGQError, match="no CLIP model can be loaded from") as error:
        ClipFeatures(folder)
    assert "\n" not in str(error.value)
