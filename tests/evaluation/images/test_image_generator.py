"""Drawing goes on where it stopped, in one process or two, and writes nothing wrong."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.storage.checkpoint import GenerationSettings
from evaluation.images import image_generator, processes
from evaluation.images.files import read_image, to_tensor
from evaluation.images.image_generator import Batch, ImageGenerator, plan_batches
from evaluation.images.image_set import ImageSet
from evaluation.images.processes import WorkerSetup, draw_in_processes
from evaluation.images.store import ImageStore
from tests.children import CONTEXT

PROMPTS = ["a red circle", "a large blue square", "two stars", "a bar", "a green cross"]


def make_sets(folder: Path) -> list[ImageSet]:
    """Full precision, two calls recorded, and a second model."""
    sets = []
    for model, name in enumerate(("full", "other")):
        store = ImageStore(folder, name, {"model": model}, PROMPTS)
        store.open_()
        sets.append(ImageSet(model, name, store, 5, n_recorded=2 if model == 0 else 0))
    return sets


@pytest.fixture
def draw(
    pipeline: DiffusionPipeline, generation: GenerationSettings
) -> Callable[[list[ImageSet], int], list[Batch]]:
    """Draw all that is missing in this process; returns the batches that were drawn."""

    def call(sets: list[ImageSet], batch_size: int = 2) -> list[Batch]:
        batches = plan_batches(sets, batch_size)
        with ImageGenerator(pipeline, lambda _: pipeline.unet, sets, generation) as generator:
            for batch in batches:
                generator.draw(batch)
        return batches

    return call


def contents(each: ImageSet) -> list[bytes]:
    return [path.read_bytes() for path in each.store.paths]


def test_all_images_and_trajectories_are_drawn_once(
    draw: Callable[..., list[Batch]], tmp_path: Path
) -> None:
    sets = make_sets(tmp_path)
    batches = draw(sets)
    counts = Counter((batch.image_set, index) for batch in batches for index in batch.missing)
    assert counts == Counter({(each, index): 1 for each in (0, 1) for index in range(5)})
    assert [each.missing() for each in sets] == [[], []]
    assert not sets[0].store.trajectory_path(2).exists()
    assert draw(sets) == []


def test_a_continued_run_writes_the_same_bytes(
    draw: Callable[..., list[Batch]], tmp_path: Path
) -> None:
    sets = make_sets(tmp_path)
    draw(sets)
    expected, store = contents(sets[0]), sets[0].store
    store.path(2).unlink()
    store.path(3).write_bytes(expected[3][: len(expected[3]) // 2])
    store.path(4).write_bytes(b"")
    store.trajectory_path(1).unlink()
    before = store.path(0).stat().st_mtime_ns
    assert sets[0].missing() == [1, 2, 3, 4]
    draw(sets)
    assert store.path(0).stat().st_mtime_ns == before
    assert contents(sets[0]) == expected


def test_interrupted_drawing_leaves_whole_images_only(
    pipeline: DiffusionPipeline, generation: GenerationSettings, tmp_path: Path
) -> None:
    sets = make_sets(tmp_path)
    batches = plan_batches(sets, 2)

    def interrupted() -> None:
        with ImageGenerator(pipeline, lambda _: pipeline.unet, sets, generation) as generator:
            for batch in batches[:2]:
                generator.draw(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(sets[0].store.folder.rglob(".*"))
    assert set(sets[0].missing()) >= {4}
    for index in set(range(5)) - set(sets[0].missing()):
        read_image(sets[0].store.path(index))


def test_an_image_that_is_not_finite_is_an_error_and_never_saved(
    draw: Callable[..., list[Batch]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Tensor:
        pixels = torch.rand(len(arguments[2]), 3, 8, 8)
        if 3 in arguments[2]:
            pixels[list(arguments[2]).index(3), 1, 2, 3] = float("nan")
        return pixels

    monkeypatch.setattr(image_generator, "sample", broken)
    sets = make_sets(tmp_path)[1:]
    with pytest.raises(DGQError, match=r"other: image 3 \('a bar', seed 5\) is not finite"):
        draw(sets)
    assert not sets[0].store.path(3).exists()


def test_a_full_disk_is_an_error_at_once(
    draw: Callable[..., list[Batch]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("evaluation.images.store.save_image", full)
    sets = make_sets(tmp_path)
    with pytest.raises(OSError, match="No space left on device"):
        draw(sets)
    assert sets[1].missing() == list(range(5))


@pytest.fixture
def setup(
    pipeline_folder: Path, generation: GenerationSettings, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., WorkerSetup]:
    """What processes need; they are forked here, since to spawn one takes ten seconds."""
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda _: CONTEXT)

    def make(
        sets: list[ImageSet], ckpt: Path | None = None, source: Path = pipeline_folder
    ) -> WorkerSetup:
        return WorkerSetup(str(source), (None, ckpt), tuple(sets), generation, threads=1)

    return make


def test_two_processes_draw_each_image_once_and_the_same(
    draw: Callable[..., list[Batch]], setup: Callable[..., WorkerSetup], tmp_path: Path
) -> None:
    alone, together = make_sets(tmp_path / "alone"), make_sets(tmp_path / "together")
    draw(alone, 3)
    done: list[Batch] = []
    batches = plan_batches(together, 2)
    draw_in_processes(setup(together), ["cpu", "cpu"], batches, done.append)
    counts = Counter((batch.image_set, index) for batch in done for index in batch.missing)
    assert counts == Counter({(each, index): 1 for each in (0, 1) for index in range(5)})
    assert [each.missing() for each in together] == [[], []]
    for a, b in zip(alone, together, strict=True):
        one, two = (to_tensor([read_image(p) for p in each.store.paths]) for each in (a, b))
        torch.testing.assert_close(one, two, atol=1.01 / 255, rtol=0)


def test_what_goes_wrong_in_a_process_is_said_here(
    setup: Callable[..., WorkerSetup], tmp_path: Path
) -> None:
    sets = make_sets(tmp_path)
    missing = setup(sets, source=tmp_path)
    with pytest.raises(DGQError, match="is not a pipeline"):
        draw_in_processes(missing, ["cpu"], plan_batches(sets, 2), lambda _: None)


def test_a_process_that_dies_is_noticed(
    setup: Callable[..., WorkerSetup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_work", die)
    sets = make_sets(tmp_path)
    with pytest.raises(DGQError, match=r"ended with code -9 .*finished images are kept"):
        draw_in_processes(setup(sets), ["cpu"], plan_batches(sets, 2), lambda _: None)


def die(*_: Any) -> None:
    """What the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), 9)


