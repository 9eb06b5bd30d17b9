"""What the pictures of a run show, checked by the numbers in them."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dgq.errors import DGQError
from dgq.inspection.cost import count_operations, parameter_bytes
from dgq.math.log_scores import log_quantize_but_start
from dgq.math.reconstruction import sqnr_db
from dgq.storage.checkpoint import load_quantized_unet
from evaluation.explanation.command_line import main
from evaluation.explanation.costs import by_block, compared_costs
from evaluation.explanation.explain import FIGURES, FOLDER
from evaluation.explanation.pictures import relative_widths, scale_ranks
from evaluation.explanation.ranges import chosen, layer_ranges, observed_ranges, worst
from evaluation.explanation.scores import compared_scores, cross_attentions, recording_scores
from evaluation.explanation.sensitivity import OneAtATime, sensitivity
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import micro_unet

PICTURES = ("costs", "ranges", "scores", "sensitivity")


def test_a_run_is_explained_in_pictures_and_numbers(finished_work: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_work / "run", tmp_path / "run"))
    assert main([str(run), "--n-layers", "2", "--steps", "2"]) == 0
    folder = run / FOLDER
    for name in PICTURES:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(2**24) or ()) > 20
    figures = json.loads((folder / FIGURES).read_text())
    assert len(figures["ranges"]) == 2
    ratios = [layer["outlier_ratio"] for layer in figures["ranges"]]
    everything = [layer.outlier_ratio for layer in observed_ranges(run).values()]
    assert ratios == sorted(everything, reverse=True)[:2]
    assert figures["scores"]["tokens"][0] == "<start>"
    assert sum(figures["scores"]["mass_by_token_before"]) == pytest.approx(1, abs=1e-3)
    sensitivity = figures["sensitivity"]
    assert min(sensitivity["sqnr_db"].values()) > sensitivity["everything_db"] - 1
    layers = [name for part in sensitivity["parts"].values() for name in part]
    assert sorted(layers) == sorted(set(figures["costs"]) - {"conv_in", "conv_out"})


@pytest.mark.parametrize("name", ["kmeans", "exponents a6"])
def test_one_part_at_a_time_is_what_it_says(
    name: str, calibrated_as: Callable[[str], Calibrated]
) -> None:
    made = calibrated_as(name)
    quantized = load_quantized_unet(made.folder, "float")
    whole = quantized(**made.call)[0]
    stock = micro_unet()
    reference = stock(**made.call)[0]
    parts = OneAtATime(quantized, stock)
    with torch.no_grad():
        torch.testing.assert_close(quantized(**made.call)[0], reference, atol=1e-5, rtol=1e-4)
        parts.set_(parts.parts)
        torch.testing.assert_close(quantized(**made.call)[0], whole)
    found = sensitivity(parts, [made.call], [reference], lambda: None)
    assert found.keys() == {part.name for part in parts.parts}
    assert all(math.isfinite(db) and db > 0 for db in found.values())


@torch.no_grad()
def test_the_sensitivity_of_a_lone_layer_is_recomputed_by_hand(
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    made = calibrated_as("exponents a6")
    quantized = load_quantized_unet(made.folder, "float")
    layer = quantized.get_submodule("down_blocks.0.resnets.0.conv1")
    weight, bias = (t.clone() for t in layer.operands())
    stock = micro_unet()
    reference = stock(**made.call)[0]
    quantizer, target = layer.input_quantizer, stock.down_blocks[0].resnets[0].conv1
    step = quantized.calls
    found = sensitivity(OneAtATime(quantized, stock), [made.call], [reference], lambda: None)
    target.weight.data, target.bias.data = weight, bias

    def quantize(_module: Any, args: tuple[Tensor]) -> Tensor:
        table = quantizer.scale, quantizer.zero_point, quantizer.multiple
        index = list(step.timesteps).index(float(made.call["timestep"][0]))
        scale = (table[0][index] * table[2])[:, None, None]
        zero = table[1][index][:, None, None]
        codes = ((args[0] / scale).round() + zero).clamp(0, quantizer.largest)
        return (codes - zero) * scale

    target.register_forward_pre_hook(quantize)
    expected = float(sqnr_db(stock(**made.call)[0], reference))
    assert found["down_blocks.0.resnets.0.conv1"] == pytest.approx(expected, abs=0.05)


@torch.no_grad()
def test_scores_before_are_softmax_and_after_are_powers_of_two(
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    made = calibrated_as("kmeans")
    quantized, stock = load_quantized_unet(made.folder, "float"), micro_unet()
    name = next(iter(cross_attentions(stock)))
    scores = compared_scores(stock, quantized, made.call, name)
    torch.testing.assert_close(scores.before.sum(1), torch.ones(scores.before.shape[0]))
    with recording_scores(quantized.get_submodule(name)) as recorded:
        quantized(**made.call)
    after = recorded[0]
    torch.testing.assert_close(after[-1].mean(0), scores.after)
    rest = after[..., 1:]
    exponents = (rest / rest.amax((1, 2, 3), keepdim=True)).log2()
    torch.testing.assert_close(exponents, exponents.round(), atol=1e-3, rtol=0)
    torch.testing.assert_close(log_quantize_but_start(after, 8), after)
    stock_mass, own_mass = scores.start_mass
    assert own_mass == pytest.approx(stock_mass, abs=0.05)


@torch.no_grad()
def test_costs_add_up(calibrated_as: Callable[[str], Calibrated]) -> None:
    made = calibrated_as("exponents")
    stock = micro_unet()
    costs = compared_costs(stock, load_quantized_unet(made.folder), made.call)
    operations = count_operations(stock, (), made.call)
    assert sum(cost.before.macs for cost in costs.values()) == operations.layer_macs
    kept = costs["conv_in"]
    assert kept.before.weight_bytes == kept.after.weight_bytes
    inner = costs["down_blocks.0.resnets.0.conv1"]
    assert inner.after.weight_bytes * 8 == inner.before.weight_bytes
    assert all(cost.seconds_before > 0 < cost.seconds_after for cost in costs.values())
    sums = by_block(costs)
    assert {"time_embedding", "down_blocks.0", "mid_block", "up_blocks.1"} < sums.keys()
    total = sum(block["bytes_before"] for block in sums.values())
    assert 0.8 * parameter_bytes(stock) < total < parameter_bytes(stock)


def observed(**more: Tensor) -> dict[str, Tensor]:
    """Ranges of four channels at two steps, and of three pixels."""
    high = torch.tensor([[1.0, 8.0, 2.0, 1.0], [1.0, 16.0, 1.0, 1.0]])
    pixels = torch.tensor([[1.0, 2.0, 8.0], [1.0, 1.0, 16.0]])
    return {
        "observer.channel_low": -high,
        "observer.channel_high": high,
        "observer.pixel_low": 0 * pixels,
        "observer.pixel_high": pixels,
        **more,
    }


def test_widths_and_scales_are_those_observed() -> None:
    layer = layer_ranges("a", observed(multiple=torch.tensor([1, 8, 2, 1])))
    assert layer.channels[0].tolist() == [2, 16, 4, 2]
    assert layer.outlier_ratio == pytest.approx((8 + 16) / 2)
    assert scale_ranks(layer)[1].tolist() == [0, 3, 1, 0]
    assert relative_widths(layer.channels)[1].tolist() == [0, 4, 0, 0]
    powers = layer_ranges("a", observed(exponent=torch.tensor([3, 0, 2, 3])))
    assert powers.shared[0].tolist() == [1, 8, 2, 1]


def test_groups_are_ranked_by_width_along_their_axis() -> None:
    index = torch.tensor([[2, 0, 1], [1, 1, 0]])
    layer = layer_ranges("a", observed(group_index=index, axis=torch.tensor(1)))
    assert (layer.axis, layer.kind) == ("pixels", "group")
    assert scale_ranks(layer).tolist() == [[0, 1, 2], [0, 0, 1]]


def test_layers_are_chosen_by_name_or_by_their_outliers() -> None:
    calm = {"observer.channel_low": torch.zeros(1, 3), "observer.channel_high": torch.ones(1, 3)}
    ranges = {
        "x.conv.input_quantizer": layer_ranges("x.conv.input_quantizer", calm),
        "y.input_quantizer": layer_ranges("y.input_quantizer", observed()),
    }
    assert [layer.name for layer in worst(ranges, 1)] == ["y.input_quantizer"]
    assert [layer.name for layer in chosen(ranges, ["x.conv"])] == ["x.conv.input_quantizer"]
    with pytest.raises(DGQError, match="z has no observed ranges"):
        chosen(ranges, ["z"])


def test_what_is_no_run_is_refused_in_one_line(
    calibrated_as: Callable[[str], Calibrated], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "cannot be used as a checkpoint" in capsys.readouterr().err
    folder = calibrated_as("kmeans").folder
    assert main([str(folder)]) == 2
    assert "holds the observed ranges" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--n-layers", "0"], "--n_layers must be a whole number of at least 1"),
        (["--n_layers", "0"], "--n_layers must be a whole number of at least 1"),
        (["--steps", "-1"], "--steps must be a whole number of at least 1"),
        (["--prompts", "a dog", " "], "--prompts: one is empty"),
        (["--layers", "nothing"], "nothing has no observed ranges"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_drawn(
    options: list[str],
    said: str,
    finished_work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(finished_work / "run", tmp_path / "run"))
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    assert main([str(run), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run / FOLDER).exists()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """With another bit, which torch reads without complaint."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_checkpoint_is_one_line(
    damage: Callable[[bytes], bytes],
    finished_work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(finished_work / "run", tmp_path / "run"))
    content = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(damage(content))
    assert main([str(run)]) == 2
    assert "last.ckpt is damaged" in capsys.readouterr().err
