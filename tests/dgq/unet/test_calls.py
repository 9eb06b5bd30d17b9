"""The step of a call."""

import warnings
from typing import Any

import pytest
import torch

from dgq.unet.calls import OUTSIDE, SamplerCalls

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


def test_outside_of_a_call_the_first_step_is_used_with_one_warning_if_there_are_more() -> None:
    several, one = calls(), SamplerCalls((999.0,), (8, 8))
    with pytest.warns(UserWarning, match=OUTSIDE[:40]):
        assert several.step.tolist() == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert several.step.tolist() == one.step.tolist() == [0]
    assert several.current_size == (8, 8)


def test_a_nan_marks_its_sample_or_all_where_rows_are_no_samples() -> None:
    shared = calls()
    with shared.noting(torch.zeros(3, 2)) as spoilt:
        assert spoilt is None, "outside of a call nothing is marked"
    shared.begin(torch.zeros(2, 4, 8, 8), 501)
    with shared.noting(torch.zeros(6, 5)) as spoilt:
        assert spoilt is not None
        assert spoilt.tolist() == [0] * 6
    assert shared.current is not None
    assert shared.current.spoilt is not None
    assert shared.current.spoilt.tolist() == [0, 0]
    with shared.noting(torch.zeros(2, 5)) as spoilt:
        assert spoilt is not None
        spoilt[1] = torch.nan
    assert shared.current.spoilt.isnan().tolist() == [False, True]
    with shared.noting(torch.zeros(6, 5)) as spoilt:
        assert spoilt is not None
        spoilt[0] = torch.nan
    assert shared.current.spoilt.isnan().all()


def test_a_part_of_the_batch_has_its_own_steps_for_a_while() -> None:
    shared = calls()
    with shared.narrowed(slice(0, 1)):
        assert shared.current is None
    shared.begin(torch.zeros(3, 4, 8, 8), torch.tensor([21.0, 981.0, 501.0]))
    with shared.narrowed(slice(1, None)):
        assert shared.step.tolist() == [0, 1]
    assert shared.step.tolist() == [2, 0, 1]
    shared.begin(torch.zeros(3, 4, 8, 8), 21)
    with shared.narrowed(slice(1, None)):
        assert shared.step.tolist() == [2], "one step of all samples is that of any"
