"""Arguments of the public functions that are nothing like what is expected: one line, no work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

import dgq
from tests.tiny_pipelines import micro_unet, unet_call

WEIGHTS, ACTIVATIONS = dgq.WeightSettings(), dgq.ActivationSettings()
NEAREST = dgq.Custom(
    dgq.QuantizationSettings(dgq.WeightSettings(4, "minmax"), keep=("conv_in", "*_blocks.*")),
    dgq.LearningSettings(iterations=0, polish_iterations=0),
)
PROMPTS = [f"{n} red circles" for n in range(6)]

SETTINGS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((dgq.LearningSettings, {"iterations": n}) for n in (1.5, True, "x", None, float("inf"))),
    *((dgq.LearningSettings, {"rounding_lr": n}) for n in ("a", torch.tensor(0.1), float("inf"))),
    *((dgq.LearningSettings, {"warmup": n}) for n in ("x", None, float("nan"))),
    (dgq.LearningSettings, {"activation_lr": "a"}),
    *((dgq.NetworkSettings, {"lr": n}) for n in ("a", None, float("inf"))),
    *((dgq.ActivationSettings, {"n_bits": n}) for n in (np.int64(4), 4.0, "4")),
    *((dgq.ActivationSettings, {name: "no"}) for name in ("per_step", "qkv", "keep_start_token")),
    *((dgq.WeightSettings, {name: "no"}) for name in ("symmetric", "absorbs")),
    *((dgq.QuantizationSettings, {"weights": w}) for w in (None, "w4", dgq.WeightSettings)),
    *((dgq.QuantizationSettings, {"keep": keep}) for keep in ("conv_in", None, [1])),
    *((dgq.QuantizationSettings, {"layers": n}) for n in (None, [], {"a": None}, {"a": WEIGHTS})),
    *((dgq.QuantizationSettings, {"split_skips": n}) for n in ("conv1", None)),
    *((dgq.QuantizationSettings, {name: None}) for name in ("activations", "scores")),
    (dgq.LayerSettings, {"weights": "x"}),
    *((dgq.GenerationSettings, {"guidance_scale": n}) for n in ("7", None, torch.tensor(7.0))),
    (dgq.GenerationSettings, {"num_inference_steps": 10**9}),
    (dgq.WaitingSettings, {"place": "disk", "folder": 5}),
    *((dgq.Custom, {"quantization": n}) for n in (None, "w4a8")),
    *((dgq.Custom, {name: 3}) for name in ("learning", "network", "name")),
    *(
        (kind, options)
        for kind in (dgq.DGQ, dgq.Ours, dgq.QDiffusion, dgq.TFMQ)
        for options in (
            {"weight_bits": None},
            {"activation_bits": "8"},
            {"keep": "conv_in"},
            {"learning": None},
        )
    ),
    (dgq.Ours, {"network": True}),
    (dgq.Ours, {"mixed": "no"}),
    (dgq.DGQConfig, {"quant_method": "bitsandbytes"}),
]


def in_one_line(error: BaseException) -> bool:
    return isinstance(error, dgq.DGQError) and "\n" not in str(error)


@pytest.mark.parametrize(("kind", "options"), SETTINGS)
def test_a_setting_of_another_type_is_refused(
    kind: Callable[..., Any], options: dict[str, Any]
) -> None:
    with pytest.raises(dgq.DGQError) as error:
        kind(**options)
    assert in_one_line(error.value)


def test_lists_and_whole_numbers_are_taken() -> None:
    settings = dgq.QuantizationSettings(keep=["conv_in"])  # type: ignore[arg-type]
    assert list(settings.keep) == ["conv_in"]
    assert dgq.LearningSettings(rounding_lr=1).rounding_lr == 1
    assert dgq.WaitingSettings("disk", folder="here").folder == "here"  # type: ignore[arg-type]


OTHERS = [None, 3, nn.Linear(2, 2), object()]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    "function",
    [
        dgq.prepare_,
        dgq.dequantize,
        dgq.start_observing_,
        dgq.fit_activations_,
        dgq.read_manifest,
        dgq.load_quantized_unet,
        dgq.load_pipeline,
        dgq.model_card,
        dgq.plan,
        lambda x: dgq.quantization(x, weights=False, activations=False).__enter__(),
        lambda x: dgq.save(x, "nowhere"),
        lambda x: dgq.save_quantized(x, "nowhere", None),  # type: ignore[arg-type]
        lambda x: dgq.calibrate(x, PROMPTS),
    ],
)
def test_something_else_is_refused(
    function: Callable[[Any], Any], other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dgq.DGQError) as error:
        function(other)
    assert in_one_line(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("w4a8", (1.0,), (8, 8)),
        (NEAREST, (1.0,), (8, 8)),
        *((NEAREST.quantization, t, (8, 8)) for t in ((), None, 5, (float("nan"),), (1, 1), "a")),
        *((NEAREST.quantization, (1.0,), size) for size in (8, (0, 0), (8, 8, 8), (8.5, 8), None)),
    ],
)
def test_a_unet_is_not_quantized_for_what_cannot_be(arguments: Any) -> None:
    unet = micro_unet()
    with pytest.raises(dgq.DGQError) as error:
        dgq.quantize_(unet, *arguments)
    assert in_one_line(error.value)
    assert type(unet.down_blocks[0].resnets[0].conv1) is nn.Conv2d


@pytest.mark.parametrize(
    "function",
    [
        lambda path: dgq.save_quantized(micro_unet(), path, None),  # type: ignore[arg-type]
        dgq.load_quantized_unet,
        dgq.read_manifest,
        dgq.model_card,
    ],
)
def test_a_name_that_no_folder_can_have_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(dgq.DGQError, match="File name too long") as error:
        function("x" * 300)
    assert in_one_line(error.value)


@pytest.mark.parametrize("value", [np.zeros((1, 77, 16), np.float32), {1, 2}, object()])
def test_a_call_of_anything_but_tensors_is_refused(value: Any) -> None:
    calls = [unet_call(micro_unet(), 3, t, seed=int(t)) for t in (801.0, 1.0)]
    given = [call | {"encoder_hidden_states": value} for call in calls]
    with pytest.raises(dgq.DGQError, match=r"call 0: .*states is a .* a tensor") as e:
        dgq.calibrate(micro_unet(), given, NEAREST, progress=False)
    assert in_one_line(e.value)


def test_a_unet_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        unet = micro_unet()
    calls = [unet_call(unet, 3, t, seed=int(t)) for t in (801.0, 1.0)]
    with pytest.raises(dgq.DGQError, match=r"conv_in.* made in torch\.inference_mode") as error:
        dgq.calibrate(unet, calls, NEAREST, progress=False)
    assert in_one_line(error.value)


def test_nothing_is_shown_where_progress_is_off(capfd: pytest.CaptureFixture[str]) -> None:
    unet = micro_unet()
    calls = [unet_call(unet, 3, t, seed=int(t)) for t in (801.0, 1.0)]
    learning = dgq.LearningSettings(iterations=0, polish_iterations=0)
    recipe = dgq.Ours(4, 8, learning=learning, network=None)
    assert recipe.measures
    dgq.calibrate(unet, calls, recipe, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_is_not_recorded(micro_folder: Path) -> None:
    pipeline: Any = dgq.load_pipeline(str(micro_folder))
    with pytest.raises(dgq.DGQError, match=r"such as pipe\.unet"), dgq.recording(pipeline):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"n_prompts": None},
        {"n_held_out_prompts": -1},
        {"n_held_out": 0},
        {"batch_size": 0},
        {"waiting": "disk"},
        {"generation": None},
        {"device": "gpu"},
    ],
)
def test_a_plan_of_impossible_numbers_is_refused(
    options: dict[str, Any], micro_folder: Path
) -> None:
    with pytest.raises(dgq.DGQError) as error:
        dgq.plan(str(micro_folder), **options)
    assert in_one_line(error.value)


def without_text(pipeline: Any) -> dict[str, Any]:
    pipeline.text_encoder = None
    return {}


def of_another_sampler(pipeline: Any) -> dict[str, Any]:
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    return {}


def in_two_precisions(pipeline: Any) -> dict[str, Any]:
    pipeline.text_encoder.half()
    return {}


def in_chunks(pipeline: Any) -> dict[str, Any]:
    for module in pipeline.unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(4, 1)
    return {}


HOSTILE: list[tuple[Callable[[Any], dict[str, Any]], str]] = [
    (without_text, "draws a picture by itself"),
    (of_another_sampler, "draws a picture by itself"),
    (in_two_precisions, "in one precision"),
    (in_chunks, "in chunks"),
    (lambda _: {"waiting": "disk"}, "expected dgq.WaitingSettings"),
    (lambda _: {"waiting": {}}, "expected dgq.WaitingSettings"),
    (lambda _: {"guidance_scale": "x"}, "guidance_scale must be a number"),
    (lambda _: {"num_inference_steps": 10**9}, "at most"),
    (
        lambda _: {"waiting": dgq.WaitingSettings("disk", folder=Path(__file__))},
        r"waiting\.folder .* cannot be written into",
    ),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_calibration_that_cannot_be_leaves_the_unet_as_it_is(
    change: Callable[[Any], dict[str, Any]], message: str, micro_folder: Path
) -> None:
    pipeline: Any = dgq.load_pipeline(str(micro_folder))
    options = {"num_inference_steps": 2, "progress": False} | change(pipeline)
    with pytest.raises(dgq.DGQError, match=message) as error:
        dgq.calibrate(pipeline, PROMPTS, NEAREST, **options)
    assert in_one_line(error.value)
    call = unet_call(pipeline.unet, 2, 401.0)
    with torch.no_grad():
        assert torch.equal(pipeline.unet(**call)[0], micro_unet()(**call)[0])


def test_a_unet_of_another_pipeline_is_refused(micro_folder: Path) -> None:
    for unet in ("x", nn.Linear(2, 2), dgq.load_pipeline(str(micro_folder)).vae):
        with pytest.raises(dgq.DGQError, match=r"expected a UNet|does not fit the pipeline"):
            dgq.load_pipeline(str(micro_folder), unet)  # type: ignore[arg-type]
    other = replace_width(micro_unet())
    with pytest.raises(dgq.DGQError, match="its cross_attention_dim is 24, there 16"):
        dgq.load_pipeline(str(micro_folder), other)


def replace_width(unet: Any) -> Any:
    """A UNet of the same kind for a text of another width."""
    config = {**unet.config, "cross_attention_dim": 24}
    return type(unet).from_config(config)
