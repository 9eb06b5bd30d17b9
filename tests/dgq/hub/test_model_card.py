"""Cards: made from what was measured, read by the hub's own parser, with lines that run."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard

import dgq
from data.calibration import CalibrationData
from dgq.command_line.main import main
from dgq.hub.card import recipe_lines
from dgq.hub.evidence import estimate
from dgq.hub.reproduction import MEASURED
from dgq.storage.checkpoint import read_manifest
from dgq.storage.manifest import QUANTIZATION
from dgq.storage.model_files import CONFIG_FILE
from evaluation.command_line import main as evaluate
from evaluation.command_line import parse_settings
from evaluation.models import as_json
from evaluation.protocol import Protocol
from lit.cli import main as train
from tests.evaluated_runs import BASE, SECRET, evaluation, named, write_evaluation
from tests.quantized_models import Calibrated

FIXTURES = Path(__file__).parents[2] / "fixtures" / "dgq-1"


@pytest.fixture
def model(calibrated_as: Callable[[str], Calibrated]) -> Calibrated:
    """W4A6 that multiplies integers."""
    return calibrated_as("exponents a6")


@pytest.fixture
def run(model: Calibrated, tmp_path: Path) -> Path:
    """A run that was evaluated, on a machine with places of its own."""
    folder = named(model, tmp_path / "run" / "quantized", SECRET)
    sha256 = read_manifest(folder).sha256
    write_evaluation(tmp_path / "run", "own", evaluation(sha256))
    write_evaluation(tmp_path / "run", "another", evaluation("0" * 64, 9999))
    config = {
        "model": {"learning": {"iterations": 7}, "waiting": {"folder": SECRET}},
        "data": {"captions": f"{SECRET}/captions.json", "cache": SECRET, "n_prompts": 5},
        "run": SECRET,
        "pipeline": SECRET,
    }
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def test_the_header_is_read_by_the_hub(run: Path) -> None:
    data = ModelCard(dgq.model_card(run, base_model=BASE)).data
    assert data.library_name == "diffusers"
    assert data.base_model == BASE
    assert data.to_dict()["base_model_relation"] == "quantized"
    assert data.pipeline_tag == "text-to-image"
    assert {"dgq", "w4a6"} <= set(data.tags or ())


def test_what_was_measured_is_there_with_intervals(run: Path) -> None:
    text = dgq.model_card(run)
    assert "| CLIP score | 31.25 (30.50 to 32.00) | 31.25 (30.50 to 32.00) |" in text
    assert "| FID to real images | 12.35 | 12.35 |" in text
    assert "| SQNR of the UNet's output, mean over steps, dB |  | 27.5 |" in text
    assert "100 images, seeds 0, 1" in text
    assert "9999" not in text
    assert read_manifest(run).sha256 in text
    assert "References: val2014" in text


def test_the_largest_scale_of_a_channel_is_that_of_all_layers() -> None:
    base = dgq.ActivationSettings(8, "multiples", max_exponent=2)
    own = dgq.ActivationSettings(2, "multiples", max_exponent=8)
    layers = {"conv": dgq.LayerSettings(activations=own), "other": dgq.LayerSettings()}
    weights = dgq.WeightSettings(4, symmetric=True, group_size=64, max_exponent=2)
    alike = "\n".join(recipe_lines(dgq.QuantizationSettings(weights, base)))
    mixed = "\n".join(recipe_lines(dgq.QuantizationSettings(weights, base, layers=layers)))
    assert "scales of channels up to 2^2 times the finest" in alike
    assert "scales of channels up to 2^8 times the finest" in mixed


@pytest.mark.parametrize("base_model", [None, BASE])
def test_no_place_of_this_machine_is_in_a_card(run: Path, base_model: str | None) -> None:
    text = dgq.model_card(run, base_model)
    for word in ("somebody", "secret", "/home", str(run.parent)):
        assert word not in text
    assert "captions.json" in text
    data = ModelCard(text).data
    assert data.base_model == base_model
    assert "_name_or_path" not in json.loads((run / "quantized" / CONFIG_FILE).read_text())


def test_a_pipeline_of_the_hub_is_the_base_model(model: Calibrated, tmp_path: Path) -> None:
    assert ModelCard(dgq.model_card(named(model, tmp_path / "a", BASE))).data.base_model == BASE
    embedded = dgq.model_card(named(model, tmp_path / "b", "scenes"))
    assert ModelCard(embedded).data.base_model is None
    assert "embedded model `scenes`" in embedded


def test_what_was_not_measured_is_not_claimed(model: Calibrated, tmp_path: Path) -> None:
    text = dgq.model_card(named(model, tmp_path / "a", BASE))
    assert "Images of this model were not measured." in text
    assert "FID" not in text
    assert "evaluate.py" not in text
    report = {"sqnr_db": 26.54, "n_held_out": 16}
    (tmp_path / "a" / "calibration.json").write_text(json.dumps(report))
    assert "16 held-out samples of the calibration: 26.5 dB" in dgq.model_card(tmp_path / "a")


def code(text: str, language: str) -> list[str]:
    """Blocks of code in a card."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("kind", ["unet", "unet of the hub", "pipeline", "earlier"])
