"""Each stage trains a few steps at a tiny size, resumes exactly, and the whole chain fits."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel, CLIPProcessor

from scenes.captions import sample_captions
from scenes.grammar import parse_caption
from scenes.training import __main__ as command
from scenes.training import (
    conditions,
    diffusion,
    distillation,
    latents,
    measure,
    measuring_clip,
    stages,
)
from scenes.training.attributes import MISSING, noun_targets, scene_targets
from scenes.training.autoencoder import principal_components
from scenes.training.checkpoints import DONE, snapshot_name
from scenes.training.diffusion import stratified_timesteps, velocity_weight
from scenes.training.log import read_log
from scenes.training.pipelines import euler_trailing, pndm
from scenes.training.settings import (
    Autoencoder,
    Clip,
    Diffusion,
    Distillation,
    Fit,
    Latents,
    Settings,
    Sibling,
    Tuning,
    sd_unet,
    sdxl_unet,
)

TINY_FIT = Fit(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1)
AVERAGED_FIT = dataclasses.replace(TINY_FIT, ema_decay=0.5, snapshots=(2,))
TINY_CLIP = Clip(TINY_FIT, width=32, n_layers=2, n_heads=2, projection_dim=16, n_captions=40)
TINY = Settings(
    clip=TINY_CLIP,
    measuring_clip=Tuning(TINY_FIT, n_captions=40),
    autoencoder=Autoencoder(
        TINY_FIT, block_out_channels=(8, 8, 8), norm_num_groups=4, pca_steps=1, n_pictures=40
    ),
    latents=Latents(n_captions=20, renders=2),
    diffusion=Diffusion(AVERAGED_FIT, unet=sd_unet((16, 16, 16))),
    xl=Sibling(
        clip=dataclasses.replace(TINY_CLIP, with_changed=False),
        diffusion=Diffusion(AVERAGED_FIT, unet=sdxl_unet((16, 16, 16), (1, 1, 1), pooled=16)),
        distillation=Distillation(AVERAGED_FIT),
    ),
)
STAGES = tuple(stage for stage in stages.STAGES if stage != "measure")


def options_for(stage: str, work: Path, resume: bool = False) -> Namespace:
    arguments = [stage, "--work", str(work), "--assets", str(work / "assets"), "--n", "2"]
    arguments += ["--processes", "1"] + ["--resume"] * resume
    return command.parser().parse_args(arguments)


def run(stage: str, work: Path, settings: Settings = TINY, resume: bool = False) -> None:
    command.run(options_for(stage, work, resume), settings)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the one documented command makes, interrupted once on its way and resumed."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "NUM_INFERENCE_STEPS", 2)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(distillation.DistillationTraining, "loss", interrupt)
            with pytest.raises(SystemExit):
                run("all", folder)
        assert (folder / "xl" / DONE).exists()
        assert not (folder / "few-step" / DONE).exists()
        assert not (folder / "assets").exists()
        run("all", folder, resume=True)
    return folder


def interrupt(*_arguments: object) -> None:
    """As Ctrl-C in the middle of a stage."""
    raise KeyboardInterrupt


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
    configs = [path.read_text() for path in (work / "assets").rglob("*.json")]
    assert not any(str(work) in text for text in configs)


@pytest.mark.parametrize(("folder", "steps", "guidance"), [("xl", 2, 2.0), ("few-step", 4, 0)])
def test_the_sibling_is_an_sdxl_pipeline(
    work: Path, folder: str, steps: int, guidance: float
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(work / "assets" / folder)
    assert type(pipeline) is StableDiffusionXLPipeline
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "two small blue bars", num_inference_steps=steps, guidance_scale=guidance, output_type="np"
    ).images
    assert image.shape == (1, 32, 32, 3)


def test_measure_writes_numbers_grids_and_curves(work: Path) -> None:
    assets = work / "assets"
    report = json.loads((assets / "measured.json").read_text())
    assert report["protocol"] == {"n": 2, "seed": 0, "split": "test"}
    assert report["results"]["renders"]["all"]["share"] == 1
    assert report["results"]["renders"]["all"]["low"] < 1
    assert len(report["results"]) == 5
    for name in ("pipeline", "xl", "few-step"):
        assert (assets / f"samples-{name}.png").exists()
        assert name in (assets / "measured.md").read_text()
    assert (assets / "training" / "curves.png").exists()


def test_latents_have_unit_variance(work: Path) -> None:
    data = latents.load(work / "latents")
    assert data.shape == (20, 2, 4, 8, 8)
    assert 0.5 < data.float().std() < 2


@pytest.mark.parametrize("name", ["pipeline", "xl"])
def test_conditions_are_those_of_the_pipeline(work: Path, name: str) -> None:
    known = conditions.load(work / {"pipeline": "conditions", "xl": "xl-conditions"}[name])
    pipeline = DiffusionPipeline.from_pretrained(work / "assets" / name)
    caption = latents.training_captions(TINY.latents)[4]
    embeddings = (
        pipeline.encode_prompt(caption, "cpu", 1, True)
        if name == "pipeline"
        else (pipeline.encode_prompt(caption, device="cpu"))
    )
    arguments = known.of(torch.tensor([5, 0]))
    states = torch.cat(embeddings[:2])
    assert torch.allclose(arguments["encoder_hidden_states"], states, atol=0.02)
    assert ("added_cond_kwargs" in arguments) == (name == "xl")
    if name == "xl":
        added = arguments["added_cond_kwargs"]
        assert torch.allclose(added["text_embeds"], torch.cat(embeddings[2:]), atol=0.02)
        assert (added["text_embeds"][1] == 0).all()
        assert added["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2


def test_missing_latents_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"scenes\.training latents"):
        latents.load(tmp_path)
    with pytest.raises(SystemExit, match=r"scenes\.training latents"):
        command.main(["diffusion", "--work", str(tmp_path), "--processes", "1"])


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(work: Path, tmp_path: Path) -> None:
    for name in ("latents", "conditions"):
        (tmp_path / name).symlink_to(work / name)
    options = options_for("diffusion", tmp_path)
    options.processes = 2
    command.run(options, TINY)
    # Weights differ more: Adam makes a whole step of a tiny gradient, whichever its sign.
    one, two = (read_log(folder / "diffusion")[0] for folder in (work, tmp_path))
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.01)


def test_snapshots_are_weights_of_the_unet(work: Path) -> None:
    assert [path.name for path in (work / "diffusion").glob("*.safetensors")] == [snapshot_name(2)]
    unet = diffusion.build(TINY.diffusion.unet, 8, 32)
    unet.load_state_dict(load_file(work / "diffusion" / snapshot_name(2)))


def test_measuring_clip_keeps_the_text_tower(work: Path) -> None:
    before, after = (
        CLIPModel.from_pretrained(work / stage / "model").state_dict()
        for stage in ("clip", "measuring-clip")
    )
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(equal for name, equal in same.items() if name.startswith("text_model"))
    assert not any(equal for name, equal in same.items() if name.endswith("projection.weight"))


def test_kinds_of_captions_are_drawn_evenly() -> None:
    captions = sample_captions(300, 0, "train")
    weights = measuring_clip.even_weights(captions)
    counts = torch.tensor([parse_caption(caption).count is not None for caption in captions])
    assert weights[counts].sum() == pytest.approx(weights.sum() / 3)


def test_other_settings_are_refused(work: Path) -> None:
    other = dataclasses.replace(TINY, image_size=64)
    with pytest.raises(FileExistsError, match="--work"):
        run("clip", work, other, resume=True)


def test_a_model_of_unknown_settings_is_not_taken_for_ours(work: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model").symlink_to(work / "clip" / "model")
    with pytest.raises(SystemExit, match="other settings"):
        command.main(["clip", "--work", str(tmp_path), "--resume"])
    assert [path.name for path in (tmp_path / "clip").iterdir()] == ["model"]


@pytest.mark.parametrize("stage", ["measuring-clip", "latents", "xl-conditions", "export"])
def test_stages_say_what_they_need(stage: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"python -m scenes\.training .* first"):
        command.main([stage, "--work", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_training_is_not_overwritten(work: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        run("diffusion", work)


def test_what_is_complete_stays(work: Path) -> None:
    log, model = work / "diffusion" / "log", work / "clip" / "model" / "model.safetensors"
    before = [path.name for path in log.iterdir()], model.read_bytes()
    for stage in STAGES:
        run(stage, work, resume=True)
    assert ([path.name for path in log.iterdir()], model.read_bytes()) == before


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


def test_noise_and_velocity_are_what_their_samplers_expect() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    alpha = torch.tensor([0.1, 0.5, 0.99])[:, None, None, None]
    noisy = alpha.sqrt() * drawn + (1 - alpha).sqrt() * noise
    for kind in ("v_prediction", "epsilon"):
        settings = dataclasses.replace(TINY.diffusion, prediction_type=kind)
        target, weight = diffusion.target_of(drawn, noise, alpha, settings)
        expected = velocity_weight(alpha.flatten(), settings.snr_clip)
        assert torch.equal(weight, torch.ones(3) if kind == "epsilon" else expected)
        seen = target if kind == "epsilon" else alpha.sqrt() * target + (1 - alpha).sqrt() * noisy
        assert torch.allclose(seen, noise, atol=1e-5)
        assert pndm(kind).config.prediction_type == kind


def test_the_sibling_predicts_velocities_only(tmp_path: Path) -> None:
    epsilon = dataclasses.replace(TINY.xl.diffusion, prediction_type="epsilon")
    settings = dataclasses.replace(TINY, xl=dataclasses.replace(TINY.xl, diffusion=epsilon))
    options = options_for("xl", tmp_path)
    with pytest.raises(ValueError, match="velocities only"):
        stages.STAGES["xl"].run(settings, options)


def test_velocities_of_the_student_lead_where_the_teacher_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, first, second = torch.randn(3, 5, 4, 2, 2, generator=generator)
    alphas = torch.tensor([0.1, 0.5, 1.0])
    middle = distillation.step_to(noisy, first, alphas[0], alphas[1])
    end = distillation.step_to(middle, second, alphas[1], alphas[2])
    velocity = distillation.velocity_between(noisy, end, alphas[0], alphas[2])
    landed = distillation.step_to(noisy, velocity, alphas[0], alphas[2])
    assert torch.allclose(landed, end, atol=1e-5)


def test_the_student_visits_the_timesteps_of_its_sampler() -> None:
    sampler = euler_trailing()
    sampler.set_timesteps(4)
    timesteps = distillation.trailing_timesteps(12)
    assert timesteps[::3].tolist() == sampler.timesteps.tolist()


def test_a_step_of_ddim_is_a_step_of_the_sampler() -> None:
    sampler = euler_trailing()
    sampler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    noisy, velocity = torch.randn(2, 1, 4, 2, 2, generator=generator)
    alpha, next_alpha = (pndm().alphas_cumprod[int(t)].sqrt() for t in sampler.timesteps[1:3])
    sampler._init_step_index(sampler.timesteps[1])
    stepped = sampler.step(velocity, sampler.timesteps[1], noisy / alpha).prev_sample
    ours = distillation.step_to(noisy, velocity, alpha, next_alpha)
    assert torch.allclose(stepped * next_alpha, ours, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["all", "--processes", "0"], "at least 1"), (["measure", "--n", "-3"], "at least 1")],
)
def test_bad_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_processes_must_share_batches_equally(work: Path) -> None:
    options = options_for("diffusion", work, resume=True)
    options.processes = 3
    with pytest.raises(ValueError, match="equally"):
        command.run(options, TINY)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = command.parser().parse_args(["all", "--resume", "--device", "cuda"])
    assert (options.stage, options.resume, options.device) == ("all", True, "cuda")
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "xl-clip" in capsys.readouterr().out
