"""The DataModule: the cache of recorded calls, and rows as a function of seed and target."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.storage.checkpoint import GenerationSettings
from dgq.storage.locks import locked

GENERATION = GenerationSettings(2, 3.0)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Twelve captions."""
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(f"caption number {i}" for i in range(12)))
    return path


def module(folder: Path, captions: Path | None, cache: Path, **changes: Any) -> CalibrationData:
    settings: dict[str, Any] = {
        "pipeline": str(folder),
        "generation": GENERATION,
        "captions": captions,
        "n_prompts": 4,
        "cache": cache,
        "micro_batch_size": 5,
        "batch_size": 6,
    }
    return CalibrationData(**settings | changes)


@pytest.fixture
def ready(micro_folder: Path, captions: Path, tmp_path: Path) -> CalibrationData:
    """A module with recorded calls."""
    data = module(micro_folder, captions, tmp_path / "cache")
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_recording_is_made_once(
    ready: CalibrationData, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = module(Path(ready.pipeline), captions, ready.cache)
    assert again.recording == ready.recording
    assert [p.name for p in ready.cache.iterdir()] == [ready.recording.name]
    monkeypatch.setattr("data.calibration.record_into", lambda *_: pytest.fail("recorded again"))
    again.prepare_data()


def test_what_a_process_killed_while_recording_left_is_removed(ready: CalibrationData) -> None:
    lock = ready.cache / f".{ready.recording.name}.lock"
    partial = ready.cache / f".{ready.recording.name}.elsewhere-1-abcd.partial"
    part = ready.cache / f"{ready.recording.name}.part-0"
    for left in (lock, partial, part):
        left.write_text("")
    ready.prepare_data()
    assert list(ready.cache.iterdir()) == [ready.recording]


def test_one_process_records_and_another_waits_for_it(
    micro_folder: Path, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(micro_folder, captions, tmp_path / "cache")
    data.cache.mkdir()
    said = Event()
    monkeypatch.setattr("data.calibration.say", lambda _: said.set())
    monkeypatch.setattr("data.calibration.record_into", lambda *_: pytest.fail("recorded again"))
    with ThreadPoolExecutor(1) as pool:
        with locked(data.recording, wait=False):
            waiting = pool.submit(data.prepare_data)
            assert said.wait(60)
            data.recording.write_text("recorded")
        waiting.result()
    assert data.recording.read_text() == "recorded"


def test_what_was_left_half_recorded_is_recorded_anew(
    micro_folder: Path, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(micro_folder, captions, tmp_path / "cache")
    data.cache.mkdir()
    (data.cache / f".{data.recording.name}.elsewhere-1-abcd.partial").write_text("half")
    monkeypatch.setattr(
        "data.calibration.record_into", lambda file, *_: file.write_text("recorded")
    )
    data.prepare_data()
    assert list(data.cache.iterdir()) == [data.recording]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"n_prompts": 5},
        {"generation": GenerationSettings(3, 3.0)},
        {"generation": GenerationSettings(2, 4.0)},
        {"generation": GenerationSettings(2, 3.0, 32, 32)},
    ],
)
def test_what_determines_the_calls_names_the_file(
    micro_folder: Path, captions: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = module(micro_folder, captions, tmp_path)
    assert module(micro_folder, captions, tmp_path, **changes).recording != base.recording


def test_other_captions_name_another_file(
    micro_folder: Path, captions: Path, tmp_path: Path
) -> None:
    ours, scenes = (module(micro_folder, c, tmp_path).recording for c in (captions, None))
    assert ours != scenes


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"micro_batch_size": 2}, {"n_samples": 3}])
def test_what_does_not_determine_the_calls_leaves_the_file(
    micro_folder: Path, captions: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    base = module(micro_folder, captions, tmp_path)
    changed = module(micro_folder, captions, tmp_path, **changes)
    assert changed.recording == base.recording
    assert changed.identity != base.identity


def test_another_pipeline_in_the_same_folder_is_recorded_anew(
    micro_folder: Path, captions: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "pipeline"))
    before = module(folder, captions, tmp_path).recording
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert module(folder, captions, tmp_path).recording != before


def test_micro_batches_hold_all_pairs_with_both_halves(ready: CalibrationData) -> None:
    sizes = [batch["sample"].shape[0] for batch in ready.micro_batches]
    n_calls = 3  # PNDM makes one more than there are steps
    assert sum(sizes) == n_calls * 4 * 2
    assert sizes[:-1] == [10] * (len(sizes) - 1)


