"""The likeness to Stable Diffusion: figures against independent ones, and the command."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.likeness import histogram, scores
from benchmarks.likeness.command import main, parser
from benchmarks.likeness.figures import thirds
from benchmarks.likeness.kinds import CONV2, GEGLU, KINDS, OTHER, kind_of, layer_name
from benchmarks.likeness.measure import MEASURED, Drawing, attach_, draw, measure
from benchmarks.likeness.pictures import short
from benchmarks.likeness.ranges import change_over_steps, outlier_ratios, outliers
from benchmarks.likeness.scores import ScoreTally, score_parts
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.observer import RangeObserver, Ranges
from dgq.storage.checkpoint import GenerationSettings
from dgq.unet.context import quantization
from dgq.unet.quantize import quantize_

PROMPTS = ["a red circle", "two blue squares", "a green star above a ring"]
DRAWING = Drawing(GenerationSettings(3, 3.0), seed=5, batch_size=2)
BLOCK = "mid_block.attentions.0.transformer_blocks.0.attn2"
CPU = torch.device("cpu")


def nothing() -> None:
    """Where no progress is wanted."""


def random_scores(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (4 * torch.randn(*shape, generator=generator)).softmax(-1)


def test_histogram_has_exact_shares_and_close_quantiles() -> None:
    values = torch.cat([random_scores(64, 77).flatten(), torch.zeros(50), torch.ones(3)])
    bins = histogram.count(values)
    assert int(bins.sum()) == values.numel()
    for exponent in (-4, -8, -12):
        expected = (values < 2.0**exponent).double().mean()
        assert histogram.share_below(bins, exponent) == pytest.approx(float(expected), abs=1e-12)
    for quantile in (0.5, 0.9, 0.99):
        expected = torch.quantile(values.double(), quantile, interpolation="lower").log2()
        assert 0 <= expected - histogram.quantile_log2(bins, quantile) <= 0.1
    assert histogram.quantile_log2(bins, 1.0) == 0.0
    octaves = histogram.share_by_octave(bins)
    assert float(octaves.sum()) == pytest.approx(1)
    assert float(octaves[127]) == pytest.approx(3 / values.numel())
    assert histogram.quantile_log2(histogram.count(torch.zeros(4)), 0.5) == histogram.LEAST_LOG2


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(DGQError, match="not finite"):
        histogram.count(torch.tensor([0.5, value]))


def test_a_planted_outlier_is_found_on_its_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 9, 4, 4, generator=generator)  # ranges of about 1
    x[:, 5] *= 20
    observer = RangeObserver(2, per_tensor=False)
    observer.update(x, torch.tensor([0, 1, 1]))
    for axis, dims, ranges in (
        ("channels", (0, 2, 3), observer.channels),
        ("pixels", (0, 1), observer.pixels),
    ):
        ratios = []
        for rows in (x[:1], x[1:]):
            width = (rows.amax(dims) - rows.amin(dims)).flatten().sort().values
            middle = (width[(len(width) - 1) // 2] + width[len(width) // 2]) / 2
            ratios.append(float(width[-1] / middle))
        assert ranges is not None
        assert outlier_ratios(ranges.high - ranges.low).tolist() == pytest.approx(ratios), axis
        assert outliers(ranges) == pytest.approx(sum(ratios) / 2)
    assert 15 < outliers(observer.channels) < 30
    assert observer.pixels is not None
    assert outliers(observer.pixels) < 3


def test_equal_and_dead_channels_have_finite_ratios() -> None:
    width = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    assert outlier_ratios(width).tolist() == pytest.approx([1, 1, 1e6])


def test_change_over_steps_is_that_of_the_total_range() -> None:
    low = torch.tensor([[-1.0, 0.0], [-3.0, -1.0]])
    high = torch.tensor([[0.0, 1.0], [1.0, 5.0]])
    assert change_over_steps(Ranges(low, high)) == 4  # from -3 to 5, over from -1 to 1
    assert change_over_steps(Ranges(torch.zeros(2, 1), torch.zeros(2, 1))) == 1


def test_thirds_of_any_number_of_steps() -> None:
    assert thirds([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == [1.5, 3.5, 5.5]
    assert thirds([1.0, 2.0]) == [1.0, 1.0, 2.0]
    assert thirds([1.0]) == [1.0, 1.0, 1.0]


def test_uniform_scores_have_uniform_mass() -> None:
    tally = ScoreTally(is_cross=True, n_steps=2, n_heads=3, n_halves=2, device=CPU)
    query, key = torch.zeros(4, 3, 10, 8), torch.randn(4, 3, 77, 8)
    for part, some in score_parts(query, key, None, 0.5):
        tally.update(some, torch.tensor([0, 1, 0, 1])[part], torch.tensor([0, 0, 1, 1])[part])
    assert tally.n_keys == 77
    assert torch.allclose(tally.mean_mass(), torch.full((2, 2, 3), 1 / 77, dtype=torch.float64))
    assert int(tally.bins.count_nonzero()) == 1
    assert int(tally.bins.sum()) == 76 * int(tally.start_bins.sum()) == 76 * 4 * 3 * 10


@pytest.mark.parametrize("limit", [1, 900, 5000, 10**9])
def test_scores_do_not_depend_on_the_parts(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MAX_SCORES", limit)
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(3, 2, n, 4, generator=generator) for n in (10, 15))
    mask = torch.zeros(3, 2, 1, 15)
    mask[1, :, :, 9:] = -torch.inf
    parts = list(score_parts(query, key, mask, 0.7))
    whole = torch.cat([torch.cat([s for p, s in parts if p == q], 2) for q, _ in dedupe(parts)])
    assert torch.allclose(whole, ((query @ key.mT) * 0.7 + mask).softmax(-1))
    assert all(s.numel() <= max(limit, 2 * 15) for _, s in parts)


def dedupe(parts: list[tuple[slice, Tensor]]) -> list[tuple[slice, Tensor]]:
    """The first of the parts of each slice of rows."""
    return [part for i, part in enumerate(parts) if part[0] not in [p for p, _ in parts[:i]]]


def test_mass_on_the_start_token_is_that_of_stock_diffusers(micro_folder: Path) -> None:
    pipeline = load_pipeline(str(micro_folder))
    sharpen_(pipeline.unet)
    seen: dict[float, list[Tensor]] = {}
    attention = pipeline.unet.get_submodule(BLOCK)
    stock_scores = attention.get_attention_scores
    timestep: list[float] = []

    def recorded(*args: Tensor) -> Tensor:
        probabilities: Tensor = stock_scores(*args)  # [rows x heads, queries, keys]
        by_row = probabilities.unflatten(0, (2, -1, attention.heads))
        seen.setdefault(timestep[-1], []).append(by_row[..., 0].mean(-1))
        return probabilities

    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: timestep.append(float(args[1])))
    attention.get_attention_scores = recorded
    attention.set_processor(AttnProcessor())
    draw(pipeline, PROMPTS, DRAWING, nothing)
    hook.remove()
    # [steps, halves, heads]; a timestep visited twice is one step.
    expected = torch.stack([torch.cat(rows, 1).mean(1) for rows in seen.values()])
    assert len(timestep) > 2 * len(seen) > 0

    pipeline = load_pipeline(str(micro_folder))
    sharpen_(pipeline.unet)
    blocks = measure(pipeline, PROMPTS, DRAWING, nothing).figures.blocks
    block = next(block for block in blocks if block.name == BLOCK)
    heads = expected.mean((0, 1))
    assert block.n_tokens == 77
    assert block.mass == pytest.approx(float(expected.mean()), rel=1e-4)
    assert block.mass != pytest.approx(1 / 77, rel=0.02)
    assert block.mass_without_prompt == pytest.approx(float(expected[:, 0].mean()), rel=1e-4)
    assert block.mass_with_prompt == pytest.approx(float(expected[:, 1].mean()), rel=1e-4)
    assert block.smallest_head == pytest.approx(float(heads.min()), rel=1e-4)
    assert block.largest_head == pytest.approx(float(heads.max()), rel=1e-4)
    assert block.thirds == pytest.approx(expected.mean((1, 2)).tolist(), rel=1e-4)


def sharpen_(unet: torch.nn.Module) -> None:
    """Make attention look at something: that of random weights is nearly uniform."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.to_q.weight.data *= 5
            module.to_k.weight.data *= 5


