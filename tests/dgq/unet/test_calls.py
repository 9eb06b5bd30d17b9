"""The step of a call."""

import warnings
from typing import Any

import pytest
import torch

from dgq.unet.calls import SamplerCalls

KNOWN = (981.0, 501.0, 21.0)


def calls() -> SamplerCalls:
    return SamplerCalls(KNOWN, (8, 8))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_calibrated_timesteps_are_found_exactly_and_without_a_warning(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = calls().step_of(torch.tensor([21, 981, 501, 21], dtype=dtype))
    assert steps.tolist() == [2, 0, 1, 2]


def test_other_timesteps_use_the_nearest_and_warn_once() -> None:
    shared = calls()
    with pytest.warns(UserWarning, match="nearest calibrated timestep"):
        first = shared.step_of(torch.tensor(760))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = shared.step_of(torch.tensor([1, 300]))
    assert first.tolist() + second.tolist() == [0, 2, 1]


@pytest.mark.parametrize("timestep", [501, 501.0, torch.tensor(501), torch.tensor([501, 501])])
def test_a_call_tells_step_and_size(timestep: Any) -> None:
    shared, sample = calls(), torch.zeros(2, 4, 6, 10)
    assert shared.begin(sample, timestep) is None
    assert set(shared.step.tolist()) == {1}
    assert shared.current_size == (6, 10)
