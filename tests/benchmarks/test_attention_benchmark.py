"""The benchmark of attention compares two kernels that compute the same."""

import pytest

from benchmarks import attention


def test_both_kernels_are_as_exact_as_bfloat16() -> None:
    *milliseconds, torch_db, ours_db = map(float, attention.compared(64, 77, 40, 1))
    assert min(milliseconds) > 0
    assert torch_db == pytest.approx(ours_db, abs=1.5)
    assert ours_db > 45


def test_a_number_of_calls_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert attention.main(["--calls", "0"]) == 2
    assert "--calls must be" in capsys.readouterr().err