@pytest.mark.parametrize("folder", ["micro_folder", "sdxl_folder"])
def test_measuring_does_not_change_the_images(folder: str, request: pytest.FixtureRequest) -> None:
    pipeline = load_pipeline(str(request.getfixturevalue(folder)))
    before = draw(pipeline, PROMPTS[:2], DRAWING, nothing)
    attach_(pipeline, DRAWING.generation)
    with quantization(pipeline.unet, weights=False, activations=False, observing=True):
        assert torch.equal(draw(pipeline, PROMPTS[:2], DRAWING, nothing), before)


def test_every_quantizer_has_a_kind(sd_folder: Path, sdxl_folder: Path) -> None:
    seen = set()
    for folder in (sd_folder, sdxl_folder):
        unet = quantize_(load_unet(str(folder)), MEASURED, (1.0,), (8, 8))
        names = [n for n, m in unet.named_modules() if isinstance(m, ActivationQuantizer)]
        seen |= {kind_of(layer_name(name)) for name in names}
    assert seen == set(KINDS.values())
    assert kind_of("down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2") == GEGLU
    assert kind_of("mid_block.resnets.1.conv2") == CONV2
    assert kind_of("something_new.0") == OTHER


def test_short_names() -> None:
    assert short("down_blocks.0.attentions.1.transformer_blocks.2.attn2") == "down 0.1.2"
    assert short("mid_block.attentions.0.transformer_blocks.0.ff.net.2") == "mid 0.0"
    assert short("up_blocks.3.resnets.2.conv2") == "up 3.2"


