"""Weights of several layers in common memory, unpacked at once."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu.unpacking import (
    GROUP_SIZE,
    check_unpacking,
    on,
    random_weight,
    unpacked,
    unpacked_together,
)
from dgq.ops import reference, triton
from dgq.ops.packed_together import can_be_together, together
from dgq.ops.packed_weight import PackedWeight
from tests.triton_kernels import DEVICE

layers = st.lists(
    st.tuples(
        st.integers(1, 20), st.sampled_from([1, 4, 9]), st.sampled_from([32, 64, 160]),
        st.booleans(), st.booleans(),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(layers=layers, seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_each_layer_is_unpacked_as_it_is_alone(
    layers: list[tuple[int, int, int, bool, bool]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [random_weight(*layer, generator) for layer in layers]
    packed = together([on(DEVICE, weight) for weight in weights], GROUP_SIZE)
    expected = torch.cat([unpacked(weight) for weight in weights])
    assert torch.equal(unpacked_together(packed).cpu(), expected)
    whole = reference.unpack_all(*packed)
    for (offset, part), weight in zip(packed.parts(), weights, strict=True):
        assert offset % 128 == 0
        n_bytes = 2 * part.codes.numel()
        assert torch.equal(whole[offset : offset + n_bytes].cpu(), unpacked(weight))
        for found, tensor in zip(part, weight, strict=True):
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(found.cpu(), tensor)
                assert found.data_ptr() % 16 == 0
            else:
                assert found == tensor


def test_groups_of_any_size_and_all_shifts() -> None:
    """Of codes so small that shifts may be large, in groups that end within words."""
    codes = torch.randint(0, 2, (20, 9, 32)).to(torch.uint8)
    codes |= torch.randint(0, 2, codes.shape).to(torch.uint8) << 4
    shift = torch.randint(0, 7, (20, -(-64 * 9 // 37))).to(torch.uint8)
    weight = PackedWeight(codes, torch.ones(20, dtype=torch.int8), None, shift, 37)
    assert can_be_together(weight, 64, 37)
    packed = together([on(DEVICE, weight)], 37)
    assert torch.equal(unpacked_together(packed).cpu(), unpacked(weight))


@pytest.mark.parametrize(
    ("taps", "channels", "shifts", "group_size", "suits"),
    [
        (1, 32, True, 64, True),
        (9, 320, True, 64, True),
        (9, 320, True, 32, False),  # three groups within a word
        (9, 320, True, 35, False),  # of another size than the others
        (25, 320, True, 64, False),
        (25, 320, False, 64, True),
        (9, 320, False, 0, True),
        (1, 48, True, 64, False),
        (1, 33, True, 64, False),
    ],
)
def test_what_the_kernel_unpacks(
    taps: int, channels: int, shifts: bool, group_size: int, suits: bool
) -> None:
    weight = PackedWeight(
        torch.zeros(4, taps, -(-channels // 2), dtype=torch.uint8),
        torch.zeros(4, dtype=torch.int8),
        None,
        torch.zeros(4, 9, dtype=torch.uint8) if shifts else None,
        group_size,
    )
    others = 32 if group_size == 32 else 64
    assert can_be_together(weight, channels, others) == suits


def test_the_operator_has_the_shape_of_its_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [random_weight(5, taps, 32, True, True, generator) for taps in (1, 9)]
    packed = [*together(weights, GROUP_SIZE)]
    torch.library.opcheck(torch.ops.dgq.unpack_all.default, tuple(packed))


def test_the_check_of_a_device_finds_a_wrong_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_unpacking(DEVICE, 32)["exact"]
    right = triton.unpack_all

    def wrong(*arguments: Any) -> torch.Tensor:
        output = right(*arguments)
        output[17] += 1
        return output

    monkeypatch.setattr(triton, "unpack_all", wrong)
    found = check_unpacking(DEVICE, 32)
    assert set(found["tiles"].values()) == {"WRONG"}
