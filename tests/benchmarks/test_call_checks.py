"""The benchmark of what torch checks before a call: it computes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.call_checks import compiled, main, milliseconds


class Doubled(nn.Module):
    """Twice its input, unless it is compiled."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return 2 * x


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_compiled_module_computes_nothing(by_torch: bool) -> None:
    torch._dynamo.reset()
    run: Any = compiled(Doubled(), by_torch)
    call: Any = {"x": torch.ones(3)}
    assert len(milliseconds(run, call, 4)) == 4
    assert torch.equal(run(**call), torch.zeros(3))
    torch._dynamo.reset()


def test_a_number_of_rounds_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "0"]) == 2
    assert "--rounds must be" in capsys.readouterr().err
