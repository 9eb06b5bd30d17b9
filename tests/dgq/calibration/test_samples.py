"""Which samples of recorded prompts are learned on, which are held out, and how many at a time."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dgq.calibration.samples import Amount, Sampling, samples_of_prompts
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import SettingsError
from dgq.unet.call_rows import Call

TIMESTEPS = (901, 601, 601, 1)
N_PROMPTS, N_HELD_OUT = 5, 2


def calls_of(n_halves: int) -> UNetCalls:
    """Four calls of five prompts; latents say which: ten times the call, plus the prompt."""
    place = 10.0 * torch.arange(4)[:, None] + torch.arange(N_PROMPTS)
    latents = place[:, :, None, None, None].expand(-1, -1, 4, 2, 3)
    text = {"encoder_hidden_states": torch.randn(N_PROMPTS, n_halves, 7, 6)}
    return UNetCalls(latents, torch.tensor(TIMESTEPS), text)


def places(calls: Sequence[Call], n_halves: int) -> list[tuple[int, int]]:
    """Call and prompt of each sample."""
    rows = [int(x) for call in calls for x in call["sample"][::n_halves, 0, 0, 0]]
    return [divmod(row, 10) for row in rows]


@pytest.mark.parametrize("n_halves", [1, 2])
def test_the_last_prompts_are_held_out_and_never_learned_on(n_halves: int) -> None:
    sampling = Sampling(n_samples=8, n_held_out=4, micro_batch_size=3)
    found = samples_of_prompts(calls_of(n_halves), N_HELD_OUT, sampling)
    learned, held_out = (places(part, n_halves) for part in (found.micro_batches, found.held_out))
    assert sorted(call for call, _ in learned) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {prompt for _, prompt in learned} <= {0, 1, 2}
    assert len({*learned}) == 8
    assert sorted(call for call, _ in held_out) == [0, 1, 2, 3]
    assert {prompt for _, prompt in held_out} == {3, 4}
    sizes = [call["sample"].shape[0] for call in found.micro_batches]
    assert sizes == [3 * n_halves, 3 * n_halves, 2 * n_halves]
    assert found.amount == Amount(8, 4, n_halves)
    assert (found.latent_size, found.timesteps) == ((2, 3), (901, 601, 1))


def test_the_whole_unet_is_measured_on_all_calls_of_held_out_prompts() -> None:
    found = samples_of_prompts(calls_of(2), N_HELD_OUT, Sampling(micro_batch_size=3))
    assert len(places(found.micro_batches, 2)) == 4 * (N_PROMPTS - N_HELD_OUT), "all by default"
    assert {t: sorted(places(each, 2)) for t, each in found.by_step.items()} == {
        901: [(0, 3), (0, 4)],
        601: [(1, 3), (1, 4), (2, 3), (2, 4)],
        1: [(3, 3), (3, 4)],
    }
    for timestep, each in found.by_step.items():
        assert all((call["timestep"] == timestep).all() for call in each)
        assert all(call["sample"].shape[0] <= 6 for call in each)


@pytest.mark.parametrize(
    ("n_rows", "latent_size", "expected"),
    [
        (1, (64, 64), 4),
        (2, (64, 64), 2),
        (2, (64, 65), 1),
        (2, (8, 8), 32),
        (1, (16, 32), 32),
        (1, (16, 33), 31),
        (1, (512, 512), 1),
    ],
)
def test_a_micro_batch_has_as_many_samples_as_fit(
    n_rows: int, latent_size: tuple[int, int], expected: int
) -> None:
    assert Sampling().at_once(n_rows, latent_size) == expected
    assert Sampling(micro_batch_size=7).at_once(n_rows, latent_size) == 7


@pytest.mark.parametrize(
    "bad",
    [
        *({name: 0} for name in ("n_samples", "n_held_out", "batch_size", "micro_batch_size")),
        *({"seed": seed} for seed in (-1, 2**32, 1.0, True)),
    ],
    ids=str,
)
def test_amounts_are_positive_and_seeds_of_32_bits(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(bad))):
        Sampling(**bad)
