"""Calls that a user recorded are split into samples, and combined again."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgq.calibration.given_calls import checked, samples_in, split_call, timestep_of
from dgq.calibration.held_out_calls import evenly, n_held_out, of_timesteps, samples_of_calls
from dgq.calibration.samples import Sampling
from dgq.errors import DGQError
from dgq.unet.call_rows import combined
from tests.tiny_pipelines import micro_unet, unet_call

UNET = micro_unet()


def a_call(rows: int, shares: int, timestep: float = 5.0, seed: int = 0) -> dict[str, Any]:
    """A call of ``rows * shares`` rows, whose latents are the same in each share."""
    call = unet_call(UNET, rows * shares, timestep, seed=seed)
    call["sample"] = call["sample"][:rows].repeat(shares, 1, 1, 1)
    return call


@given(st.integers(1, 5), st.integers(1, 3))
def test_a_call_that_was_taken_apart_is_put_together_again(rows: int, shares: int) -> None:
    call = a_call(rows, shares)
    samples = split_call(checked(UNET, call, "call"))
    assert len(samples) == rows
    whole = combined(samples)
    for name in ("sample", "timestep", "encoder_hidden_states"):
        wanted = call[name].unflatten(0, (shares, rows)).transpose(0, 1).flatten(0, 1)
        assert torch.equal(whole[name], wanted)
    assert whole["return_dict"] is False


@torch.no_grad()
def test_positional_arguments_nested_ones_and_half_precision_are_read() -> None:
    call = a_call(2, 1)
    text = call["encoder_hidden_states"]
    ways = [
        call | {"cross_attention_kwargs": None, "timestep": 5},
        ((call["sample"], torch.tensor(5), text), {"return_dict": True}),
        [[call["sample"], 5.0], {"encoder_hidden_states": text}],
    ]
    expected = UNET(**call)[0]
    for way in ways:
        found = combined(samples_in(UNET, [way]))
        assert torch.equal(UNET(**found)[0], expected)
    half = combined(samples_in(UNET, [call | {"sample": call["sample"].half()}]))
    assert half["sample"].dtype == torch.float32
    nested = call | {
        "added_cond_kwargs": {"image_embeds": [torch.ones(2, 3), torch.zeros(1, 3)]},
        "mid_block_additional_residual": torch.ones(2, 16, 4, 4),
    }
    samples = samples_in(UNET, [nested])
    assert len(samples) == 2
    whole = combined(samples)
    assert [t.tolist() for t in whole["added_cond_kwargs"]["image_embeds"]] == [
        [[1.0] * 3] * 2,
        [[0.0] * 3] * 2,
    ]
    assert whole["mid_block_additional_residual"].shape == (2, 16, 4, 4)


def test_rows_that_share_latents_have_one_timestep() -> None:
    call = a_call(1, 2) | {"timestep": torch.tensor([5.0, 4.0])}
    with pytest.raises(DGQError, match="different timesteps"):
        timestep_of(samples_in(UNET, [call])[0])


@given(st.integers(2, 40))
def test_an_eighth_is_held_out_and_one_at_least(n: int) -> None:
    assert n_held_out([{}] * n) == max(1, n // 8)
    assert n_held_out([{}]) == 0


def test_samples_are_even_over_the_timesteps_and_each_is_used_once() -> None:
    calls = [a_call(5, 2, t, seed) for seed, t in enumerate((9.0, 5.0, 1.0, 9.0))]
    samples = samples_in(UNET, calls)
    found = samples_of_calls(samples, None, Sampling(n_held_out=2))
    assert found.timesteps == (9.0, 5.0, 1.0)
    assert found.latent_size == (8, 8)
    assert (found.n_samples, found.n_held_out) == (20 - 3, 2)
    groups = of_timesteps(samples)
    chosen = evenly(groups, 8, 0)
    assert sorted(timestep_of(s) for s in chosen) == [1.0, 1.0, 5.0, 5.0, 9.0, 9.0]
    assert len({id(s) for s in chosen}) == 6
    assert [id(s) for s in chosen] == [id(s) for s in evenly(groups, 8, 0)]
    assert [id(s) for s in chosen] != [id(s) for s in evenly(groups, 8, 1)]


@pytest.mark.parametrize("n", [2, 21])
def test_too_few_and_too_many_samples_are_refused(n: int) -> None:
    samples = samples_in(UNET, [a_call(5, 1, t) for t in (9.0, 5.0, 1.0)])
    with pytest.raises(DGQError, match=f"n_samples must be 3 .* to 12 .* got {n}"):
        samples_of_calls(samples, None, Sampling(n_samples=n))
