"""``dgq.calibrate``: what it makes, and that it is what ``train.py fit`` makes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel

import dgq
from data.prompts import choose_prompts
from dgq.calibration import memory
from dgq.calibration.calibrator import Calibrator
from dgq.storage.fingerprint import network_sha256
from dgq.storage.model_files import REPORT_FILE
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.unet.context import quantization
from dgq.unet.quantized_unet import QuantizedUNet
from tests.calibration_runs import command
from tests.model_zoo import micro
from tests.quantized_models import decibels
from tests.tiny_pipelines import LEARNING as OPTIONS
from tests.tiny_pipelines import fit_arguments, micro_unet, unet_call
from tests.unet_zoo import IMAGE_WIDTH

LEARNING = dgq.LearningSettings(iterations=3, polish_iterations=2)
FAST = dgq.WeightSettings(4, "minmax", symmetric=True, group_size=16, max_exponent=2)
A8 = dgq.ActivationSettings(8, "multiples", max_exponent=2, qkv=False)
SETTINGS = dgq.QuantizationSettings(FAST, A8, dgq.ScoreSettings(16))
RECIPE = dgq.Custom(SETTINGS, LEARNING, "fast")
KEEP = (*SETTINGS.keep, "up_blocks.*", "mid_block.*")
SMALL = replace(RECIPE, quantization=replace(SETTINGS, keep=KEEP))
"""For questions that a few targets answer."""
NEAREST = replace(SMALL, learning=dgq.LearningSettings(iterations=0, polish_iterations=0))
TIMESTEPS = (801.0, 401.0, 1.0)


def random_calls(n: int = 2, rows: int = 3) -> list[dict[str, Any]]:
    """``n`` calls at each timestep, whose conditioning differs from call to call."""
    return [
        unet_call(micro_unet(), rows, t, seed=10 * i + k)
        for k in range(n)
        for i, t in enumerate(TIMESTEPS)
    ]


def test_no_target_ends_worse_than_nearest() -> None:
    """Learning that goes astray: rates by which every rounding jumps."""
    astray = dgq.LearningSettings(2, 0, rounding_lr=50.0, scale_lr=1.0, decay="constant")
    nearest = dgq.LearningSettings(iterations=0, polish_iterations=0)
    learned, rounded = (
        dgq.calibrate(
            micro_unet(),
            random_calls(),
            dgq.Ours(keep=KEEP, range_method="minmax", learning=learning, network=None),
            batch_size=4,
            progress=False,
        )
        for learning in (astray, nearest)
    )
    targets = learned.report.targets
    assert all(t.error <= t.error_nearest for t in targets)
    assert sum(t.error == t.error_nearest for t in targets) > len(targets) / 2
    first = f"{targets[0].name}.weight_quantizer"
    for name in ("codes", "scale"):
        found, expected = (getattr(r.unet.get_submodule(first), name) for r in (learned, rounded))
        assert found.equal(expected)


@pytest.fixture(scope="module")
def result() -> dgq.CalibrationResult:
    """Of a UNet and recorded calls; not to be changed."""
    return dgq.calibrate(micro_unet(), random_calls(), RECIPE, batch_size=4, progress=False)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT_FILE}


def assert_same_bytes(run: Path, pipeline: Path, folder: Path, **options: Any) -> None:
    """``dgq.calibrate`` writes the files of a run of ``fit_arguments`` with ``LEARNING``."""
    result = dgq.calibrate(
        dgq.load_pipeline(str(pipeline)),
        choose_prompts(run.parent / "captions.txt", 3 + 4, 0),
        replace(dgq.RECIPES["w4a8"], learning=LEARNING, range_method="minmax"),
        num_inference_steps=2,
        guidance_scale=3,
        batch_size=4,
        progress=False,
        **options,
    )
    dgq.save(result, folder)
    expected = folder_bytes(run / "quantized")
    assert folder_bytes(folder) == expected
    assert len(expected) == 2
    log = (run / "log.csv").read_text().splitlines()[1:]
    found = [f"{t.name},{t.error_nearest},{t.error}" for t in result.report.targets]
    assert found == log


def test_it_writes_the_bytes_that_the_command_line_writes(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    assert_same_bytes(finished_work / "run", micro_folder, tmp_path)


def test_in_bfloat16_it_writes_the_bytes_that_the_command_line_writes(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    arguments = fit_arguments(micro_folder, tmp_path)
    assert command([*arguments, *OPTIONS, "--trainer.precision", "bf16-mixed"]) == 0
    run = tmp_path / "run"
    assert_same_bytes(run, micro_folder, tmp_path / "saved", precision="bf16-mixed")
    assert folder_bytes(run / "quantized") != folder_bytes(finished_work / "run" / "quantized")


def test_the_report_tells_of_every_target_step_and_phase(result: dgq.CalibrationResult) -> None:
    report = result.report
    assert len(report.targets) == 24
    assert all(0 < t.error_nearest < 1 and 0 < t.error < 1 for t in report.targets)
    assert set(report.sqnr_by_step_db) == set(TIMESTEPS)
    assert report.sqnr_db < report.sqnr_weights_db
    assert {"capture", "range search", "learning", "observation", "measuring"} <= set(
        report.seconds
    )
    assert (report.n_samples, report.n_held_out) == (15, 3)
    content = report.to_dict()
    assert content["targets"][0]["name"] == "time_embedding.linear_1"
    assert [step["timestep"] for step in content["sqnr_by_step_db"]] == list(TIMESTEPS)
    for text in ("fast: 24 targets", "15 samples", f"{report.sqnr_db:.1f} dB", "801: "):
        assert text in str(report)


@torch.no_grad()
def test_sqnr_by_step_is_that_of_the_held_out_calls(result: dgq.CalibrationResult) -> None:
    stock = micro_unet()
    for timestep, calls in result.by_step.items():
        noise = signal = 0.0
        for call in calls:
            assert call["timestep"].eq(timestep).all()
            wanted, found = stock(**call)[0].double(), result.unet(**call)[0].double()
            noise += float((found - wanted).square().sum())
            signal += float(wanted.square().sum())
        expected = 10 * math.log10(signal / noise)
        assert result.report.sqnr_by_step_db[timestep] == pytest.approx(expected, abs=1e-2)


def test_nothing_is_learned_from_what_is_held_out() -> None:
    calls, held_out = random_calls(), random_calls(3)[-3:]
    seen: list[torch.Tensor] = []
    original = Calibrator.start

    def spy(self: Calibrator, learned: Any, measured: Any, *rest: Any) -> None:
        seen.extend(torch.cat([call["sample"] for call in part]) for part in (learned, measured))
        original(self, learned, measured, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Calibrator, "start", spy)
        dgq.calibrate(micro_unet(), calls, NEAREST, progress=False)
        dgq.calibrate(micro_unet(), calls, NEAREST, held_out=held_out, progress=False)
    everything = torch.cat([call["sample"] for call in calls])
    for learned, measured in zip(seen[::2], seen[1::2], strict=True):
        assert not (learned[:, None] == measured[None]).flatten(2).all(2).any()
    assert len(seen[0]) + len(seen[1]) == len(everything) == len(seen[2])
    assert len(seen[3]) == sum(len(call["sample"]) for call in held_out)


def test_learning_lowers_the_errors() -> None:
    learning = dgq.LearningSettings(iterations=40, polish_iterations=10)
    recipe = replace(SMALL, learning=learning)
    report = dgq.calibrate(micro_unet(), random_calls(3, 4), recipe, progress=False).report
    nearest = sum(t.error_nearest for t in report.targets)
    assert sum(t.error for t in report.targets) < 0.9 * nearest


def test_the_same_seed_makes_the_same_tensors_and_another_does_not() -> None:
    def digest(seed: int) -> str:
        return network_sha256(
            dgq.calibrate(
                micro_unet(), random_calls(), SMALL, batch_size=4, seed=seed, progress=False
            ).unet
        )

    assert digest(0) == digest(0) != digest(1)


# With other activations


def test_other_bits_are_those_of_a_calibration_with_them(
    result: dgq.CalibrationResult, tmp_path: Path
) -> None:
    a6 = dgq.ActivationSettings(6, "multiples", max_exponent=4, qkv=False)
    kmeans = dgq.ActivationSettings(5, "kmeans", n_groups=3, qkv=False, per_step=False)
    for name, settings in (("a6", a6), ("kmeans", kmeans)):
        recipe = replace(RECIPE, quantization=replace(SETTINGS, activations=settings))
        again = dgq.calibrate(micro_unet(), random_calls(), recipe, batch_size=4, progress=False)
        other = result.with_activations(settings)
        for kind, each in (("again", again), ("other", other)):
            dgq.save(each, tmp_path / name / kind)
        files = folder_bytes(tmp_path / name / "again")
        assert len(files) == 2
        assert files == folder_bytes(tmp_path / name / "other")
        assert other.report.sqnr_db == pytest.approx(again.report.sqnr_db, abs=1e-3)
        assert other.report.sqnr_by_step_db == again.report.sqnr_by_step_db
        assert other.report.targets == result.report.targets


@torch.no_grad()
def test_the_first_result_stays_as_it_is_and_its_weights_are_shared(
    result: dgq.CalibrationResult,
) -> None:
    call = random_calls()[0]
    before = result.unet(**call)[0]
    other = result.with_activations(replace(A8, n_bits=4, max_exponent=2))
    assert torch.equal(result.unet(**call)[0], before)
    assert not torch.equal(other.unet(**call)[0], before)
    mine, others = (dict(unet.named_parameters()) for unet in (result.unet, other.unet))
    assert all(others[name] is tensor for name, tensor in mine.items() if "learnable" not in name)
    assert other.report.sqnr_db < result.report.sqnr_db


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (replace(A8, qkv=True), "was in floating point when ranges were observed"),
        (replace(A8, max_exponent=3), "do not fit"),
    ],
)
def test_what_was_not_observed_or_does_not_fit_is_refused(
    result: dgq.CalibrationResult, activations: dgq.ActivationSettings, message: str
) -> None:
    with pytest.raises(dgq.DGQError, match=message):
        result.with_activations(activations)


FLOAT = dgq.ScoreSettings(16)
GROUPS = dgq.ActivationSettings(8, n_groups=2)
START = dgq.ScoreSettings(8, "affine", "affine")
NO_START = replace(START, keep_start_token=False)
KEPT_TEXT = dgq.ActivationSettings(8, n_groups=2, qkv=False, keep_start_token=True)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ((GROUPS, START), (GROUPS, NO_START), "without .* scores.keep_start_token to True"),
        ((GROUPS, NO_START), (GROUPS, START), "with .* scores.keep_start_token to False"),
        (
            (KEPT_TEXT, FLOAT),
            (replace(KEPT_TEXT, keep_start_token=False), FLOAT),
            "without .* activations.keep_start_token to True",
        ),
        # Nothing that has a range depends on the token.
        ((KEPT_TEXT, FLOAT), (KEPT_TEXT, replace(FLOAT, keep_start_token=False)), None),
    ],
)
def test_ranges_serve_only_the_tokens_that_they_were_observed_on(
    before: tuple[Any, Any], after: tuple[Any, Any], reason: str | None
) -> None:
    """The start token of SD's text is an outlier: ranges without it would cut it off."""
    calls = random_calls()
    for call in calls:
        call["encoder_hidden_states"][:, 0] *= 30
    made = [
        dgq.calibrate(
            micro_unet(),
            calls,
            replace(NEAREST, quantization=dgq.QuantizationSettings(FAST, *settings, KEEP)),
            progress=False,
        )
        for settings in ((before,) if reason else (before, after))
    ]
    if reason:
        with pytest.raises(dgq.DGQError, match=f"was observed {reason}"):
            made[0].with_activations(*after)
        return
    assert made[0].with_activations(*after).report.sqnr_by_step_db == made[1].report.sqnr_by_step_db


