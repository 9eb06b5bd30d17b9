"""A calibration in one process alone."""

import torch

from dgq.calibration.runtime import Runtime


def test_one_process_shares_with_nobody() -> None:
    x = torch.randn(3)
    for reduction in ("sum", "min", "max"):
        assert torch.equal(Runtime(torch.device("cpu")).reduce(x, reduction), x)  # type: ignore[arg-type]
