"""When a call goes on with the image of the call before, and when it begins a new one."""

import threading

import pytest
import torch
from torch import nn

from dgq.unet.calls import SamplerCalls
from dgq.unet.memory_of_calls import Memory

OWNER = nn.Identity()
LATENTS = torch.zeros(2, 4, 8, 8)


def remembering(*timesteps: float) -> SamplerCalls:
    return SamplerCalls(timesteps or (900.0, 500.0, 100.0), (8, 8), warns=False, remembers=True)


def call(
    calls: SamplerCalls, timestep: float | list[float], sample: torch.Tensor = LATENTS
) -> bool:
    """Make a call that leaves something; whether it found something of a call before."""
    before = calls.begin(sample, torch.tensor(timestep))
    memory = calls.memory
    assert memory is not None
    found = memory.sum_of(OWNER, torch.zeros(3)) is not None
    memory.keep_sum(OWNER, torch.ones(3))
    calls.end()
    calls.current = before
    return found


def test_an_image_goes_on_down_the_timesteps_and_ends_at_the_last() -> None:
    calls = remembering()
    assert [call(calls, t) for t in (900, 500, 500, 300, 100)] == [False, True, True, True, True]
    assert not call(calls, 100), "the image before had ended"


def test_a_higher_timestep_begins_a_new_image() -> None:
    calls = remembering()
    assert [call(calls, t) for t in (900, 500, 900, 500)] == [False, True, False, True]


def test_the_timestep_that_an_image_began_with_begins_the_next_one() -> None:
    """After an image of one step, and after one that was interrupted behind its first."""
    calls = remembering()
    assert [call(calls, t) for t in (900, 900, 500, 500, 900)] == [False, False, True, True, False]
    assert [call(calls, [900.0, 500.0]) for _ in range(2)] == [False, False]


@pytest.mark.parametrize("timestep", [500.0, [500.0, 500.0], [900.0, 100.0]])
def test_another_shape_begins_a_new_image(timestep: float | list[float]) -> None:
    calls = remembering()
    call(calls, 900)
    if isinstance(timestep, float):
        assert not call(calls, timestep, torch.zeros(1, 4, 8, 8))
    else:
        assert not call(calls, timestep), "one number for all samples, then one for each"


def test_samples_with_timesteps_of_their_own_must_all_go_down() -> None:
    calls = remembering()
    call(calls, [900.0, 500.0])
    assert call(calls, [500.0, 500.0])
    assert not call(calls, [100.0, 900.0])


def test_nothing_is_kept_of_a_call_that_failed() -> None:
    calls = remembering()
    call(calls, 900)
    before = calls.begin(LATENTS, torch.tensor(500))
    calls.current = before  # as after an error: ``end`` was not reached
    assert not call(calls, 500)


def test_threads_remember_apart() -> None:
    calls, found = remembering(), []
    call(calls, 900)
    thread = threading.Thread(target=lambda: found.append(call(calls, 500)))
    thread.start()
    thread.join()
    assert found == [False]
    assert call(calls, 500)


def test_a_model_that_does_not_remember_has_no_memory() -> None:
    calls = SamplerCalls((900.0, 100.0), (8, 8))
    calls.begin(LATENTS, torch.tensor(900))
    assert calls.memory is None


def test_a_tensor_of_another_shape_or_device_is_not_found() -> None:
    memory = Memory(torch.tensor([1.0]), (2, 4, 8, 8))
    memory.keep_sum(OWNER, torch.ones(3))
    assert memory.sum_of(OWNER, torch.zeros(4)) is None
    assert memory.sum_of(OWNER, torch.zeros(3, device="meta")) is None
    assert memory.sum_of(nn.Identity(), torch.zeros(3)) is None


def test_an_output_is_found_for_the_very_sum_it_was_made_of() -> None:
    memory, total = Memory(torch.tensor([1.0]), (2, 4, 8, 8)), torch.ones(3)
    memory.keep_output(OWNER, total, torch.zeros(2))
    assert memory.output_of(OWNER, total) is not None
    assert memory.output_of(OWNER, total.clone()) is None
    assert memory.output_of(nn.Identity(), total) is None
