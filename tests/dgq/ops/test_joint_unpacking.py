"""Weights that a compiled graph unpacks together."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from dgq.ops import joint_unpacking, reference, unpack

pytestmark = pytest.mark.filterwarnings("ignore:dynamo_pgo")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Join on this machine too, and compile anew."""
    monkeypatch.setattr(joint_unpacking, "DEVICES", ("cpu",))
    joint_unpacking.register()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def weight(out: int, taps: int, channels: int, shifts: bool = True) -> tuple[Any, ...]:
    """The operands of ``unpack``."""
    groups = -(-channels * taps // 64)
    shift = torch.randint(0, 2, (out, groups)).to(torch.uint8) if shifts else None
    return (
        torch.randint(0, 256, (out, taps, -(-channels // 2))).to(torch.uint8),
        torch.randint(0, 16, (out,)).to(torch.int8),
        torch.randint(1, 4, (channels,)).to(torch.int8),
        *(shift, 64 if shifts else 0, channels),
    )


def found(weights: list[tuple[Any, ...]], x: Tensor) -> tuple[list[Tensor], str]:
    """What a compiled function that unpacks and multiplies computes, and its code."""

    def run(x: Tensor) -> list[Tensor]:
        return [x[: one[5]] * unpack(*one).float() for one in weights]

    compiled = torch.compile(run, fullgraph=True)
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        outputs, codes = run_and_get_code(compiled, x)
    expected = run(x)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    return outputs, "".join(codes)


def launches(code: str) -> tuple[int, int]:
    """Of operators that unpack many, and one."""
    return code.count("= torch.ops.dgq.unpack_all."), code.count("= torch.ops.dgq.unpack.")


def test_all_are_unpacked_together() -> None:
    weights = [weight(8, 1, 64), weight(4, 9, 32), weight(16, 1, 128)]
    _, code = found(weights, torch.randn(128))
    assert launches(code) == (1, 0)


def test_no_more_than_fit_into_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_unpacking, "MOST_BYTES", 3 * 64 * 8)
    _, code = found([weight(8, 1, 64) for _ in range(5)], torch.randn(64))
    assert launches(code) == (2, 0)


def test_a_weight_larger_than_that_is_unpacked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_unpacking, "MOST_BYTES", 1)
    _, code = found([weight(8, 1, 64), weight(8, 1, 64)], torch.randn(64))
    assert launches(code) == (2, 0)


def test_kinds_are_kept_apart_and_narrow_ones_alone() -> None:
    weights = [weight(8, 1, 64), weight(8, 1, 64, shifts=False), weight(8, 1, 30), weight(4, 1, 64)]
    _, code = found(weights, torch.randn(64))
    assert launches(code) == (2, 1)


def test_a_weight_that_the_graph_computes_is_left_alone() -> None:
    codes, *rest = weight(8, 1, 64)

    def run(codes: Tensor) -> Tensor:
        output: Tensor = unpack(codes + 1, *rest)
        return output * 2

    compiled = torch.compile(run, fullgraph=True)
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        output, written = run_and_get_code(compiled, codes)
    assert torch.equal(output, run(codes))
    assert launches("".join(written)) == (0, 1)


def test_the_reference_puts_weights_one_after_the_other() -> None:
    first, second = weight(3, 9, 32), weight(5, 1, 64)
    columns = [list(column) for column in zip(first, second, strict=True)]
    flat = reference.unpack_all(*columns[:4], 64, columns[5])
    assert torch.equal(flat[: 3 * 9 * 32].view(3, 9, 32), reference.unpack(*first))
    assert torch.equal(flat[3 * 9 * 32 :].view(5, 1, 64), reference.unpack(*second))
