"""Recorded calls: their file, the pairs drawn from them, and the batches they make."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from dgq.calibration.unet_calls import UNetCalls, flatten, unflatten
from dgq.errors import DGQError
from dgq.storage.tensor_files import write_sealed_tensors

N_CALLS, N_PROMPTS = 4, 5


@pytest.fixture
def calls() -> UNetCalls:
    """Four calls, of which two at one timestep, of five prompts with guidance."""
    return UNetCalls(
        torch.randn(N_CALLS, N_PROMPTS, 4, 2, 3),
        torch.tensor([901, 601, 601, 1]),
        {
            "encoder_hidden_states": torch.randn(N_PROMPTS, 2, 7, 6),
            "added_cond_kwargs.time_ids": torch.randn(N_PROMPTS, 2, 6),
        },
    )


def test_a_saved_recording_comes_back(calls: UNetCalls, tmp_path: Path) -> None:
    calls.save(tmp_path / "calls.safetensors")
    loaded = UNetCalls.load(tmp_path / "calls.safetensors")
    assert torch.equal(loaded.latents, calls.latents)
    assert torch.equal(loaded.timesteps, calls.timesteps)
    assert loaded.conditioning.keys() == calls.conditioning.keys()
    for name, value in calls.conditioning.items():
        assert torch.equal(loaded.conditioning[name], value)


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    write_sealed_tensors(tmp_path / "other.safetensors", {"x": torch.ones(1)})
    with pytest.raises(DGQError, match=r"other\.safetensors does not hold recorded UNet calls"):
        UNetCalls.load(tmp_path / "other.safetensors")


def test_what_it_tells_of_itself(calls: UNetCalls) -> None:
    assert calls.distinct_timesteps == (901, 601, 1)
    assert calls.latent_size == (2, 3)
    assert calls.n_halves == 2


def test_all_pairs_by_default_each_once(calls: UNetCalls) -> None:
    pairs = [tuple(p) for p in calls.sample_pairs(None, 0).tolist()]
    assert sorted(pairs) == [(c, p) for c in range(N_CALLS) for p in range(N_PROMPTS)]


@pytest.mark.parametrize("n_pairs", [4, 8, 11, 20])
def test_pairs_are_even_over_the_calls_and_distinct(calls: UNetCalls, n_pairs: int) -> None:
    pairs = [tuple(p) for p in calls.sample_pairs(n_pairs, 0).tolist()]
    assert len(set(pairs)) == len(pairs)
    assert set(Counter(call for call, _ in pairs).values()) == {n_pairs // N_CALLS}
    assert pairs == [tuple(p) for p in calls.sample_pairs(n_pairs, 0).tolist()]
    assert pairs != [tuple(p) for p in calls.sample_pairs(n_pairs, 1).tolist()]


@pytest.mark.parametrize("n_pairs", [-4, 0, 3, 24])
def test_too_few_and_too_many_pairs_are_refused(calls: UNetCalls, n_pairs: int) -> None:
    with pytest.raises(DGQError, match=f"n_samples must be 4 .* to 20 .* got {n_pairs}"):
        calls.sample_pairs(n_pairs, 0)


def test_a_batch_holds_the_halves_of_each_pair_side_by_side(calls: UNetCalls) -> None:
    pairs = torch.tensor([[3, 1], [0, 4], [2, 2]])
    batch = calls.batch(pairs)
    for i, (call, prompt) in enumerate(pairs.tolist()):
        for half in range(2):
            row = 2 * i + half
            assert torch.equal(batch["sample"][row], calls.latents[call, prompt])
            assert batch["timestep"][row] == calls.timesteps[call]
            text = calls.conditioning["encoder_hidden_states"][prompt, half]
            assert torch.equal(batch["encoder_hidden_states"][row], text)
            time_ids = calls.conditioning["added_cond_kwargs.time_ids"][prompt, half]
            assert torch.equal(batch["added_cond_kwargs"]["time_ids"][row], time_ids)
    assert batch["return_dict"] is False


def test_flattening_keeps_tensors_only_and_is_undone() -> None:
    nested = {"a": torch.ones(1), "b": {"c": torch.zeros(2), "d": {"e": torch.ones(3)}}}
    flat = flatten(nested | {"f": None, "g": 3})
    assert list(flat) == ["a", "b.c", "b.d.e"]
    back = unflatten(flat)
    assert back["b"]["d"]["e"] is nested["b"]["d"]["e"]  # type: ignore[index]
    assert set(back) == {"a", "b"}