def test_an_image_has_its_row_in_a_whole_batch_whatever_is_missing(
    draw: Callable[..., list[Batch]], tmp_path: Path
) -> None:
    sets = make_sets(tmp_path)
    batches = draw(sets, 4)
    assert [b.indices for b in batches] == [(0, 1, 2, 3), (4, 4, 4, 4)] * 2
    assert [b.missing for b in batches] == [(0, 1, 2, 3), (4,)] * 2
    sets[0].store.path(2).unlink()
    sets[0].store.path(4).unlink()
    assert plan_batches(sets, 4) == [
        Batch(0, (0, 1, 2, 3), (2,)),
        Batch(0, (4, 4, 4, 4), (4,)),
    ]


def test_no_bit_of_an_image_depends_on_what_is_drawn_beside_it(
    draw: Callable[..., list[Batch]],
    setup: Callable[..., WorkerSetup],
    pipeline: DiffusionPipeline,
    generation: GenerationSettings,
    tmp_path: Path,
) -> None:
    """Drawn with fewer prompts, with others missing, in another process: the same bytes."""
    whole, fewer, parts, elsewhere = (make_sets(tmp_path / name) for name in "abcd")
    draw(whole, 2)
    fewer[1].store.prompts = PROMPTS[:3]
    draw(fewer[1:], 2)
    with ImageGenerator(pipeline, lambda _: pipeline.unet, parts, generation) as generator:
        for index, rows in ((3, (2, 3)), (0, (0, 1)), (4, (4, 4))):
            generator.draw(Batch(1, rows, (index,)))
    draw_in_processes(setup(elsewhere), ["cpu"], plan_batches(elsewhere, 2), lambda _: None)
    expected = contents(whole[1])
    assert [p.read_bytes() for p in fewer[1].store.paths[:3]] == expected[:3]
    assert [parts[1].store.path(i).read_bytes() for i in (0, 3, 4)] == [
        expected[i] for i in (0, 3, 4)
    ]
    assert contents(elsewhere[1]) == expected


def test_the_unet_of_each_model_is_used(
    pipeline: DiffusionPipeline, generation: GenerationSettings, tmp_path: Path
) -> None:
    asked: list[int] = []

    def unet_of(model: int) -> nn.Module:
        asked.append(model)
        return pipeline.unet

    sets = make_sets(tmp_path)
    with ImageGenerator(pipeline, unet_of, sets, generation) as generator:
        for batch in plan_batches(sets, 8):
            generator.draw(batch)
    assert asked == [0, 1]