def trainer(epoch: int = 0, world_size: int = 1, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(current_epoch=epoch, world_size=world_size, global_rank=rank)


def test_processes_share_the_micro_batches_of_one_process(
    ready: CalibrationData, micro_folder: Path, captions: Path
) -> None:
    shares = []
    for rank in range(2):
        data = module(micro_folder, captions, ready.cache)
        data.trainer = trainer(0, 2, rank)  # type: ignore[assignment]
        data.setup("fit")
        shares.append(data)
    for name in ("micro_batches", "held_out"):
        whole = [batch["sample"] for batch in getattr(ready, name)]
        parts = [[batch["sample"] for batch in getattr(share, name)] for share in shares]
        assert len(whole) == len(parts[0]) + len(parts[1])
        for index, sample in enumerate(whole):
            assert torch.equal(sample, parts[index % 2][index // 2])
    first, second = (next(iter(share.train_dataloader())) for share in shares)
    assert len(first) == len(second) == 3  # half of the batch each
    assert first.tolist() != second.tolist()


def test_every_process_measures_some_held_out_samples(
    ready: CalibrationData, micro_folder: Path, captions: Path
) -> None:
    sizes = []
    for rank in range(2):
        data = module(micro_folder, captions, ready.cache, n_held_out=4)
        data.trainer = trainer(0, 2, rank)  # type: ignore[assignment]
        data.setup("fit")
        sizes.append([batch["sample"].shape[0] for batch in data.held_out])
    assert sizes == [[4], [4]]  # two pairs each, though one micro-batch would hold all four


def test_more_processes_than_micro_batches_and_uneven_batches_are_refused(
    ready: CalibrationData, micro_folder: Path, captions: Path
) -> None:
    ready.check_processes(3)
    ready.trainer = trainer(0, 4, 0)  # type: ignore[assignment]
    with pytest.raises(DGQError, match="4 processes cannot share 3 micro-batches"):
        ready.setup("fit")
    with pytest.raises(DGQError, match="multiple of the 2 processes"):
        module(micro_folder, captions, ready.cache, batch_size=5).check_processes(2)


def test_held_out_samples_are_of_prompts_that_nothing_is_learned_on(ready: CalibrationData) -> None:
    calls = ready.calls
    learned = {p for _, p in calls.sample_pairs(None, 0, ready.n_prompts).tolist()}
    held_out = calls.held_out_pairs(5, 4).tolist()
    assert len({tuple(pair) for pair in held_out}) == 5
    assert not learned & {prompt for _, prompt in held_out}
    assert {call for call, _ in held_out} == set(range(3))


def first_batches(data: CalibrationData, epoch: int, n: int) -> list[list[int]]:
    data.trainer = trainer(epoch)  # type: ignore[assignment]
    return [rows.tolist() for rows in islice(data.train_dataloader(), n)]


def test_rows_are_a_function_of_seed_and_target(
    ready: CalibrationData, micro_folder: Path, captions: Path
) -> None:
    twin = module(micro_folder, captions, ready.cache)
    twin.setup("fit")
    torch.manual_seed(12345)  # the global generator has no part in it
    assert first_batches(ready, 3, 9) == first_batches(twin, 3, 9)
    assert first_batches(ready, 3, 9) != first_batches(ready, 4, 9)
    ready.seed = 1
    assert first_batches(ready, 3, 9) != first_batches(twin, 3, 9)


def test_every_row_is_visited_before_any_is_visited_again(ready: CalibrationData) -> None:
    batches = first_batches(ready, 0, 8)
    assert all(len(batch) == 6 for batch in batches)
    for visited in (batches[:4], batches[4:]):
        assert sorted(row for batch in visited for row in batch) == list(range(24))


@pytest.mark.parametrize(
    "name", ["n_prompts", "n_held_out", "batch_size", "micro_batch_size", "record_batch_size"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused_before_anything_is_done(
    micro_folder: Path, captions: Path, tmp_path: Path, name: str, value: int
) -> None:
    with pytest.raises(DGQError, match=rf"data\.{name} must be a whole number of at least 1"):
        module(micro_folder, captions, tmp_path / "cache", **{name: value})
    assert not (tmp_path / "cache").exists()


def test_no_samples_are_refused_before_anything_is_recorded(
    micro_folder: Path, captions: Path, tmp_path: Path
) -> None:
    with pytest.raises(DGQError, match="n_samples"):
        module(micro_folder, captions, tmp_path / "cache", n_samples=0)


def test_a_damaged_recording_is_refused_by_name(ready: CalibrationData) -> None:
    ready.recording.write_bytes(ready.recording.read_bytes()[:-9])
    with pytest.raises(DGQError, match=f"{ready.recording.name} is damaged"):
        ready.setup("fit")


def test_a_model_without_captions_of_its_own_is_told_what_it_gets(
    micro_folder: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, given in ((micro_folder, captions), (Path("scenes"), None)):
        module(source, given, tmp_path)
        assert capsys.readouterr().out == ""
    module(micro_folder, None, tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no --data.captions: calibrating on captions of the embedded scenes")


@pytest.mark.parametrize(("n_samples", "possible"), [(1, 3), (416, 12)])
def test_a_number_of_samples_that_is_possible_is_named(
    micro_folder: Path, captions: Path, tmp_path: Path, n_samples: int, possible: int
) -> None:
    with pytest.raises(DGQError, match=rf"give --data\.n_samples {possible}, or null"):
        module(micro_folder, captions, tmp_path, n_samples=n_samples)
    assert module(micro_folder, captions, tmp_path, n_samples=possible).n_pairs == possible
