"""Features by Inception, with images prepared as in the two standard implementations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.files import sha256_of
from evaluation.features.inception import Inception
from evaluation.images.files import to_tensor

SIDE = 299
WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"
)
WEIGHTS_SHA256 = "6726825d"
"""First digits of the published file's hash, as in its name."""


class InceptionFeatures:
    """Features for FID as pytorch-fid extracts them, logits for IS as torch-fidelity does.

    Args:
        weights: the state dict that pytorch-fid publishes; by default in torch.hub's folder.
        device: where it runs; results are returned on the CPU.

    Raises:
        DGQError: if the file is missing or holds another network.
    """

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
        state = _read_state(path)
        network = Inception()
        network.load_state_dict(state)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device
        digest = sha256_of(path)[: len(WEIGHTS_SHA256)]
        published = "pytorch-fid's weights" if digest == WEIGHTS_SHA256 else "other weights"
        self.name = f"Inception-v3 ({published}, sha256 {digest})"

    @torch.no_grad()
    def images(self, batch: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Features [N, 2048] for FID and KID, logits [N, 1008] for the Inception score."""
        pixels = [to_tensor([image]).to(self.device) for image in batch]
        features = self.network(torch.cat([as_pytorch_fid(image) for image in pixels]))
        others = self.network(torch.cat([as_torch_fidelity(image) for image in pixels]))
        return features.cpu(), self.network.logits(others).cpu()


def as_pytorch_fid(pixels: Tensor) -> Tensor:
    """[N, 3, H, W] in [0, 1] -> [N, 3, 299, 299] in [-1, 1]: bilinear, not antialiased."""
    return 2 * F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def as_torch_fidelity(pixels: Tensor) -> Tensor:
    """[N, 3, H, W] in [0, 1] -> [N, 3, 299, 299]: bilinear as TensorFlow 1 did it, (x - 128) / 128.

    There, output pixel i lies at input pixel ``i * in / out``, without the shift of half a pixel.
    """
    codes = 255 * pixels
    for dimension in (2, 3):
        size = codes.shape[dimension]
        place = torch.arange(SIDE, device=pixels.device) * (size / SIDE)
        low = place.long()
        high = (low + 1).clamp(max=size - 1)
        shape = (-1, 1) if dimension == 2 else (1, -1)
        weight = (place - low).reshape(shape)
        below, above = codes.index_select(dimension, low), codes.index_select(dimension, high)
        codes = below + (above - below) * weight
    return (codes - 128) / 128


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of Inception, and check names and shapes."""
    hint = f"expected the state dict of pytorch-fid: download {WEIGHTS_URL} and give --inception"
    if not path.is_file():
        raise DGQError(f"there are no Inception weights at {path}: {hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds, from EOFError to UnpicklingError
        raise DGQError(f"{path} cannot be read ({type(error).__name__}): {hint}") from error
    if not isinstance(state, dict):
        raise DGQError(f"{path} holds no state dict: {hint}")
    with torch.device("meta"):
        expected = _shapes(Inception().state_dict())
    found = _shapes(state)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise DGQError(f"{path} holds the weights of another network, as {name} shows: {hint}")
    return state


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes by name, without batch counters, which old files lack."""
    return {n: getattr(t, "shape", None) for n, t in state.items() if "num_batches" not in n}