def test_the_command_compares_weights(micro_folder: Path, tmp_path: Path) -> None:
    unet = load_unet(str(micro_folder))
    sharpen_(unet)
    snapshot = tmp_path / "step-000100.safetensors"
    save_file({name: tensor.half() for name, tensor in unet.state_dict().items()}, snapshot)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    output = tmp_path / "out"
    options = ("--prompts", "2", "--prompts-file", str(prompts), "--steps", "2")
    weights = ("--weights", str(snapshot), "pipeline")
    where = ("--pipeline", str(micro_folder), "--output", str(output), "--device", "cpu")
    assert main([*where, *options, *weights]) == 0

    content = json.loads((output / "likeness.json").read_text())
    assert list(content["weights"]) == [str(snapshot), "pipeline"]
    first, own = content["weights"].values()
    assert first["blocks"][0]["mass"] != own["blocks"][0]["mass"]
    assert first["scores"] != own["scores"]
    assert {layer["axis"] for layer in own["layers"]} <= {
        "channels",
        "pixels or tokens",
        "whole tensor",
    }
    text = (output / "likeness.md").read_text()
    assert "its own UNet weights" in text
    assert "## Over training" in text
    for layer in own["layers"]:
        assert f"| {layer['kind']} | " in text
    pictures = {path.name for path in (output / "likeness").iterdir()}
    assert pictures == {"start_token.png", "scores.png", "channels.png"}
    for picture in pictures:
        assert f"likeness/{picture}" in text
        assert (output / "likeness" / picture).read_bytes().startswith(b"\x89PNG")
    assert sum(path.stat().st_size for path in (output / "likeness").iterdir()) < 300_000
    assert {path.name for path in output.iterdir()} == {"likeness", "likeness.md", "likeness.json"}


@pytest.mark.slow
def test_the_command_measures_sdxl_without_guidance(sdxl_folder: Path, tmp_path: Path) -> None:
    where = ("--pipeline", str(sdxl_folder), "--output", str(tmp_path), "--device", "cpu")
    assert main([*where, "--prompts", "1", "--steps", "2", "--guidance", "0"]) == 0
    content = json.loads((tmp_path / "likeness.json").read_text())
    blocks = content["weights"]["pipeline"]["blocks"]
    assert {block["mass_without_prompt"] for block in blocks} == {None}
    assert "## Over training" not in (tmp_path / "likeness.md").read_text()


def test_errors_are_one_line(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_unet(str(micro_folder)).state_dict()
    name = "conv_in.weight"
    wrong = {
        "shape": state | {name: torch.zeros(1)},
        "missing": {n: t for n, t in state.items() if n != name},
        "surplus": state | {"another.weight": torch.zeros(1)},
    }
    for kind, tensors in wrong.items():
        save_file(tensors, tmp_path / f"{kind}.safetensors")
    (tmp_path / "damaged.safetensors").write_text("no")
    (tmp_path / "one.txt").write_text("a red circle")
    pipeline = ("--pipeline", str(micro_folder))
    cases = {
        ("--pipeline", str(tmp_path / "none")): "neither a local folder",
        ("--pipeline", str(tmp_path)): "is not a pipeline",
        (*pipeline, "--prompts", "0"): "--prompts must be a whole number of at least 1",
        (*pipeline, "--batch-size", "0"): "--batch-size must be",
        (*pipeline, "--device", "abacus"): "--device abacus cannot be used",
        (*pipeline, "--prompts-file", str(tmp_path / "one.txt")): "holds 1 prompts, fewer than",
        (*pipeline, "--weights", str(tmp_path / "shape.safetensors")): "is [1], expected [8, 4,",
        (*pipeline, "--weights", str(tmp_path / "missing.safetensors")): f"{name} is missing",
        (*pipeline, "--weights", str(tmp_path / "surplus.safetensors")): "is not in the UNet",
        (*pipeline, "--weights", str(tmp_path / "damaged.safetensors")): "is damaged",
        (*pipeline, "--weights", str(tmp_path / "absent.safetensors")): "does not exist",
    }
    output = tmp_path / "out"
    for arguments, message in cases.items():
        assert main([*arguments, "--output", str(output)]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not output.exists()


def test_help_explains_every_option() -> None:
    assert all(action.help for action in parser()._actions)
    assert "--weights" in parser().format_help()
