"""What is counted of a UNet that is laid out for a GPU: all that it holds, and nothing twice."""

import gc
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgq.inference import execution
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.products import Products
from dgq.inference.products.cpu import CpuProducts
from dgq.inspection.memory import held_by, memory_of, resident_bytes
from dgq.settings import WeightSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.geometry import LinearGeometry
from tests.quantized_models import Calibrated
from tests.random_layers import integer_layer, packed_layer
from tests.triton_kernels import ProductsHere

Models = Callable[[str], Calibrated]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNets are prepared as they would be on a GPU."""
    monkeypatch.setattr(execution, "products_of", lambda _: (ProductsHere(), None))
    monkeypatch.setattr(execution, "norm_dtype", lambda _, dtype: dtype)


def reachable(root: object) -> list[Tensor]:
    """Every tensor that an object holds, in whatever attribute or container."""
    seen, waiting, found = set(), [root], []
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | BuiltinFunctionType):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, FunctionType):  # whose globals are nobody's
            waiting += thing.__closure__ or ()
        else:
            waiting += gc.get_referents(thing)
    return found


@pytest.mark.parametrize("name", ["exponents", "mixed", "absorbed", "live", "w4a16"])
@torch.no_grad()
def test_everything_that_is_held_is_counted(name: str, calibrated_as: Models, on_gpu: None) -> None:
    unet: Any = load_quantized_unet(calibrated_as(name).folder, "auto")
    layers = [m for m in unet.modules() if isinstance(m, KernelLayer)]
    assert layers
    tensors = reachable(unet)
    assert any(tensor is layers[0].weight_scale for tensor in tensors)
    steps = [memory_of(tensor)[0] for tensor in unet.calls._known.values()]
    sizes = dict(map(memory_of, tensors))
    assert resident_bytes(unet) == sum(n for key, n in sizes.items() if key not in steps)


@pytest.mark.parametrize("name", ["exponents", "exponents a6", "multiples"])
def test_exponents_are_held_once(name: str, calibrated_as: Models, on_gpu: None) -> None:
    folder = calibrated_as(name).folder
    unet = load_quantized_unet(folder, "integer")
    held = [one.name for one in held_by(unet)]
    assert "kernel_shift" in held
    shifted = [m for m in unet.modules() if isinstance(m, KernelLayer) and m.largest_exponent]
    assert shifted
    assert all(layer.exponent is None for layer in shifted)
    expected = load_quantized_unet(folder, "float", torch.float32).state_dict()
    found = unet.state_dict()
    assert found.keys() == expected.keys()
    exponents = [n for n in expected if n.rpartition(".")[2] in ("exponent", "codes", "scale")]
    assert all(torch.equal(found[name], expected[name]) for name in exponents)


@pytest.mark.parametrize("products", [ProductsHere(), CpuProducts()], ids=["gpu", "cpu"])
def test_exponents_that_are_all_0_are_not_held(products: Products) -> None:
    weights = WeightSettings(4, symmetric=True, group_size=8, max_exponent=1)
    formats = {"weights": weights, "activation_bits": 8, "room": 1}
    formats |= {"per_tensor": False, "per_step": True}
    packed = packed_layer(LinearGeometry(20, 5), formats, torch.tensor([0]), 0)
    packed.store("exponent", torch.zeros(5, 3, dtype=torch.uint8))
    expected = packed.state_dict()
    layer = integer_layer(packed, products)
    assert not {"exponent", "kernel_shift"} & {one.name for one in held_by(layer)}
    found, unfolded = layer.state_dict(), layer.unfolded().state_dict()
    assert found.keys() == unfolded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(unfolded[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_views_of_one_memory_count_once() -> None:
    model = nn.Linear(3, 5)
    model.register_buffer("part", model.weight.detach()[1:3])
    assert resident_bytes(model) == 4 * (3 * 5 + 5)
    assert [one.name for one in held_by(model)] == ["weight", "bias"]