def test_ranges_that_were_learned_serve_no_other_bits() -> None:
    recipe = replace(SMALL, learning=replace(LEARNING, activation_lr=0.05))
    learned = dgq.calibrate(micro_unet(), random_calls(), recipe, progress=False)
    assert all(t.error_quantized is not None for t in learned.report.targets)
    with pytest.raises(dgq.DGQError, match="learns the ranges"):
        learned.with_activations(A8)


# Saving and drawing


@torch.no_grad()
def test_what_is_saved_computes_the_same(result: dgq.CalibrationResult, tmp_path: Path) -> None:
    folder = dgq.save(result, tmp_path / "new", pipeline="owner/name")
    loaded = dgq.load_quantized_unet(folder, execution="float")
    call = random_calls()[0]
    torch.testing.assert_close(loaded(**call)[0], result.unet(**call)[0], rtol=0, atol=1e-5)
    assert dgq.read_manifest(folder).pipeline == "owner/name"
    assert (folder / "calibration.json").is_file()
    with pytest.raises(dgq.DGQError, match="holds a quantized model"):
        dgq.save(result.unet, folder)
    dgq.save(result.unet, folder, overwrite=True)


def test_an_earlier_model_is_replaced_whole(result: dgq.CalibrationResult, tmp_path: Path) -> None:
    """Its shards, which diffusers would read, and its report are gone."""
    dgq.save(result, tmp_path)
    dgq.load_quantized_unet(tmp_path).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    dgq.save(result.unet, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert UNet2DConditionModel.from_pretrained(tmp_path).is_quantized


def test_a_model_is_not_written_with_the_manifest_of_another(
    result: dgq.CalibrationResult, tmp_path: Path
) -> None:
    other = replace(result.manifest, timesteps=result.manifest.timesteps[:2])
    with pytest.raises(dgq.DGQError, match="describes another UNet"):
        dgq.save_quantized(result.unet, tmp_path / "new", other)
    with pytest.raises(dgq.DGQError, match="expected a calibrated UNet"):
        dgq.save_quantized(micro_unet(), tmp_path / "new", result.manifest)
    assert not (tmp_path / "new").exists()
    dgq.save_quantized(result.unet, str(tmp_path / "new"), result.manifest)
    assert dgq.read_manifest(tmp_path / "new").timesteps == result.manifest.timesteps


def test_only_what_was_calibrated_is_saved(tmp_path: Path) -> None:
    with pytest.raises(dgq.DGQError, match=r"was not calibrated by dgq\.calibrate"):
        dgq.save(micro_unet(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_calibrated_pipeline_draws_with_its_quantized_unet(
    micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = dgq.load_pipeline(str(micro_folder))
    pipeline.set_progress_bar_config(disable=False)

    def draw() -> Any:
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "output_type": "np", "generator": generator}
        return pipeline("a small red circle", **options).images

    before = draw()
    capsys.readouterr()
    prompts = [f"{n} red circles" for n in range(3)]
    result = dgq.calibrate(
        pipeline,
        prompts,
        NEAREST,
        num_inference_steps=2,
        guidance_scale=1.0,
        n_held_out_prompts=1,
        progress=False,
    )
    assert "".join(capsys.readouterr()) == ""
    assert isinstance(pipeline.unet, QuantizedUNet)
    assert result.unet is pipeline.unet
    assert result.manifest.prompt_hashes == prompt_hashes(prompts)
    difference = abs(draw() - before).mean()
    assert 0 < difference < 0.1
    assert "it/s" in capsys.readouterr().err  # its own bar is back


def test_progress_names_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    dgq.calibrate(micro_unet(), random_calls(), NEAREST)
    said = capsys.readouterr()
    assert "8/8" in said.err
    assert "down_blocks.1" in said.err
    assert said.out == ""  # stdout is the program's


# What is refused, before anything is changed


def in_half(unet: Any) -> Any:
    return unet.half()


def with_nan(unet: Any) -> Any:
    unet.conv_out.bias.data[0] = torch.nan
    return unet


def quantized(unet: Any) -> Any:
    return dgq.quantize_(unet, SETTINGS, TIMESTEPS, (8, 8))


def on_meta(unet: Any) -> Any:
    return unet.to("meta")


def fused(unet: Any) -> Any:
    unet.fuse_qkv_projections()
    return unet


def offloaded(unet: Any) -> Any:
    cpu = torch.device("cpu")
    unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return unet


def compiled(unet: Any) -> Any:
    unet.compile()
    return unet


BAD_UNETS: list[tuple[Callable[[Any], Any], str]] = [
    (in_half, "is float16: calibration computes in float32"),
    (with_nan, "conv_out.bias of this UNet has values that are not finite"),
    (quantized, "quantized already"),
    (on_meta, "is on the meta device"),
    (torch.compile, "this is a compiled UNet"),
    (fused, "has fused projections"),
    (offloaded, "had its forward replaced, by offloading"),
    (compiled, "is compiled: compile the UNet when it is quantized"),
    (lambda unet: torch.nn.Linear(2, 2), "this is a Linear: expected a stock UNet2DCondition"),
]


@pytest.mark.parametrize(("change", "message"), BAD_UNETS)
def test_a_unet_that_cannot_be_calibrated_is_refused(
    change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(dgq.DGQError, match=message) as error:
        dgq.calibrate(change(micro_unet()), random_calls(1), RECIPE)
    assert "\n" not in str(error.value)


def test_a_pipeline_in_half_precision_is_converted_as_the_error_says(micro_folder: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(micro_folder, dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [f"{i} red circles" for i in range(3)]
    options: dict[str, Any] = {"num_inference_steps": 1, "n_held_out_prompts": 1, "progress": False}
    with pytest.raises(dgq.DGQError, match=r"pipeline\.to\(torch\.float32\)"):
        dgq.calibrate(pipeline, prompts, RECIPE, **options)
    pipeline.to(torch.float32)
    assert dgq.calibrate(pipeline, prompts, RECIPE, **options).report.sqnr_db > 0


def test_the_name_of_a_pipeline_is_no_pipeline(micro_folder: Path) -> None:
    for name in (micro_folder, str(micro_folder), "me/my-model"):
        with pytest.raises(dgq.DGQError, match=r"load the pipeline by dgq\.load_pipeline"):
            dgq.calibrate(name, ["a red circle"], RECIPE)


CALLS = random_calls(2)
BAD_CALLS: dict[str, tuple[Any, str]] = {
    "none": ([], "nothing to calibrate on"),
    "a text": ("a red circle", "must be a list of prompts or of calls, got a str"),
    "prompts": (["a red circle"], "a UNet alone draws no prompts"),
    "numbers": ([1, 2], "call 0 is a int: expected a UNet call's keyword arguments"),
    "no timestep": ([{"sample": CALLS[0]["sample"]}], "call 0 has no timestep"),
    "no sample": ([{"timestep": 1}], "call 0 has no sample"),
    "another name": ([CALLS[0] | {"text": 1}], "argument that the UNet does not take: text"),
    "channels": ([CALLS[0] | {"sample": torch.ones(1, 3, 8, 8)}], r"\[rows, 4, height, width\]"),
    "nan": (
        [CALLS[0], CALLS[1] | {"sample": torch.full((3, 4, 8, 8), torch.nan)}],
        "call 1: sample has values that are not finite",
    ),
    "shapes": (
        [CALLS[0], CALLS[1] | {"sample": torch.ones(3, 4, 4, 8)}],
        "call 1 differs from call 0: sample is",
    ),
    "rows": (
        [CALLS[0] | {"encoder_hidden_states": torch.ones(2, 77, 16)}],
        "encoder_hidden_states has 2 rows, the latents have 3",
    ),
    "timesteps": ([CALLS[0] | {"timestep": torch.ones(2)}], "one finite number or 3"),
    "one of each": (random_calls(1, 1), "none can be held out"),
    "missing text": (
        [{"sample": call["sample"], "timestep": 5} for call in CALLS],
        "the UNet cannot be called so",
    ),
    "wide text": (
        [call | {"encoder_hidden_states": torch.ones(3, 77, 9)} for call in CALLS],
        "the UNet cannot be called so",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_calls_that_cannot_be_used_are_refused_and_the_unet_stays(name: str) -> None:
    unet = micro_unet().train()
    calls, message = BAD_CALLS[name]
    with pytest.raises(dgq.DGQError, match=message) as error:
        dgq.calibrate(unet, calls, RECIPE)
    assert "\n" not in str(error.value)
    assert type(unet) is type(micro_unet())
    assert network_sha256(unet) == network_sha256(micro_unet())
    assert unet.training
    assert all(p.requires_grad for p in unet.parameters())


def test_held_out_calls_have_to_be_of_the_same_kind() -> None:
    for call, message in (
        (unet_call(micro_unet(), 1, 401.0, size=16), "held-out call 0 differs from call 0: sample"),
        (unet_call(micro_unet(), 1, 900.0), "held_out has calls at timestep 900"),
    ):
        with pytest.raises(dgq.DGQError, match=message):
            dgq.calibrate(micro_unet(), CALLS, NEAREST, held_out=[call])


@torch.no_grad()
def test_calls_of_any_conditioning_are_calibrated_on(tmp_path: Path) -> None:
    """One call for each step, of half precision, with residuals of a ControlNet."""
    shapes = ((8, 8), (8, 8), (8, 4), (16, 4))
    with torch.inference_mode():
        calls = [
            {name: v.half() if name == "sample" else v for name, v in call.items()}
            | {
                "mid_block_additional_residual": torch.randn(3, 16, 4, 4),
                "down_block_additional_residuals": tuple(
                    torch.randn(3, channels, size, size) for channels, size in shapes
                ),
            }
            for call in random_calls(1)
        ]
    result = dgq.calibrate(micro_unet(), calls, SMALL, progress=False)
    assert (result.report.n_samples, result.report.n_held_out) == (6, 3)
    assert result.report.sqnr_db > 10
    loaded = dgq.load_quantized_unet(dgq.save(result, tmp_path), execution="float")
    call = calls[0] | {"sample": calls[0]["sample"].float()}
    torch.testing.assert_close(loaded(**call)[0], result.unet(**call)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_calls_without_text_are_calibrated_on(tmp_path: Path) -> None:
    """As AudioLDM's, whose UNet reads a class embedding and attends to images alone."""
    torch.manual_seed(0)
    unet = micro(
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=IMAGE_WIDTH,
        class_embeddings_concat=True,
    )
    with dgq.recording(unet) as calls:
        for timestep in TIMESTEPS:
            labels = torch.randn(3, IMAGE_WIDTH)
            unet(torch.randn(3, 4, 8, 8), timestep, None, class_labels=labels)
    assert all(call["encoder_hidden_states"] is None for call in calls)
    output = unet(**calls[0])[0]
    result = dgq.calibrate(unet, calls, SMALL, progress=False)
    loaded = dgq.load_quantized_unet(dgq.save(result, tmp_path), execution="float")
    found = loaded(**calls[0])[0]
    torch.testing.assert_close(found, result.unet(**calls[0])[0], rtol=0, atol=1e-5)
    assert decibels(output, found) > 10


PROMPTS = [f"{n} circles" for n in range(6)]
BAD_PROMPTS: list[tuple[list[Any], dict[str, Any], str]] = [
    ([*PROMPTS, " "], {}, "prompt 6 is empty"),
    ([*PROMPTS, 3], {}, "prompt 6 is a int"),
    (PROMPTS[:4], {}, "4 prompts are too few, as 4 are held out"),
    (PROMPTS, {"n_samples": 2}, r"n_samples must be 3 \(one for each UNet call\) to 6"),
    (PROMPTS, {"num_inference_steps": 100_000}, "at most 10000"),
    (PROMPTS, {"num_inference_steps": 5_000}, "lower num_inference_steps"),
    (PROMPTS, {"held_out": CALLS}, "held_out goes with calls"),
    (PROMPTS, {"num_inference_steps": 0}, "num_inference_steps"),
    (PROMPTS, {"height": 13, "width": 13}, "refuses these settings"),
    (PROMPTS, {"guidance_scale": math.nan}, "guidance_scale must be finite"),
    (PROMPTS, {"recipe": "w3a3"}, "recipe 'w3a3' is not known: expected one of w8a8, w4a8"),
    (PROMPTS, {"batch_size": 0}, "batch_size must be"),
    (PROMPTS, {"record_batch_size": 0}, "record_batch_size must be"),
    (PROMPTS, {"seed": -1}, "seed must be 0 to"),
    (PROMPTS, {"precision": "bf16"}, "precision must be one of 32-true, bf16-mixed, got 'bf16'"),
]


@pytest.mark.parametrize(("prompts", "options", "message"), BAD_PROMPTS)
def test_prompts_and_options_that_cannot_be_used_are_refused(
    prompts: list[Any], options: dict[str, Any], message: str, micro_folder: Path
) -> None:
    pipeline = dgq.load_pipeline(str(micro_folder))
    pipeline.unet.register_forward_pre_hook(has_run)
    settings = {"recipe": NEAREST, "num_inference_steps": 2, "progress": False, **options}
    with pytest.raises(dgq.DGQError, match=message) as error:
        dgq.calibrate(pipeline, prompts, **settings)
    assert "\n" not in str(error.value)
    assert not isinstance(pipeline.unet, QuantizedUNet)


def has_run(*_: Any) -> None:
    pytest.fail("the UNet ran before its input was refused")


def test_a_pipeline_that_needs_more_than_prompts_is_refused(micro_folder: Path) -> None:
    class ImageToImage(StableDiffusionPipeline):
        pass

    pipeline = ImageToImage.from_pretrained(micro_folder)
    with pytest.raises(dgq.DGQError, match="the inputs that ImageToImage draws from are unknown"):
        dgq.calibrate(pipeline, PROMPTS, RECIPE)


def test_samples_that_do_not_fit_into_memory_are_refused(
    micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = micro_unet()
    monkeypatch.setattr(memory, "free_bytes", lambda *_: 2**20)
    with pytest.raises(dgq.DGQError, match=r"would take 0\.\d GiB .*set n_samples to \d+ or fewer"):
        dgq.calibrate(unet, random_calls(4, 16), RECIPE)
    assert type(unet) is type(micro_unet())
    pipeline = dgq.load_pipeline(str(micro_folder))
    monkeypatch.setattr("dgq.calibration.drawn_samples.record_calls", has_run)
    with pytest.raises(dgq.DGQError, match=r"would take"):
        dgq.calibrate(pipeline, PROMPTS * 9, RECIPE)


@torch.no_grad()
def test_samples_that_wait_on_disk_change_nothing_and_leave_nothing(tmp_path: Path) -> None:
    waiting = dgq.WaitingSettings("disk", folder=tmp_path)
    found = [
        dgq.calibrate(micro_unet(), random_calls(), SMALL, waiting=each, progress=False)
        for each in (None, waiting)
    ]
    assert network_sha256(found[0].unet) == network_sha256(found[1].unet)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_calibration_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = micro_unet()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Calibrator, "harden_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dgq.calibrate(unet, random_calls(), RECIPE, progress=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert quantization(unet, weights=False, activations=False)
