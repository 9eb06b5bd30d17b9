"""Images are functions of prompt, seed and index, and survive interruptions."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from rich.progress import Progress
from torch import nn

from lit.evaluation.fingerprint import pipeline_fingerprint
from lit.evaluation.generation import Sampling, fill, image_generator, sample, using_unet
from lit.evaluation.images import to_tensor
from lit.evaluation.store import ImageStore

PROMPTS = ["a red circle", "a large blue square on a pink background", "two stars", "a bar"]


def make_store(folder: Path) -> ImageStore:
    store = ImageStore(folder, {"seed": 5}, PROMPTS)
    store.open_()
    return store


def contents(store: ImageStore) -> list[bytes]:
    return [path.read_bytes() for path in store.paths]


def test_each_seed_and_index_has_noise_of_its_own() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**40]
    noises = {
        tuple(torch.randn(4, generator=image_generator(seed, index)).tolist())
        for seed in seeds
        for index in range(50)
    }
    assert len(noises) == len(seeds) * 50


def test_an_image_does_not_depend_on_the_batch(
    pipeline: DiffusionPipeline, sampling: Sampling
) -> None:
    whole = to_tensor(sample(pipeline, PROMPTS, [0, 1, 2, 3], sampling))
    parts = [sample(pipeline, PROMPTS, batch, sampling) for batch in ([3], [1, 0], [2])]
    alone = to_tensor([parts[1][1], parts[1][0], parts[2][0], parts[0][0]])
    torch.testing.assert_close(whole, alone, atol=1.01 / 255, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_the_seed_matters(pipeline: DiffusionPipeline, sampling: Sampling) -> None:
    other = Sampling(sampling.num_inference_steps, sampling.guidance_scale, seed=6)
    a, b = (to_tensor(sample(pipeline, PROMPTS, [0], s)) for s in (sampling, other))
    assert (a - b).abs().max() > 0.1


def test_a_continued_run_writes_the_same_bytes(
    pipeline: DiffusionPipeline, sampling: Sampling, tmp_path: Path
) -> None:
    store, progress = make_store(tmp_path / "images"), Progress(disable=True)
    fill(store, pipeline, sampling, 2, progress, "images")
    expected = contents(store)
    store.path(1).unlink()
    store.path(2).write_bytes(expected[2][: len(expected[2]) // 2])
    store.path(3).write_bytes(b"")
    before = store.path(0).stat().st_mtime_ns
    assert store.missing() == [1, 2, 3]
    fill(store, pipeline, sampling, 1, progress, "images")
    assert store.missing() == []
    assert store.path(0).stat().st_mtime_ns == before
    # Batches of another size may round a few pixels differently; here none does.
    assert contents(store) == expected


def test_interrupted_generation_leaves_whole_images_only(
    pipeline: DiffusionPipeline,
    sampling: Sampling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store(tmp_path / "images")
    save, saved = store.save, []

    def interrupted(index: int, image: object) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(index)
        save(index, image)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(store, pipeline, sampling, 3, Progress(disable=True), "images")
    assert store.missing() == [2, 3]
    assert not list(store.folder.glob(".*"))


def test_the_unet_is_put_back_even_after_an_error(pipeline: DiffusionPipeline) -> None:
    own, other = pipeline.unet, nn.Identity()
    with using_unet(pipeline, other) as swapped:
        assert swapped.unet is other
    assert pipeline.unet is own
    with pytest.raises(AttributeError), using_unet(pipeline, other):
        pipeline("a prompt")
    assert pipeline.unet is own


def test_the_fingerprint_sees_weights_and_sampler(pipeline: DiffusionPipeline) -> None:
    first = pipeline_fingerprint(pipeline)
    assert pipeline_fingerprint(pipeline) == first
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, beta_end=0.5)
    assert pipeline_fingerprint(pipeline) != first
    pipeline.scheduler = scheduler
    assert pipeline_fingerprint(pipeline) == first
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias[0] += 1e-6
    assert pipeline_fingerprint(pipeline) != first
