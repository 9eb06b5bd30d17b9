"""The likeness to Stable Diffusion: figures against independent ones, and the command."""

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from safetensors.torch import save_file
from torch import Tensor

from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.quantizers.observer import RangeObserver, Ranges
from dgq.storage.manifest import GenerationSettings
from dgq.unet.context import quantization
from scenes.studies import attention_scores
from scenes.studies.attention_scores import ScoreTally, score_parts
from scenes.studies.likeness import attach_, draw, main, make_parser, measure
from scenes.studies.ranges import change_over_steps, outlier_ratios, outliers

PROMPTS = ["a red circle", "two blue squares", "a green star above a ring"]
GENERATION = GenerationSettings(3, 3.0)
CROSS = ".attn2"
CPU = torch.device("cpu")


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


def test_uniform_scores_have_uniform_mass() -> None:
    tally = ScoreTally(is_cross=True, n_steps=2, n_halves=2, device=CPU)
    query, key = torch.zeros(4, 3, 10, 8), torch.randn(4, 3, 300, 8)
    for part, some in score_parts(query, key, None, 0.5):
        tally.update(some, torch.tensor([0, 1, 0, 1])[part], torch.tensor([0, 0, 1, 1])[part])
    assert tally.start_token().tolist() == pytest.approx([1, 1])
    # 1 / 300 is below 2^-8, and the start token is none of the others.
    assert int(tally.n_small) == tally.n_others == 299 * 4 * 3 * 10


def test_scores_that_are_not_finite_are_refused() -> None:
    tally = ScoreTally(is_cross=True, n_steps=1, n_halves=1, device=CPU)
    rows = torch.zeros(1, dtype=torch.long)
    tally.update(torch.full((1, 1, 2, 3), float("nan")), rows, rows)
    with pytest.raises(DGQError, match="not finite"):
        tally.start_token()


@pytest.mark.parametrize("limit", [1, 900, 5000, 10**9])
def test_scores_do_not_depend_on_the_parts(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_scores, "MAX_SCORES", limit)
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


def test_scores_are_those_of_stock_diffusers(micro_folder: Path) -> None:
    pipeline = load_pipeline(str(micro_folder))
    sharpen_(pipeline.unet)
    start: dict[str, dict[float, list[Tensor]]] = {}
    small: list[Tensor] = []
    timestep: list[float] = []

    def record(name: str, attention: Attention) -> None:
        stock = attention.get_attention_scores

        def recorded(*args: Tensor) -> Tensor:
            probabilities: Tensor = stock(*args)  # [rows x heads, queries, keys]
            halves = probabilities.unflatten(0, (2, -1))
            start.setdefault(name, {}).setdefault(timestep[-1], []).append(
                halves[..., 0].flatten(1)
            )
            small.append((probabilities[..., 1:] < 2**-8).flatten())
            return probabilities

        attention.get_attention_scores = recorded
        attention.set_processor(AttnProcessor())

    for name, attention in pipeline.unet.named_modules():
        if name.endswith(CROSS):
            record(name, attention)
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: timestep.append(float(args[1])))
    draw(pipeline, PROMPTS, GENERATION, 2)
    hook.remove()
    # [blocks, halves]; a timestep visited twice is one step.
    times = 77 * torch.stack(
        [
            torch.stack([torch.cat(masses, 1).mean(1) for masses in steps.values()]).mean(0)
            for steps in start.values()
        ]
    )
    assert len(timestep) > 2 * len(start[name_of_first(start)]) > 0

    pipeline = load_pipeline(str(micro_folder))
    sharpen_(pipeline.unet)
    found = measure(pipeline, PROMPTS, GENERATION, 2)
    assert found.start_token == pytest.approx(float(times.mean()), rel=1e-4)
    assert found.start_token != pytest.approx(1, rel=0.02)
    assert found.with_prompt == pytest.approx(float(times[:, 1].mean()), rel=1e-4)
    assert found.strongest_block == pytest.approx(float(times.mean(1).max()), rel=1e-4)
    share = float(torch.cat(small).double().mean())
    assert found.small_cross == pytest.approx(share, abs=1e-3)
    assert 0 < share < 1


def name_of_first(start: dict[str, dict[float, list[Tensor]]]) -> str:
    """Any block."""
    return next(iter(start))


def sharpen_(unet: torch.nn.Module) -> None:
    """Make attention look at something: that of random weights is nearly uniform."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.to_q.weight.data *= 5
            module.to_k.weight.data *= 5


@pytest.mark.parametrize("folder", ["micro_folder", "sdxl_folder"])
def test_measuring_does_not_change_the_images(folder: str, request: pytest.FixtureRequest) -> None:
    pipeline = load_pipeline(str(request.getfixturevalue(folder)))
    before = draw(pipeline, PROMPTS[:2], GENERATION, 2)
    attach_(pipeline, GENERATION)
    with quantization(pipeline.unet, weights=False, activations=False, observing=True):
        assert torch.equal(draw(pipeline, PROMPTS[:2], GENERATION, 2), before)


def test_the_command_compares_weights(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = load_unet(str(micro_folder))
    sharpen_(unet)
    snapshot = tmp_path / "step-000100.safetensors"
    save_file({name: tensor.half() for name, tensor in unet.state_dict().items()}, snapshot)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    options = ("--prompts", "2", "--prompts-file", str(prompts), "--steps", "2", "--device", "cpu")
    weights = ("--weights", str(snapshot), "pipeline")
    assert main(["--pipeline", str(micro_folder), *options, *weights]) == 0
    header, _, first, own = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ]
    assert first.startswith("| `step-000100.safetensors` |")
    assert own.startswith("| `pipeline` |")
    assert first.split(" | ")[1:] != own.split(" | ")[1:]
    assert {line.count(" | ") for line in (header, first, own)} == {14}


@pytest.mark.slow
def test_it_measures_sdxl_without_guidance(sdxl_folder: Path) -> None:
    found = measure(load_pipeline(str(sdxl_folder)), PROMPTS[:1], GenerationSettings(2, 0.0), 1)
    assert found.start_token == found.with_prompt


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
    (tmp_path / "one.txt").write_text("a red circle")
    pipeline = ("--pipeline", str(micro_folder))
    cases = {
        ("--pipeline", str(tmp_path / "none")): "neither a local folder",
        (*pipeline, "--prompts", "0"): "--prompts must be a whole number of at least 1",
        (*pipeline, "--batch-size", "0"): "--batch-size must be",
        (*pipeline, "--device", "abacus"): "--device abacus cannot be used",
        (*pipeline, "--prompts-file", str(tmp_path / "one.txt")): "holds 1 prompts, fewer than",
        (*pipeline, "--weights", str(tmp_path / "shape.safetensors")): "is [1], expected [8, 4,",
        (*pipeline, "--weights", str(tmp_path / "missing.safetensors")): f"{name} is missing",
        (*pipeline, "--weights", str(tmp_path / "surplus.safetensors")): "is not in the UNet",
        (*pipeline, "--weights", str(tmp_path / "absent.safetensors")): "does not exist",
    }
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_help_explains_every_option() -> None:
    assert all(action.help for action in make_parser()._actions)
