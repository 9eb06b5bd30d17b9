"""A recording that was interrupted goes on where it was."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from data import resumable_recording
from data.resumable_recording import load_parts, part_of, record_into
from dgq.calibration.recording import record_batches
from dgq.calibration.unet_calls import UNetCalls
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings

PROMPTS = [f"caption number {n}" for n in range(7)]
Record = Callable[..., Path]


@pytest.fixture(scope="module")
def pipeline(micro_folder: Path) -> DiffusionPipeline:
    return load_pipeline(str(micro_folder))


@pytest.fixture
def record(pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Records all prompts, or ends after some batches as Ctrl-C does."""

    def record(name: str, n_batches: int | None = None, batch_size: int = 2) -> Path:
        def some(*args: Any) -> Iterator[UNetCalls]:
            yield from islice(record_batches(*args, progress=False), n_batches)
            if n_batches is not None:
                raise KeyboardInterrupt

        monkeypatch.setattr(resumable_recording, "record_batches", some)
        path = tmp_path / name / "calls.safetensors"
        record_into(path, pipeline, PROMPTS, GenerationSettings(2, 3.0), 5, batch_size)
        return path

    return record


@pytest.fixture
def interrupted(record: Record, tmp_path: Path) -> Path:
    """A recording of which two batches were drawn."""
    with pytest.raises(KeyboardInterrupt):
        record("resumed", n_batches=2)
    return tmp_path / "resumed" / "calls.safetensors"


def test_it_goes_on_bit_identically(
    record: Record, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [part.n_prompts for part in load_parts(interrupted)] == [2, 2]
    with pytest.raises(KeyboardInterrupt):
        record("resumed", n_batches=1)
    assert [part.n_prompts for part in load_parts(interrupted)] == [2, 2, 2]
    assert record("resumed").read_bytes() == record("whole").read_bytes()
    assert list(interrupted.parent.iterdir()) == [interrupted]
    assert capsys.readouterr().out.splitlines() == [
        "4 of 7 prompts are recorded already",
        "6 of 7 prompts are recorded already",
    ]


def test_a_part_that_is_damaged_is_recorded_again(record: Record, interrupted: Path) -> None:
    part_of(interrupted, 0).write_bytes(part_of(interrupted, 0).read_bytes()[:-1])
    assert load_parts(interrupted) == []
    assert record("resumed").read_bytes() == record("whole").read_bytes()
    assert list(interrupted.parent.iterdir()) == [interrupted]


def test_it_goes_on_in_batches_of_another_size(record: Record, interrupted: Path) -> None:
    resumed = UNetCalls.load(record("resumed", batch_size=3))
    whole = UNetCalls.load(record("whole"))
    assert resumed.latents.shape == whole.latents.shape
    torch.testing.assert_close(resumed.latents, whole.latents)