def test_the_lines_that_load_it_run(
    kind: str,
    model: Calibrated,
    micro_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(micro_folder, BASE)
    folder = named(model, tmp_path / "unet", SECRET if kind == "unet" else BASE)
    if kind == "pipeline":
        unet = UNet2DConditionModel.from_pretrained(folder)
        dgq.load_pipeline(BASE, unet).save_pretrained("whole")
        folder = tmp_path / "whole"
    if kind == "earlier":
        folder = FIXTURES / "rtn"
    with monkeypatch.context() as elsewhere:  # where the base model is not a folder
        elsewhere.chdir("/")
        text = dgq.model_card(folder, repo_id="me/model")
    text = text.replace('"PIPELINE"', f'"{BASE}"')
    shutil.copytree(folder, "me/model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda source: source)
    (lines,) = code(text, "python")
    if kind == "earlier":  # of a UNet of another kind than the smallest pipeline's
        assert 'dgq.load_quantized_unet(snapshot_download("me/model"))' in lines
        lines = "\n".join(line for line in lines.splitlines() if "pipeline" not in line)
        names: dict[str, Any] = {}
        exec(lines, names)
        assert names["unet"].execution is not None
        return
    names = {}
    exec(lines, names)
    assert names["image"].size == (16, 16)
    assert names["pipeline"].unet.execution is not None


@pytest.mark.slow
def test_the_recipe_calibrates_such_a_model_again(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    text = dgq.model_card(finished_work / "run", repo_id="me/model")
    (recipe,) = code(text, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    settings = yaml.safe_load(recipe)
    assert settings["model"]["recipe"]["init_args"]["learning"]["iterations"] == 3
    assert "--run outputs/model --data.captions captions.txt" in text
    places = ("--pipeline", str(micro_folder), "--run", str(tmp_path / "again"))
    cache = ("--data.cache", str(tmp_path / "cache"), "--trainer.accelerator", "cpu")
    captions = ("--data.captions", str(finished_work / "captions.txt"))
    command = ["fit", "--config", str(tmp_path / "recipe.yaml"), *places, *captions, *cache]
    assert train(command, CalibrationData) == 0
    assert read_manifest(tmp_path / "again").sha256 == read_manifest(finished_work / "run").sha256


def test_the_command_that_measures_is_one(run: Path) -> None:
    text = dgq.model_card(run, BASE, "me/model")
    (command,) = re.findall(r"python evaluate.py (.*)", text)
    assert command == (
        "--ckpt outputs/model --protocol quick --prompts captions.json --references val2014 "
        "--num-images 100 --seeds 0 1 --num-inference-steps 3 --guidance-scale 3.0 "
        "--features clip --clip clip --sqnr-prompts 8"
    )
    assert evaluate([*command.split(), "--num-images", "0"]) == 2  # parsed, then refused


@pytest.mark.parametrize("protocol", ["scenes", "quick", "paper"])
def test_the_command_that_measures_repeats_the_evaluation(protocol: str, run: Path) -> None:
    given = ["--protocol", protocol, "--num-inference-steps", "6", "--metrics", "fid", "psnr"]
    given += ["--sqnr-prompts", "7", "--batch-size", "3", "--execution", "float"]
    asked = parse_settings(given)
    settings = as_json(asdict(asked.protocol))
    content = evaluation(read_manifest(run).sha256)
    drawn = {"prompts": "captions of scenes, test split, seed 0", "batch_size": asked.batch_size}
    content["protocol"] |= settings | drawn | {"preset": protocol, "references_sha256": None}
    (run / "evaluation" / "own" / "metrics.json").write_text(json.dumps(content))
    (command,) = re.findall(r"python evaluate.py (.*)", dgq.model_card(run, BASE, "me/model"))
    again = parse_settings(shlex.split(command))
    assert again.protocol == asked.protocol
    assert again.batch_size == asked.batch_size


def test_every_setting_that_affects_numbers_is_in_the_command() -> None:
    elsewhere = {"prompts", "references", "inception", "lpips", "image_reward"}
    assert {field.name for field in fields(Protocol)} - elsewhere == {*MEASURED} - {"batch_size"}


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"models": [{}]}', '{"models": 3, "protocol": {}}', '{"models": [{"a": 1}]}'],
)
def test_damaged_results_are_refused(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation" / "own" / "metrics.json").write_text(damage)
    assert main(["card", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "metrics.json" in error


@pytest.mark.parametrize("missing", ["sampler", "seeds", "guidance_scale", "extractors"])
def test_results_without_a_part_are_refused(missing: str, run: Path) -> None:
    content = evaluation(read_manifest(run).sha256)
    del content["protocol"][missing]
    (run / "evaluation" / "own" / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(dgq.DGQError, match=r"metrics\.json is damaged"):
        dgq.model_card(run)


def test_a_card_is_written_beside_the_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["card", str(run), "--base_model", BASE]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert not (run / "quantized" / "README.md").exists()
    assert main([*command, "--overwrite"]) == 2
    assert "give --write too" in capsys.readouterr().err
    assert main([*command, "--write"]) == 0
    assert (run / "quantized" / "README.md").read_text() == printed
    assert f"names {SECRET}, a place on this machine" in " ".join(capsys.readouterr().out.split())
    (run / "quantized" / "README.md").write_text("mine")
    assert main([*command, "--write"]) == 2
    assert (run / "quantized" / "README.md").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--write", "--overwrite"]) == 0
    assert (run / "quantized" / "README.md").read_text() == printed


@pytest.mark.parametrize("option", ["--base_model", "--repo_id"])
def test_a_path_is_no_id(option: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(run), option, SECRET]) == 2
    assert "expected owner/name" in capsys.readouterr().err


def test_a_damaged_model_gets_no_card(run: Path) -> None:
    config = json.loads((run / "quantized" / CONFIG_FILE).read_text())
    config[QUANTIZATION]["pipeline"] = "owner/other"
    (run / "quantized" / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(dgq.DGQError, match="damaged or was edited"):
        dgq.model_card(run)


def test_sizes_are_those_of_the_files(run: Path) -> None:
    text = dgq.model_card(run)
    files = sum(file.stat().st_size for file in (run / "quantized").glob("*.safetensors"))
    assert f"{files / 1e6:,.1f} MB here" in text


@pytest.mark.parametrize(("kind", "follows"), [("exponents a6", True), ("live", False)])
def test_other_timesteps_cost_only_where_scales_depend_on_them(
    kind: str, follows: bool, calibrated_as: Callable[[str], Calibrated], tmp_path: Path
) -> None:
    text = dgq.model_card(named(calibrated_as(kind), tmp_path / "model", BASE))
    assert ("nearest calibrated" in text) is follows
    assert ("no scale depends on the timestep" in text) is not follows


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_evaluation_with_the_most_images_counts(names: tuple[str, str], run: Path) -> None:
    sha256 = read_manifest(run).sha256
    for name, n_images in zip(names, (7, 500), strict=True):
        write_evaluation(run, name, evaluation(sha256, n_images))
    text = dgq.model_card(run)
    assert "500 images, seeds 0, 1" in text
    assert "--num-images 500" in text


def test_deviations_over_seeds_are_shown() -> None:
    found = {"value": 31.25, "std": 0.5, "interval": [30.5, 32.0]}
    assert estimate(found, 2) == "31.25 ± 0.50 (30.50 to 32.00)"
    assert estimate({"value": 12.0, "std": 0.25, "interval": None}, 1) == "12.0 ± 0.2"
    assert estimate(None, 1) == ""


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_the_newest_of_evaluations_with_as_many_images_counts(
    names: tuple[str, str], run: Path
) -> None:
    sha256 = read_manifest(run).sha256
    for seconds, name in enumerate(names):
        content = evaluation(sha256, 512)
        content["protocol"]["num_inference_steps"] = 40 + seconds
        write_evaluation(run, name, content)
        os.utime(run / "evaluation" / name / "metrics.json", (seconds, seconds))
    assert "512 images, seeds 0, 1, 41 steps" in dgq.model_card(run, BASE, "me/model")
