"""Each stage trains a few steps at a tiny size, resumes exactly, and the whole chain fits."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from transformers import CLIPModel, CLIPProcessor

from scenes.training import __main__ as command
from scenes.training import diffusion, latents, loop
from scenes.training.attributes import MISSING, noun_targets, scene_targets
from scenes.training.autoencoder import principal_components
from scenes.training.diffusion import stratified_timesteps, velocity_weight
from scenes.training.settings import Autoencoder, Clip, Diffusion, Fit, Latents, Settings

TINY_FIT = Fit(minutes=60, max_steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1)
TINY = Settings(
    clip=Clip(TINY_FIT, width=32, n_layers=1, n_heads=2, projection_dim=16, n_captions=40),
    autoencoder=Autoencoder(
        TINY_FIT, block_out_channels=(8, 8, 8), norm_num_groups=4, pca_steps=1, n_pictures=40
    ),
    latents=Latents(n_captions=20, renders=2),
    diffusion=Diffusion(
        dataclasses.replace(TINY_FIT, ema_decay=0.5),
        n_processes=1,
        block_out_channels=(16, 16, 16),
        n_heads=2,
        norm_num_groups=8,
    ),
)


def run(stage: str, work: Path, settings: Settings = TINY, resume: bool = False) -> None:
    options = Namespace(
        stage=stage,
        work=work,
        device="cpu",
        resume=resume,
        assets=work / "assets",
        n=2,
        guidance_scale=[2.0],
    )
    command.run(options, settings)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for stage in ("clip", "autoencoder", "latents", "diffusion", "export"):
        run(stage, folder)
    return folder


def test_exported_folders_load(work: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(work / "assets" / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a large red circle in the centre on a white background"
    image = pipeline(prompt, num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 32, 32, 3)
    model = CLIPModel.from_pretrained(work / "assets" / "clip")
    processor = CLIPProcessor.from_pretrained(work / "assets" / "clip")
    inputs = processor(text=[prompt], images=pipeline.numpy_to_pil(image), return_tensors="pt")
    assert model(**inputs).logits_per_image.shape == (1, 1)
    assert not list((work / "assets").glob(".*"))


def test_measure_writes_numbers_and_grid(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NUM_INFERENCE_STEPS", 2)
    run("measure", work)
    report = json.loads((work / "measure" / "measure.json").read_text())
    assert report["protocol"] == {"n": 2, "steps": 2, "seed": 0, "split": "test"}
    assert report["results"]["renders"]["all"] == 1
    assert set(report["results"]) == {"renders", "autoencoder", "guidance 2"}
    assert (work / "measure" / "samples.png").exists()


def test_latents_have_unit_variance(work: Path) -> None:
    data = latents.load(work / "latents")
    assert data.latents.shape == (20, 2, 4, 8, 8)
    assert data.states.shape == (21, 77, 32)
    assert 0.5 < data.latents.float().std() < 2


def test_missing_latents_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scenes\.training latents"):
        latents.load(tmp_path)


def test_two_processes_train_together(work: Path, tmp_path: Path) -> None:
    (tmp_path / "latents").symlink_to(work / "latents")
    settings = dataclasses.replace(TINY.diffusion, n_processes=2)
    diffusion.train(settings, tmp_path / "diffusion", "cpu", resume=False)
    checkpoint = torch.load(tmp_path / "diffusion" / loop.CHECKPOINT, weights_only=True)
    assert checkpoint["step"] == 3


def test_resuming_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings = dataclasses.replace(TINY_FIT, max_steps=6, ema_decay=0.5)
    whole, halves = nn.Linear(3, 3), nn.Linear(3, 3)
    halves.load_state_dict(whole.state_dict())
    loop.fit(whole, loss_of(whole), settings, tmp_path / "whole", resume=False)
    with pytest.raises(InterruptedError):
        loop.fit(halves, loss_of(halves, stop=3), settings, tmp_path / "halves", resume=False)
    assert torch.load(tmp_path / "halves" / loop.CHECKPOINT, weights_only=True)["step"] == 3
    fresh = nn.Linear(3, 3)
    loop.fit(fresh, loss_of(fresh), settings, tmp_path / "halves", resume=True)
    assert torch.equal(fresh.weight, whole.weight)


def test_a_complete_run_is_only_loaded(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    loop.fit(first, loss_of(first), TINY_FIT, tmp_path, resume=False)
    loop.fit(second, loss_of(second, stop=0), TINY_FIT, tmp_path, resume=True)
    assert torch.equal(first.weight, second.weight)


def loss_of(module: nn.Module, stop: int | None = None) -> loop.Loss:
    """A loss that is interrupted at step `stop`."""

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        if step == stop:
            raise InterruptedError
        return module(torch.randn(4, 3, generator=generator)).square().mean(), {}

    return loss


def test_both_captions_of_a_picture_have_the_same_targets() -> None:
    red, blue = "small striped red circle", "large blue square"
    above = f"a {red} above a {blue} on a pink background"
    below = f"a {blue} below a {red} on a pink background"
    single = f"a {red} in the centre on a pink background"
    targets = scene_targets([above, below, single])
    assert torch.equal(targets[0], targets[1])
    assert (targets[2, 6:] == MISSING).all()
    positions, classes = noun_targets([above, single])
    words = ["<start>", *above.split()]
    assert [words[i] for i in positions[0].tolist()] == ["circle", "square"]
    assert torch.equal(classes[1, 0], classes[1, 1])


def test_principal_components_are_white() -> None:
    pictures = torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    weight, mean = principal_components(pictures, 4)
    code = nn.functional.conv2d(pictures - mean, weight, stride=4)
    covariance = code.transpose(0, 1).flatten(1).cov()
    assert torch.allclose(covariance, torch.eye(4), atol=0.05)


def test_timesteps_are_spread_evenly() -> None:
    timesteps = stratified_timesteps(10, 1000, torch.Generator().manual_seed(0))
    assert (timesteps // 100).sort().values.tolist() == list(range(10))


def test_velocity_weight_is_one_where_noise_dominates() -> None:
    snr = torch.tensor([0.01, 1.0, 4.0, 9.0])
    expected = (snr + 1).clamp(max=5) / (snr + 1)
    assert torch.allclose(velocity_weight(snr / (1 + snr), 5.0), expected)


def test_command_line() -> None:
    options = command._parser().parse_args(["diffusion", "--resume", "--minutes", "2"])
    assert (options.stage, options.resume, options.minutes) == ("diffusion", True, 2.0)
    with pytest.raises(SystemExit, match="stages that train"):
        command.main(["export", "--minutes", "3"])
