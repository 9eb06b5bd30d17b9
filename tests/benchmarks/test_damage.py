"""Where damage begins to be seen, the noise floors, pairs of recipes, the page and the plot."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scenes
from benchmarks.damage import command as damage
from benchmarks.damage import noise, report
from evaluation import bootstrap, command_line, references
from evaluation.bootstrap import bootstrap_interval
from evaluation.estimate import Ratio, mean
from evaluation.extractors import Seen
from evaluation.gaussian import fit_gaussian, frechet_distance
from evaluation.images import to_images, to_tensor
from evaluation.prompts import reference_captions
from evaluation.references import RENDER_BATCH


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)


BITS = ("W8A8", "W4A8", "W4A6", "W4A5", "W4A4")
N = 40


def sample(seed: int, shift: float = 0.0, error: float | None = None) -> noise.Sample:
    """Random features, CLIP scores and answers of the oracle for N images."""
    generator = np.random.default_rng(seed)
    scores, right = generator.normal(80 - shift, 3, N), generator.random(N) < 0.9 - shift / 20
    return noise.Sample(
        torch.from_numpy(generator.normal(shift, 1, (N, 3))),
        {
            "clip_score": {"": mean(scores)},
            "oracle_mean": {
                "colour": mean(right.astype(float)),
                "place": Ratio(np.array([1.0, 0.0] * (N // 2)), np.array([1.0, 1.0] * (N // 2))),
            },
            "oracle_all": {"all": mean(right.astype(float))},
        },
        None if error is None else np.full(N, error),
    )


REAL = fit_gaussian(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("sds", "expected"),
    [
        ((0.1, 0.5, 1.9, 2.1, 30.0), "begins to see it at W4A5, 2.1 sd"),
        ((3.0, 4.0, 5.0, 6.0, 7.0), "begins to see it at W8A8, 3.0 sd"),
        ((0.0, 0.0, 0.0, 0.0, 2.0), "sees it nowhere down to W4A4"),
        ((-9.0, -3.0, 0.0, 1.0, 1.0), "sees it nowhere down to W4A4"),
        (
            (0.0, 2.5, 1.0, 3.5, 9.0),
            "begins to see it at W4A5, 3.5 sd (at W4A8 too, but not steadily)",
        ),
        ((0.0, 2.5, 1.0, 3.5, 0.0), "sees it at W4A8, W4A5 alone, and no longer at W4A4"),
    ],
)
def test_where_a_metric_begins_to_see(sds: tuple[float, ...], expected: str) -> None:
    assert report.begins_to_see(BITS, sds).startswith(expected)


def test_deviations_are_finite_even_without_noise() -> None:
    assert noise.deviations(3.0, 2.0) == 1.5
    assert noise.deviations(0.0, 0.0) == 0
    assert noise.deviations(-0.1, 0.0) == -noise.MOST_SDS
    assert noise.deviations(1.0, 1e-9) == noise.MOST_SDS


def test_resamples_are_those_of_the_bootstrap_of_evaluations() -> None:
    judged = noise.judge(sample(1), sample(0), REAL)
    expected = bootstrap_interval(sample(1).means["clip_score"][""].value, N)
    found = np.percentile(judged.replicates["clip_score"], [2.5, 97.5])
    assert tuple(found) == pytest.approx(expected)


def test_values_are_those_of_the_images_as_they_are() -> None:
    full, ours = sample(0), sample(1, 1.0, error=0.01)
    values = noise.judge(ours, full, REAL).values
    assert values["fid"] == pytest.approx(frechet_distance(REAL, fit_gaussian(ours.features)))
    between = frechet_distance(fit_gaussian(full.features), fit_gaussian(ours.features))
    assert values["fid_to_full_precision"] == pytest.approx(between)
    assert values["psnr"] == pytest.approx(20)
    parts = [ratio.value() for ratio in ours.means["oracle_mean"].values()]
    assert values["oracle_mean"] == pytest.approx(sum(parts) / 2)
    assert {"psnr", "fid_to_full_precision"}.isdisjoint(noise.judge(full, full, REAL).values)


def test_images_that_are_equal_have_no_finite_psnr() -> None:
    values = noise.judge(sample(1, error=0.0), sample(0), REAL).values
    assert math.isinf(values["psnr"])


def test_deviation_over_prompts_is_of_pairs() -> None:
    ours, theirs = (noise.judge(sample(k), sample(0), REAL) for k in (1, 2))
    assert noise.paired_sd(ours, ours, "clip_score") == 0
    a, b = (sample(k).means["clip_score"][""].hits for k in (1, 2))
    expected = np.std(a - b, ddof=1) / math.sqrt(N)
    assert noise.paired_sd(ours, theirs, "clip_score") == pytest.approx(expected, rel=0.2)
    assert noise.paired_sd(ours, None, "clip_score") == pytest.approx(
        np.std(a, ddof=1) / math.sqrt(N), rel=0.2
    )


def test_floor_of_seeds_is_what_the_seeds_differ_by() -> None:
    samples = [sample(k) for k in range(3)]
    values = noise.seed_values(samples, REAL)
    assert set(values) == set(report.COLUMNS)
    gaussians = [fit_gaussian(s.features) for s in samples]
    assert values["fid"] == pytest.approx([frechet_distance(REAL, g) for g in gaussians])
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [frechet_distance(gaussians[a], gaussians[b]) for a, b in pairs]
    assert values["fid_to_full_precision"] == pytest.approx(expected)
    scores = [s.means["clip_score"][""].hits.mean() for s in samples]
    floor = noise.spread(values["clip_score"])
    assert floor["mean"] == pytest.approx(np.mean(scores))
    assert floor["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert floor["values"] == pytest.approx(scores)


class Colours:
    """Stands for extractors: sees the mean colour of an image."""

    def look(self, batches: Any, _n_embedded: int) -> Seen:
        return Seen(torch.cat([to_tensor(batch).mean((2, 3)) for batch in batches]), None, None)


def test_floor_of_renders_is_between_renders_of_different_scenes() -> None:
    n, size = 24, 8
    found = noise.render_distances(n, 2, size, Colours())  # type: ignore[arg-type]
    assert len(set(found)) == 2
    captions = reference_captions(n + noise.MIN_RENDERS, noise.RENDER_SEEDS)
    assert set(captions[:n]).isdisjoint(captions[n:])
    parts = [captions[i : i + RENDER_BATCH] for i in range(0, len(captions), RENDER_BATCH)]
    images: list[Image.Image] = []
    for number, part in enumerate(parts):
        images += to_images(scenes.render(part, size, noise.RENDER_SEEDS + number))
    features = to_tensor(images).mean((2, 3))
    ours, others = fit_gaussian(features[:n]), fit_gaussian(features[n:])
    assert found[0] == pytest.approx(frechet_distance(others, ours), abs=1e-6)


def of_evaluation(name: str, bits: tuple[int, int], sqnr: float) -> dict[str, Any]:
    """A model as evaluate.py reports it."""
    quantization = {"weights": {"n_bits": bits[0]}, "activations": {"n_bits": bits[1]}}
    return {"name": name, "quantization": quantization, "sqnr": {"plain": {"mean_db": sqnr}}}


def test_a_change_is_measured_in_the_largest_of_the_floors() -> None:
    samples = [sample(k) for k in range(3)]
    floors = {k: {"seeds": noise.spread(v)} for k, v in noise.seed_values(samples, REAL).items()}
    floors["fid"]["renders"] = {"mean": 0.1, "sd": 50.0, "values": []}
    full = noise.judge(samples[0], samples[0], REAL)
    ours = noise.judge(sample(5, 2.0, error=0.001), samples[0], REAL)
    model = damage.describe(of_evaluation("a", (4, 6), 17.5), ours, full, floors, [17.0, 19.0])
    assert (model["bits"], model["sqnr_db"], model["psnr_db"]) == ("W4A6", 17.5, 30)
    assert model["sqnr_sd_db"] == pytest.approx(math.sqrt(2))
    fid, score = model["metrics"]["fid"], model["metrics"]["clip_score"]
    assert fid["largest_sd"] == 50
    assert fid["sds"] == pytest.approx((ours.values["fid"] - full.values["fid"]) / 50)
    assert score["difference"] < 0 < score["sds"]
    largest = max(floors["clip_score"]["seeds"]["sd"], noise.paired_sd(ours, full, "clip_score"))
    assert score["sds"] == pytest.approx(-score["difference"] / largest)
    to_full = model["metrics"]["fid_to_full_precision"]
    between_seeds = floors["fid_to_full_precision"]["seeds"]["mean"]
    assert to_full["difference"] == pytest.approx(to_full["value"] - between_seeds)


def test_pairs_have_the_same_bits_and_a_decibel_between_them() -> None:
    listed = [("a", "W4A6", 20.0), ("b", "W4A6", 19.0), ("c", "W4A6", 17.5), ("d", "W4A6", 19.6)]
    listed += [("e", "W4A4", 19.0), ("f", "W4A4", None)]
    models = [{"name": n, "bits": b, "sqnr_db": s} for n, b, s in listed]
    better, worse = sample(1, error=0.001), sample(1, shift=1.0, error=0.002)
    judged = [noise.judge(s, sample(0), REAL) for s in (better, worse)]
    pairs = list(damage.compare_pairs(models, [judged[0], *[judged[1]] * 5], N))
    names = [(pair["better"], pair["worse"]) for pair in pairs]
    assert names == [("a", "b"), ("b", "c"), ("d", "b")]
    first, second = pairs[:2]
    assert first["sqnr_db"] == 1.0
    assert {"psnr", "clip_score", "fid"} <= set(first["told_apart_by"])
    assert first["sds"]["clip_score"] == pytest.approx(
        noise.advantage("clip_score", judged[0], judged[1])
    )
    assert first["images_needed"] < N
    assert not second["told_apart_by"]
    assert set(second["sds"].values()) == {0.0}
    assert second["images_needed"] is None


def test_images_needed_for_a_difference_grow_with_its_square() -> None:
    assert noise.images_needed(1.0, 512) == 2048
    assert noise.images_needed(4.0, 512) == 128
    assert noise.images_needed(-1.0, 512) is None


def made_figures() -> dict[str, Any]:
    """Figures of a page, with a metric that gets better, and one that sees all."""
    sds = {
        "fid": (-2.5, 0.5, 4.0, 12.0, 80.0),
        "fid_to_full_precision": (-9.0, -8.0, -1.0, 3.0, 90.0),
        "clip_score": (0.2, 0.9, 2.4, 9.0, 120.0),
        "oracle_mean": (0.0, 0.3, 1.2, 4.0, 60.0),
        "oracle_all": (2.2, 0.4, 3.0, 15.0, 150.0),
    }
    entry = {"value": 0.9, "difference": 0.1, "prompts_sd": 0.05, "largest_sd": 0.1}
    models = [
        {
            "name": "rtn_" + bits.lower(),
            "bits": bits,
            "sqnr_db": None if position == 0 else 30.0 - 6 * position,
            "sqnr_sd_db": 1.0,
            "psnr_db": 40.0 - 5 * position,
            "metrics": {key: {**entry, "sds": sds[key][position]} for key in report.COLUMNS},
        }
        for position, bits in enumerate(BITS)
    ]
    floors = {key: {"seeds": noise.spread([1.0, 2.0, 3.0])} for key in report.COLUMNS}
    floors["fid"]["renders"] = noise.spread([5.0, 5.5])
    return {
        "command": "python benchmarks/damage",
        "num_images": 512,
        "seeds": [0, 1, 2],
        "draws": 8,
        "n_references": 1024,
        "full_precision": {"fid": 11.5, "clip_score": 85.0, "oracle_mean": 1.0, "oracle_all": 0.93},
        "floors": floors,
        "bits": models,
        "rivals": [],
        "pair_range_db": [0.5, 2.0],
        "pairs": [],
    }


PAIR = {
    "bits": "W4A6",
    "better": "w4a6",
    "worse": "w4a6-plain",
    "sqnr_db": 1.04,
    "sds": dict(zip(report.PAIR_COLUMNS, (1.0, 2.5, -2.2, 0.0, 0.3, 30.0), strict=True)),
    "told_apart_by": ["fid_to_full_precision", "psnr"],
    "images_needed": 328,
}


def test_the_page_has_a_line_for_each_width_and_sentence_for_each_metric() -> None:
    lines = list(report.page(made_figures()))
    rows = [line for line in lines if line.startswith(("| W", "| full"))]
    assert len(rows) == 6
    assert {row.count("|") for row in rows} == {9}
    assert rows[0] == "| full precision |  |  | 11.50 |  | 85.0 | 1.000 | 0.930 |"
    assert rows[1].startswith("| W8A8 | - ± 1.0 | 40.0 | 0.90 (-2.5 ○) | 0.90 (-9.0) |")
    assert rows[3].endswith("| 0.9 (+2.4 ●) | 0.900 (+1.2) | 0.900 (+3.0 ●) |")
    assert "- FID: begins to see it at W4A6, 4.0 sd." in lines
    assert any(line.startswith("- oracle all: begins to see it at W4A6") for line in lines)
    assert "| FID | 5.25 ± 0.35 | 2.00 ± 1 | 0.05, 0.05, 0.05, 0.05, 0.05 |" in lines
    assert any("no such pairs" in line for line in lines)


def test_a_pair_is_listed_with_what_tells_it_apart() -> None:
    lines = list(report.pair_table(made_figures() | {"pairs": [PAIR]}))
    row = next(line for line in lines if line.startswith("| W4A6"))
    head = next(line for line in lines if line.startswith("| bits"))
    assert row.count("|") == head.count("|")
    assert row.startswith("| W4A6 | w4a6 | w4a6-plain | 1.0 | +1.0 | +2.5 ● | -2.2 ○ |")
    assert row.endswith("| +30.0 ● | FID to FP, PSNR | 328 |")
    untold = PAIR | {"told_apart_by": [], "images_needed": None}
    assert list(report.pair_table(made_figures() | {"pairs": [untold]}))[4].endswith("none | - |")


def test_everything_is_written_and_nothing_beside(tmp_path: Path) -> None:
    figures = made_figures()
    text = report.write(figures, tmp_path)
    names = ["damage.json", "damage.md", "damage.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "damage.md").read_text() == text
    assert json.loads((tmp_path / "damage.json").read_text()) == figures
    with Image.open(tmp_path / "damage.png") as picture:
        assert min(picture.size) > 600


def test_the_plot_shows_every_metric_and_the_threshold() -> None:
    upper, lower = report.plot(made_figures()).axes
    lines = {str(line.get_label()): list(line.get_ydata()) for line in upper.get_lines()}  # type: ignore[arg-type]
    assert lines["FID"] == [report.LEAST_DRAWN, 0.5, 4.0, 12.0, 80.0]
    assert {label for label, _ in report.COLUMNS.values()} <= lines.keys()
    assert [noise.THRESHOLD, noise.THRESHOLD] in lines.values()
    assert upper.get_yscale() == "log"
    assert [tick.get_text() for tick in lower.get_xticklabels()] == list(BITS)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--num-images", "1"), "--num-images must be at least 2"),
        (("--draws", "1"), "--draws must be at least 2"),
        (("--seeds", "0", "1", "1"), "--seeds must be at least 3 different ones"),
        (("--rivals", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_done(
    options: tuple[str, ...],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(damage, "calibrate", lambda run: pytest.fail(f"calibrated {run}"))
    monkeypatch.chdir(tmp_path)
    assert damage.main(options) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        damage.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("num-images", "outputs", "docs", "rivals", "seeds", "draws", "devices"):
        assert f"--{option} " in text
        assert text.count("(default: ") >= 7


@pytest.mark.slow
def test_rivals_are_taken_once_and_without_the_runs_compared_anyway(
    finished_work: Path, tmp_path: Path
) -> None:
    run, other, ladder = finished_work / "run", tmp_path / "other", tmp_path / "rtn_w4a4"
    shutil.copytree(run, other)
    given = [other, run, ladder / "quantized", run / "quantized", ladder]
    arguments = damage.parse(["--rivals", *map(str, given)])
    assert damage.check(arguments, [ladder]) == [other, run / "quantized"]


@pytest.mark.slow
def test_the_whole_command_on_a_tiny_pipeline(
    finished_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recipe, which is its own rival; the oracle cannot read images this small."""

    def calibrate(run: Path) -> None:
        if not run.exists():
            shutil.copytree(finished_work / "run", run)

    def evaluate(script: str, *options: str) -> None:
        assert script == "evaluate.py"
        assert command_line.main([*options, "--latency-calls", "1"]) == 0

    for module in (references, noise):
        monkeypatch.setattr(module, "MIN_RENDERS", 16)
    monkeypatch.setattr(noise, "MEANS", ("clip_score",))
    for key in ("oracle_mean", "oracle_all"):
        monkeypatch.delitem(report.COLUMNS, key)
    monkeypatch.setattr(damage, "RECIPES", ("rtn_w4a4",))
    monkeypatch.setattr(damage, "calibrate", calibrate)
    monkeypatch.setattr(damage, "call", evaluate)
    outputs, docs = tmp_path / "outputs", tmp_path / "docs"
    options = ("--num-images", "2", "--draws", "2", "--outputs", str(outputs), "--docs", str(docs))
    assert damage.main([*options, "--rivals", str(outputs / "rtn_w4a4" / "quantized")]) == 0
    figures = json.loads((docs / "damage.json").read_text())
    (ours,) = figures["bits"]
    assert ours["name"] == "rtn_w4a4"
    assert not figures["rivals"]
    evaluated = json.loads((outputs / "damage-2" / "metrics.json").read_text())["models"][1]
    for key, metric in ours["metrics"].items():
        assert metric["value"] == pytest.approx(evaluated["metrics"][key]["value"], rel=1e-5), key
    assert ours["psnr_db"] == pytest.approx(evaluated["metrics"]["psnr"]["value"], rel=1e-6)
    alone = json.loads((outputs / "damage-2-seeds" / "metrics.json").read_text())["models"][0]
    for key in ("fid", "clip_score"):
        expected = alone["metrics"][key]["seeds"]
        assert figures["floors"][key]["seeds"]["values"] == pytest.approx(expected, rel=1e-5)
    # Three of full precision, one for each seed, which both calls share, and one of the recipe.
    assert len(list((outputs / "images").iterdir())) == 4
    assert not figures["pairs"]
    assert "no such pairs" in (docs / "damage.md").read_text()
