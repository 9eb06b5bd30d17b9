"""The benchmark of products compares kernels that compute the same."""

import pytest

from benchmarks import products
from dgq.ops import cpu


@pytest.mark.skipif(not cpu.largest_weight_of_onednn(), reason="oneDNN has no exact products here")
def test_all_kernels_compute_the_same() -> None:
    assert min(products.compared(16, 24, 5, 3, 1)) > 0
    assert min(products.compared(16, 24, 5, 1, 1)) > 0


def test_a_number_of_calls_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert products.main(["--calls", "0"]) == 2
    assert "--calls must be" in capsys.readouterr().err
