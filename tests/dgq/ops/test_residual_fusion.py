"""Residuals that a compiled graph's products add."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from dgq.ops import int_conv2d, int_conv2d_packed, int_linear, reference, residual_fusion

pytestmark = pytest.mark.filterwarnings("ignore:dynamo_pgo")
TABLES = (torch.ones(16), torch.ones(1), torch.randn(1, 16), torch.zeros(1).long())
CODES = torch.randint(-128, 128, (2, 6, 8)).to(torch.int8)
PACKED = (
    torch.randint(0, 256, (16, 1, 4)).to(torch.uint8),
    torch.full((16,), 8, dtype=torch.int8),
    *(None, None, 0),
)
WEIGHT = torch.randint(-128, 128, (16, 8)).to(torch.int8)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fuse on this machine too, and compile anew."""
    monkeypatch.setattr(residual_fusion, "DEVICES", ("cpu",))
    residual_fusion.register()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def product(x: Tensor) -> Tensor:
    output: Tensor = int_linear(x, WEIGHT, *TABLES, torch.float32)
    return output


def compiled(function: Any, *operands: Tensor, dynamic: bool | None = None) -> tuple[Tensor, str]:
    """What the compiled function computes, and its code."""
    run = torch.compile(function, fullgraph=True, dynamic=dynamic)
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        found, codes = run_and_get_code(run, *operands)
    return found, "".join(codes)


def adds(code: str) -> bool:
    """Whether a product in the code is given a residual."""
    calls = re.findall(r"= (torch\.ops\.dgq\.int_.*)", code)
    assert calls
    return any("residual=None" not in call for call in calls)


def added(x: Tensor, residual: Tensor) -> Tensor:
    return residual + product(x)


def added_first(x: Tensor, residual: Tensor) -> Tensor:
    return product(x) + residual


def viewed(x: Tensor, residual: Tensor) -> Tensor:
    image = product(x).reshape(2, 2, 3, 16).permute(0, 3, 1, 2).contiguous()
    return image + residual.reshape(2, 3, 2, 16).permute(0, 3, 2, 1)


def resized(x: Tensor, residual: Tensor) -> Tensor:
    """As the last layer of a transformer with linear projections."""
    size = (x.shape[0], 2, x.shape[1] // 2, 16)
    image = product(x).reshape(size).permute(0, 3, 1, 2).contiguous()
    return image + residual.reshape(size).permute(0, 3, 1, 2)


def of_two(x: Tensor, residual: Tensor) -> Tensor:
    return product(x) + product(x + 1) * residual


@pytest.mark.parametrize("function", [added, added_first, viewed, of_two])
def test_the_product_adds_it(function: Any) -> None:
    residual = torch.randn(2, 6, 16)
    found, code = compiled(function, CODES, residual)
    # Rounded once, not twice.
    torch.testing.assert_close(found, function(CODES, residual), rtol=1e-6, atol=0.01)
    assert adds(code)


def packed_image(x: Tensor, residual: Tensor) -> Tensor:
    """A convolution of 4-bit weights in a block of diffusers, in bfloat16."""
    window = ([1, 1], [1, 1], [1, 1], 1)
    image = x.reshape(2, 2, 3, 8)
    output = int_conv2d_packed(image, *PACKED, *TABLES, *window, torch.bfloat16)
    terms = residual.reshape(2, 2, 3, 16).permute(0, 3, 1, 2).bfloat16()
    return (terms + output.permute(0, 3, 1, 2)) / 1.0


def image_of_bytes(x: Tensor, residual: Tensor) -> Tensor:
    window = ([1, 1], [1, 1], [1, 1], 1)
    image, kernels = x.reshape(2, 2, 3, 8), WEIGHT.view(16, 8, 1, 1)
    output: Tensor = int_conv2d(image, kernels, *TABLES, *window, torch.float32)
    return output + residual.reshape(2, 2, 3, 16)


@pytest.mark.parametrize("function", [packed_image, image_of_bytes])
def test_convolutions_add_it(function: Any) -> None:
    residual = torch.randn(2, 6, 16)
    found, code = compiled(function, CODES, residual)
    expected = function(CODES, residual)
    assert torch.allclose(found.float(), expected.float(), rtol=2**-7, atol=0)
    assert adds(code)


@pytest.mark.parametrize(("function", "fuses"), [(added, True), (resized, False)])
def test_sizes_may_be_known_only_when_the_graph_runs(function: Any, fuses: bool) -> None:
    torch._dynamo.reset()
    for tokens in (6, 10):
        codes = torch.randint(-128, 128, (2, tokens, 8)).to(torch.int8)
        residual = torch.randn(2, tokens, 16)
        run = torch.compile(function, fullgraph=True, dynamic=True)
        with torch.no_grad():
            assert torch.allclose(run(codes, residual), function(codes, residual))
    torch._dynamo.reset()
    _, code = compiled(function, codes, residual, dynamic=True)
    assert adds(code) == fuses


def read_twice(x: Tensor, residual: Tensor) -> Tensor:
    output = product(x)
    return (output + residual) * output


def broadcast(x: Tensor, residual: Tensor) -> Tensor:
    return product(x) + residual[:1]


def scaled(x: Tensor, residual: Tensor) -> Tensor:
    return torch.add(product(x), residual, alpha=2)


def doubled(x: Tensor, residual: Tensor) -> Tensor:
    output = product(x)
    return output + output


@pytest.mark.parametrize("function", [read_twice, broadcast, scaled, doubled])
def test_other_additions_stay(function: Any) -> None:
    residual = torch.randn(2, 6, 16)
    found, code = compiled(function, CODES, residual)
    assert torch.allclose(found, function(CODES, residual))
    assert not adds(code)


def test_where_a_graph_is_not_on_a_gpu_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_fusion, "DEVICES", ("cuda",))
    _, code = compiled(added, CODES, torch.randn(2, 6, 16))
    assert not adds(code)


def test_the_operators_add_before_they_round() -> None:
    residual = torch.randn(2, 6, 16).bfloat16()
    found = int_linear(CODES, WEIGHT, *TABLES, torch.bfloat16, residual)
    exact = reference.int_linear(CODES, WEIGHT, *TABLES, torch.float64) + residual.double()
    assert torch.equal(found, exact.float().bfloat16())
    operands = (CODES, WEIGHT, *TABLES, torch.float32, residual.float())
    torch.library.opcheck(torch.ops.dgq.int_linear.default, operands)
