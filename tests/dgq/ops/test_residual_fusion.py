"""Residuals that a compiled graph's products add."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from dgq.ops import int_linear, reference, residual_fusion

pytestmark = pytest.mark.filterwarnings("ignore:dynamo_pgo")
TABLES = (torch.ones(16), torch.ones(1), torch.randn(1, 16), torch.zeros(1).long())
CODES = torch.randint(-128, 128, (2, 6, 8)).to(torch.int8)
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


def compiled(function: Any, *operands: Tensor) -> tuple[Tensor, str]:
    """What the compiled function computes, and its code."""
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        found, codes = run_and_get_code(torch.compile(function, fullgraph=True), *operands)
    return found, "".join(codes)


def adds(code: str) -> bool:
    """Whether a product in the code is given a residual."""
    calls = [line for line in code.splitlines() if "dgq.int_linear.default(" in line]
    assert calls
    return any("residual=None" not in line for line in calls)


def added(x: Tensor, residual: Tensor) -> Tensor:
    return residual + product(x)


def added_first(x: Tensor, residual: Tensor) -> Tensor:
    return product(x) + residual


def viewed(x: Tensor, residual: Tensor) -> Tensor:
    image = product(x).reshape(2, 2, 3, 16).permute(0, 3, 1, 2).contiguous()
    return image + residual.reshape(2, 3, 2, 16).permute(0, 3, 2, 1)


def of_two(x: Tensor, residual: Tensor) -> Tensor:
    return product(x) + product(x + 1) * residual


@pytest.mark.parametrize("function", [added, added_first, viewed, of_two])
def test_the_product_adds_it(function: Any) -> None:
    residual = torch.randn(2, 6, 16)
    found, code = compiled(function, CODES, residual)
    assert torch.equal(found, function(CODES, residual))
    assert adds(code)


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
