"""Loading folds layer by layer: no moment holds all weights packed and folded."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgq.inference.integer_layer import IntegerLayer
from dgq.inspection.cost import parameter_bytes
from dgq.inspection.memory import resident_bytes
from dgq.ops import cpu
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.storage.checkpoint import load_quantized_unet, save_quantized
from dgq.storage.model_files import WEIGHTS_FILE
from tests.quantized_models import description
from tests.tiny_pipelines import calibrate_, two_level_unet

SETTINGS = QuantizationSettings(
    WeightSettings(4, "minmax", group_size=64, max_exponent=1),
    ActivationSettings(8, "exponents", max_exponent=2),
    ScoreSettings(16),
)


class LiveTensors(TorchDispatchMode):
    """Bytes of tensors that are made while the mode is on, those in oneDNN's layout included."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                key = self._key(tensor)
                if key not in given | self._known:
                    self._add(key, tensor)
        return result

    def _key(self, tensor: Tensor) -> int:
        return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage()._cdata

    def _add(self, key: int, tensor: Tensor) -> None:
        opaque = tensor.is_mkldnn
        storage = tensor if opaque else tensor.untyped_storage()
        size = tensor.numel() * tensor.element_size() if opaque else storage.nbytes()
        self._known.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.current -= size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with at least 20 MB of weights in float32."""
    torch.manual_seed(0)
    unet = two_level_unet((64, 160), 64, n_groups=8, layers=2, heads=4)
    assert parameter_bytes(unet) >= 20e6
    manifest = description(unet, SETTINGS)
    calibrate_(unet, SETTINGS)
    path = tmp_path_factory.mktemp("large")
    save_quantized(unet, path, manifest)
    return path


Load = Callable[[Path], Any]


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
@pytest.mark.parametrize("load", [load_quantized_unet, UNet2DConditionModel.from_pretrained])
def test_loading_takes_little_more_than_the_folded_weights(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is folded at once counts little beside a whole model; this one is a hundredth of it.
    monkeypatch.setattr("dgq.inference.integer_layer.FOLDED_AT_ONCE", 2**14)
    with LiveTensors() as live:
        unet = load(folder)
        gc.collect()
    folded = resident_bytes(unet)
    assert folded > 5e6
    assert live.peak <= 1.3 * folded
    assert live.current <= 1.15 * folded


def test_floating_point_keeps_weights_packed(folder: Path) -> None:
    with LiveTensors() as live:
        unet = load_quantized_unet(folder, "float")
        gc.collect()
    size = (folder / WEIGHTS_FILE).stat().st_size
    assert resident_bytes(unet) <= size
    assert live.peak <= 2 * size
    assert copy.deepcopy(unet) is not unet


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
def test_codes_are_recovered_without_wide_copies_of_a_weight(folder: Path) -> None:
    """Saving takes the codes, and a few bytes for each weight of one layer at a time."""
    unet = load_quantized_unet(folder, "integer")
    sizes = [m.kernel_weight.whole_numbers().numel() for m in unet.modules() if is_integer(m)]
    with LiveTensors() as live:
        state = unet.state_dict()
    codes = sum(tensor.nbytes for name, tensor in state.items() if name.endswith(".codes"))
    assert codes >= 2e6
    assert live.peak <= codes + 10 * max(sizes)


def is_integer(module: nn.Module) -> bool:
    """Whether a module multiplies integers."""
    return isinstance(module, IntegerLayer)
