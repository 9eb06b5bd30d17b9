"""Ours: ranges that are observed, live, or of differences, in the same bits."""

import pytest

from dgq.errors import SettingsError
from dgq.recipes import Ours


@pytest.mark.parametrize("bits", [(8, 4), (4, 8), (4, 6), (4, 4)])
def test_ranges_change_the_grouping_alone(bits: tuple[int, int]) -> None:
    observed, live, residual = (
        Ours(*bits, ranges=ranges).quantization  # type: ignore[arg-type]
        for ranges in ("observed", "live", "residual")
    )
    assert observed.weights == live.weights == residual.weights
    found = [s.activations for s in (observed, live, residual)]
    assert [a.grouping for a in found] == ["multiples", "live", "residual"]
    assert len({a.max_exponent for a in found}) == 1
    assert not any(a.qkv for a in found)


def test_other_ranges_are_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match="ranges must be one of observed, live, residual"):
        Ours(ranges="guessed")  # type: ignore[arg-type]
