"""What serves which cell, how figures come about, what is resumed, and what the page says."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from benchmarks.ablation import command, page, runs, stages
from benchmarks.ablation.cells import Calibration, Cell, described, serves
from benchmarks.ablation.held_out import HeldOut
from benchmarks.ablation.measure import figures, gain_interval
from benchmarks.ablation.store import Store
from benchmarks.ablation.summary import find, gain, rows_of
from data.calibration import CalibrationData
from dgq.calibration.other_activations import requantize_activations_, sharing_copy
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError
from dgq.recipes import DGQ, RECIPES, RTN, Ours, Recipe
from dgq.settings import LearningSettings
from lit.cli import main as train
from tests.tiny_pipelines import calibrate_, fit_arguments, micro_unet, unet_call

EVERYTHING = stages.Choice(command.STAGES, full=True)
DEFAULT = stages.Choice(command.STAGES)
LEARNED_RANGES = LearningSettings(activation_lr=0.05)


# Which calibration serves which cell


@pytest.mark.parametrize(
    ("calibrated", "wanted", "expected"),
    [
        (DGQ(4, 8), DGQ(4, 6), True),
        (DGQ(4, 8), DGQ(4, 6, n_groups=2, per_step=False), True),
        (DGQ(4, 8), DGQ(4, 8, score_bits=16), True),
        (DGQ(4, 8, score_bits=16), DGQ(4, 8), False),
        (DGQ(4, 8), DGQ(8, 8), False),
        (DGQ(4, 8), DGQ(4, 8, range_method="minmax"), False),
        (DGQ(4, 8), DGQ(4, 8, learning=LearningSettings(iterations=1)), False),
        (DGQ(4, 8), DGQ(4, 8, cross_attention="affine"), False),
        (DGQ(4, 8), DGQ(4, 8, maximum="calibrated"), False),
        (DGQ(4, 8, maximum="calibrated"), DGQ(4, 8), True),
        (DGQ(4, 8, cross_attention="affine"), DGQ(4, 6, maximum="calibrated"), True),
        (DGQ(4, 8), DGQ(4, 8, keep_start_token=False), False),
        (DGQ(4, 4, learning=LEARNED_RANGES), DGQ(4, 6, learning=LEARNED_RANGES), False),
        (Ours(4, 8), Ours(4, 6), False),  # bits are measured, and the whole is learned
        (Ours(4, 16), Ours(4, 6), False),
        (Ours(4, 8), RTN(4, 8), False),
    ],
)
def test_a_calibration_serves_other_activations_of_the_same_weights(
    calibrated: Recipe, wanted: Recipe, expected: bool
) -> None:
    assert serves(calibrated, wanted) == expected


def test_a_recipe_that_measures_its_layers_serves_itself_alone() -> None:
    class Choosing(DGQ):
        def settings(self, unet: Any, calls: Any = None, progress: bool = True) -> Any:
            return self.quantization

    assert not serves(Choosing(4, 8), Choosing(4, 6))


@pytest.mark.parametrize("choice", [DEFAULT, EVERYTHING])
def test_names_tell_models_apart_and_the_first_seed_comes_first(choice: stages.Choice) -> None:
    cells = stages.cells_of(choice)
    models = {(cell.calibration, cell.recipe) for cell in cells}
    assert len({cell.name for cell in cells}) == len(models)
    seeds = [cell.calibration.seed for cell in cells]
    assert seeds == sorted(seeds)
    assert {(c.stage, c.row, c.bits) for c in cells if c.calibration.seed == 1} == {
        (c.stage, c.row, c.bits)
        for c in cells
        if c.calibration.seed == 0
        and (choice.full or (c.stage == "main" and c.row in ("ours", page.BASELINE)))
    }


def test_every_recipe_of_a_known_family_is_in_the_full_table() -> None:
    names = {c.calibration.recipe.name for c in stages.cells_of(EVERYTHING)}
    names |= {c.recipe.name for c in stages.cells_of(EVERYTHING)}
    known = [f + bits for f in stages.FAMILIES for bits in ("w8a8", *stages.BITS)]
    assert {name for name in known if name in RECIPES} <= names


@pytest.mark.parametrize(
    "recipe",
    [*RECIPES.values(), *(recipe for _, _, recipe in stages.component_recipes(6))],
    ids=repr,
)
def test_a_described_recipe_is_read_as_itself(recipe: Recipe) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--recipe", type=Recipe)
    content = json.loads(json.dumps({"recipe": described(recipe)}))
    assert parser.instantiate_classes(parser.parse_object(content)).recipe == recipe


def test_parts_of_dgq_are_made_from_the_ranges_of_another(tmp_path: Path) -> None:
    recipes = [recipe for _, _, recipe in stages.component_recipes(6)]
    calibrated, *others = recipes
    served = [recipe for recipe in others if serves(calibrated, recipe)]
    assert len(served) == 3  # per tensor, per step, and logarithmic under a calibrated maximum
    unet = calibrate_(micro_unet(), calibrated.quantization)
    call = unet_call(unet, 2, 401.0, seed=9)
    outputs = [unet(**call)[0]]
    for recipe in served:
        other = sharing_copy(unet)
        requantize_activations_(other, recipe.quantization)
        outputs.append(other(**call)[0])
    assert all(output.isfinite().all() for output in outputs)
    assert len({float(output.detach().sum()) for output in outputs}) == len(outputs)


@pytest.mark.slow
def test_a_model_from_observed_ranges_is_the_one_calibrated_so(
    micro_folder: Path, tmp_path: Path
) -> None:
    wanted = DGQ(4, 6, n_groups=3, learning=LearningSettings(3, 2))
    first = replace(wanted, activation_bits=8, n_groups=8)
    for recipe in (first, wanted):
        calibration = Calibration(str(micro_folder), "micro", recipe)
        name = "micro" if recipe is first else "other"
        arguments = fit_arguments(micro_folder, tmp_path, f"runs/{name}", "--config", "x.yaml")
        config = tmp_path / f"{name}.yaml"
        config.write_text(json.dumps({"model": calibration.config["model"]}))
        arguments[arguments.index("x.yaml")] = str(config)
        assert train(arguments, CalibrationData) == 0
    calibration = Calibration("m", "micro", first)
    cell = Cell("main", "row", "w4a6", wanted, calibration)
    (tmp_path / "runs/micro").rename(tmp_path / "runs" / calibration.name)
    folder = runs.model_of(cell, tmp_path)
    assert folder.name == "m-micro-0--activation_bits-6--n_groups-3"
    name = "diffusion_pytorch_model.safetensors"
    made, expected = load_file(folder / name), load_file(tmp_path / "runs/other/quantized" / name)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) for key in expected)


# Figures


def test_figures_are_those_of_the_energies() -> None:
    generator = np.random.default_rng(0)
    signal, noise = generator.uniform(50, 60, (3, 40)), generator.uniform(0.1, 0.3, (3, 40))
    found = figures(signal, noise)
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(signal.sum() / noise.sum()))
    assert found["sqnr_by_step_db"][1] == pytest.approx(
        10 * math.log10(signal[1].sum() / noise[1].sum())
    )
    low, high = found["interval_db"]
    assert low < found["sqnr_db"] < high
    energies = found["signal_by_prompt"], found["noise_by_prompt"]
    half = [value / 2 for value in energies[1]]
    assert gain_interval(energies[0], half, energies[1]) == pytest.approx((3.01, 3.01), abs=0.01)


def test_held_out_batches_cover_each_call_and_prompt_once() -> None:
    calls = UNetCalls(
        torch.randn(3, 20, 4, 2, 2), torch.tensor([9.0, 5.0, 1.0]), {"x": torch.randn(20, 2, 7)}
    )
    seen = torch.zeros(3, 20)
    for call, prompts, arguments in HeldOut(calls, torch.empty(0)).batches(18):
        seen[call, prompts] += 1
        assert arguments["sample"].shape[0] == 2 * (prompts.stop - prompts.start)
        assert (arguments["timestep"] == calls.timesteps[call]).all()
    assert (seen[:, :18] == 1).all()
    assert (seen[:, 18:] == 0).all()


# What is resumed


CELLS = [
    Cell("main", "DGQ", f"w4a{bits}", DGQ(4, bits), Calibration("scenes", "dgq_w4a8", DGQ(4, 8)))
    for bits in (8, 6)
]


def test_a_line_cut_short_is_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    for cell in CELLS:
        store.add(cell, 4, {"sqnr_db": 1.0})
    text = store.file.read_text()
    store.file.write_text(text[:-10])
    again = Store(store.file)
    assert again.find(CELLS[0], 4) is not None
    assert again.find(CELLS[1], 4) is None
    assert again.find(CELLS[0], 8) is None  # other prompts
    again.add(CELLS[1], 4, {"sqnr_db": 1.0})
    assert store.file.read_text() == text
    store.file.write_text("nothing\n")
    with pytest.raises(DGQError, match="line 1 is damaged"):
        Store(store.file)


def test_other_settings_are_other_cells(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells.jsonl")
    store.add(CELLS[0], 4, {})
    learning = LearningSettings(iterations=300)
    other = replace(CELLS[0].calibration, recipe=DGQ(4, 8, learning=learning))
    assert store.find(replace(CELLS[0], calibration=other, recipe=other.recipe), 4) is None


def test_the_command_resumes_and_fills_both_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str] = []

    def measured(folder: Path, *_: Any) -> Mapping[str, Any]:
        if len(work) == 3:
            raise KeyboardInterrupt
        work.append(folder.name)
        return line(20.0 + len(work)) | {"integer_layers": 3, "gbops": 1.0, "megabytes": 2.0}

    nothing_is_calibrated(monkeypatch)
    monkeypatch.setattr(command, "measure", measured)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    options = ["--recipes", "dgq", "ours", "--models", "scenes", "--seeds", "0", "1"]
    options += ["--stages", "main", "--published-iterations", "0"]
    options += ["--outputs", str(tmp_path), "--docs", str(tmp_path), "--readme", str(readme)]
    assert command.main(options) == 130
    assert len(Store(tmp_path / "cells.jsonl").lines) == 3
    done = list(work)
    work.clear()
    monkeypatch.setattr(command, "measure", lambda folder, *_: again(folder, work))
    assert command.main(options) == 0
    assert not set(done) & set(work)
    text = (tmp_path / "results.md").read_text()
    assert "ours" in text
    assert "± " in text
    found = readme.read_text()
    assert found.startswith("before\n")
    assert found.endswith("after\n")
    assert "\nold\n" not in found
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert len(numbers["cells"]) == 12
    assert all(cell["commands"][0].startswith("python train.py fit") for cell in numbers["cells"])
    work.clear()
    assert command.main(options) == 0
    assert work == []


@pytest.mark.parametrize(("options", "whole"), [("", True), ("--models scenes", False)])
def test_the_project_s_own_tables_are_replaced_by_whole_ones_alone(
    options: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_calibrated(monkeypatch)
    seen: list[str] = []

    def measured(folder: Path, *_: Any) -> Mapping[str, Any]:
        seen.append(readme.read_text())
        return again(folder, [])

    monkeypatch.setattr(command, "measure", measured)
    monkeypatch.setattr(command, "cells_of", lambda choice: stages.cells_of(choice)[:3])
    monkeypatch.setattr(command, "ROOT", tmp_path)
    readme, outputs = tmp_path / "README.md", tmp_path / "outputs"
    before = f"{page.BEGIN}\nold\n{page.END}\n"
    readme.write_text(before)
    assert command.main([*options.split(), "--outputs", str(outputs)]) == 0
    assert set(seen) == {before}
    assert (readme.read_text() != before) == whole
    assert (tmp_path / "docs/reference/results.md").is_file() == whole
    assert (outputs / "results.md").is_file()


def nothing_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "calibrated", lambda *_: None)
    monkeypatch.setattr(command, "model_of", lambda cell, _: Path(cell.name))
    monkeypatch.setattr(command, "held_out_calls", lambda *_: None)
    monkeypatch.setattr("benchmarks.ablation.remaining.planned_seconds", lambda *_: 60.0)


def again(folder: Path, work: list[str]) -> Mapping[str, Any]:
    work.append(folder.name)
    return line(22.0) | {"integer_layers": 3, "gbops": 1.0, "megabytes": 2.0}


def line(db: float, n: int = 6, **more: Any) -> dict[str, Any]:
    """A measured cell of some SQNR."""
    generator = np.random.default_rng(int(10 * db))
    signal = np.full((2, n), 100.0)
    noise = signal / 10 ** (db / 10) * generator.uniform(0.9, 1.1, (2, n))
    return figures(signal, noise) | more


# What the page says


def row_line(row: str, bits: str, db: float, seed: int = 0, stage: str = "main") -> dict[str, Any]:
    names = {"stage": stage, "model": "scenes", "row": row, "bits": bits, "seed": seed}
    return line(db, **names, integer_layers=1, gbops=1.0, megabytes=1.0)


def test_means_spreads_and_gains_are_over_seeds() -> None:
    values = {
        ("ours", 0): 26.0,
        ("ours", 1): 27.0,
        (page.BASELINE, 0): 23.0,
        (page.BASELINE, 1): 23.5,
    }
    rows = rows_of(row_line(row, "w4a8", db, seed) for (row, seed), db in values.items())
    ours, base = find(rows, row="ours"), find(rows, row=page.BASELINE)
    assert ours is not None
    assert base is not None
    exact = [line["sqnr_db"] for line in ours.lines]
    assert ours.sqnr_db == pytest.approx(np.mean(exact))
    assert ours.spread_db == pytest.approx(np.std(exact, ddof=1))
    found = gain(ours, base)
    assert found is not None
    gains = [a["sqnr_db"] - b["sqnr_db"] for a, b in zip(ours.lines, base.lines, strict=True)]
    assert found.mean_db == pytest.approx(np.mean(gains))
    assert found.interval_db[0] > 2


def test_a_part_that_brings_nothing_is_called_so() -> None:
    values = dict(zip(page.PARTS, (10, 12, 15, 15.0, 14, 16, 20), strict=True))
    lines = [row_line(row, "w4a8", db, stage="components") for row, db in values.items()]
    table = "\n".join(page.component_section("scenes", rows_of(lines)))
    marked = {row.split(" | ")[0].strip("| +"): row for row in table.splitlines() if "|" in row}
    assert "not clear" in marked["log scores in cross-attention"]
    assert "a loss" in marked["`<start>` kept"]
    assert "not clear" not in marked["learned rounding"]
    assert "a loss" not in marked["learned rounding"]


def test_a_readme_without_marks_stays_as_it_is() -> None:
    assert page.with_section("text", "tables") == "text"


def test_options_are_chosen() -> None:
    arguments = command.build_parser().parse_args(["--quick"])
    assert isinstance(arguments, argparse.Namespace)
    assert {c.calibration.n_prompts for c in stages.cells_of(command.choice_of(arguments))} == {4}
    options = ["--recipes", "ours", "--models", "scenes-xl"]
    few = command.choice_of(command.build_parser().parse_args(options))
    assert {c.row for c in stages.cells_of(few) if c.stage == "main"} == {"ours"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--prompts 0", "--prompts must be a whole number of at least 1"),
        ("--num-images -1", "--num-images must be a whole number of at least 0"),
        ("--published-iterations -1", "--published-iterations must be"),
        ("--minutes nan", "--minutes must be at least 0"),
        ("--seeds 0 0", "--seeds names one twice"),
        ("--seeds -1", "--seeds must be"),
    ],
)
def test_bad_numbers_are_one_line(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*options.split(), "--outputs", str(tmp_path), "--list"]) == 2
    assert said in capsys.readouterr().err
