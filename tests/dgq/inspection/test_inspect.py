"""``python -m dgq inspect``: counts agree with the tensors, of every format and kind of folder."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dgq.command_line.main import main
from dgq.inspection.inspect import inspect_model
from dgq.inspection.table import by_powers, make_table, shares, size_line, widths
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import load_quantized_unet
from dgq.storage.model_files import CONFIG_FILE, WEIGHTS_FILE
from tests.quantized_models import Calibrated

FIXTURES = Path(__file__).parents[2] / "fixtures" / "dgq-1"


@pytest.mark.parametrize("name", ["exponents a6", "multiples", "pixels", "w4a16", "a8 only"])
def test_counts_are_those_of_the_file(
    name: str, calibrated_as: Callable[[str], Calibrated]
) -> None:
    model = calibrated_as(name)
    found = inspect_model(model.folder)
    tensors = load_file(model.folder / WEIGHTS_FILE)
    quantized = [key for key in tensors if key.endswith(".codes")]
    if model.settings.weights.n_bits < 16:
        assert sum(kind["layers"] for kind in found["layers"]) == len(quantized)
    assert {kind["weight_bits"] for kind in found["layers"]} == {
        model.settings.weights.n_bits if model.settings.weights.n_bits < 16 else 32
    }
    assert found["kept"] == {
        kept: tensors[f"{kept}.weight"].numel() for kept in ("conv_in", "conv_out")
    }
    exponents = [t for key, t in tensors.items() if key.endswith(".exponent")]
    multiples = [
        t
        for key, t in tensors.items()
        if key.endswith(".multiple") and not key.endswith("score_quantizer.multiple")
    ]
    for given, key in ((exponents, "weight_exponents"), (multiples, "activation_multiples")):
        expected = Counter(str(value) for each in given for value in each.flatten().tolist())
        assert found[key] == expected
    groups = [t for key, t in tensors.items() if key.endswith("quantizer.group_index")]
    assert sum(found["activation_groups"].get("along", {}).values()) == len(groups)
    assert found["bytes"]["on_disk"] == (model.folder / WEIGHTS_FILE).stat().st_size
    n_weights = sum(kind["weights"] for kind in found["layers"]) + sum(found["kept"].values())
    assert n_weights < found["bytes"]["full_precision"] / 4 < 1.2 * n_weights
    execution = load_quantized_unet(model.folder).execution
    assert execution is not None
    assert found["execution"]["integer_layers"] == execution.integer_layers
    assert found["execution"]["float_layers"] == execution.float_layers


@pytest.mark.parametrize("name", ["rtn", "w4a8"])
def test_models_of_the_first_format_are_shown(name: str) -> None:
    found = inspect_model(FIXTURES / name)
    assert found["format"] == "dgq-1"
    assert found["layers"][0]["layers"] > 0
    assert shown(found).count("dgq-1") >= 1


def test_folders_of_runs_and_pipelines_are_shown(
    calibrated_as: Callable[[str], Calibrated], micro_folder: Path, tmp_path: Path
) -> None:
    model = calibrated_as("exponents a6")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "quantized").symlink_to(model.folder)
    unet = load_quantized_unet(model.folder, "float", torch.float32)
    load_pipeline(str(micro_folder), unet).save_pretrained(tmp_path / "whole")
    alone = inspect_model(model.folder)
    for place in ("run", "whole"):
        found = inspect_model(tmp_path / place)
        for key in ("layers", "kept", "weight_exponents", "activation_multiples", "execution"):
            assert found[key] == alone[key]


def test_the_table_says_what_matters(calibrated_as: Callable[[str], Calibrated]) -> None:
    found = inspect_model(calibrated_as("exponents a6").folder)
    text = shown(found)
    for words in ("dgq-3", found["sha256"], "weights of 4 bits, inputs of 6 bits", "conv_out"):
        assert words in text
    assert f"{found['execution']['integer_layers']} layers" in text
    reasons = inspect_model(calibrated_as("pixels").folder)
    assert "k-means groups need an integer product each" in shown(reasons)


def shown(found: dict[str, object]) -> str:
    """The table as text."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(make_table(found))
    return captured.get()


def test_where_there_is_no_terminal_json_is_printed(
    calibrated_as: Callable[[str], Calibrated], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = calibrated_as("exponents a6").folder
    assert main(["inspect", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == inspect_model(folder)


def flip_weights(folder: Path) -> None:
    """Change one bit of the weights."""
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def edit_description(folder: Path) -> None:
    """Change one number of the description."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["quantization_config"]["generation"]["guidance_scale"] += 1
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def cut(folder: Path) -> None:
    """Lose the end of the description."""
    text = (folder / CONFIG_FILE).read_text()
    (folder / CONFIG_FILE).write_text(text[: len(text) // 2])


@pytest.mark.parametrize("damage", [flip_weights, edit_description, cut])
def test_damage_is_one_line(
    damage: Callable[[Path], None],
    calibrated_as: Callable[[str], Calibrated],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in calibrated_as("exponents a6").folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_bits_of_mixed_layers_are_given_on_average() -> None:
    alike = {"weight_bits": 4, "activation_bits": 8, "layers": 2, "weights": 300}
    assert widths([alike, alike | {"weight_bits": 32}]) == "4 bits"
    eight = {"weight_bits": 8, "activation_bits": 8, "layers": 1, "weights": 100}
    assert widths([alike, eight]) == "4 to 8 bits, 5.00 on average"


def test_ratios_of_sizes_belong_to_their_sizes() -> None:
    sizes = {"full_precision": 24_000_000, "on_disk": 3_000_000, "in_memory": 8_000_000}
    assert size_line(sizes) == (
        "3.0 MB on disk, 8.0 MB in memory; 24.0 MB in full precision (÷ 8.0 and ÷ 3.0)"
    )


def test_multiples_are_shown_by_powers_of_two_however_many_there_are() -> None:
    counts = {str(multiple): 1 for multiple in range(1, 3001)}
    found = by_powers(counts)
    assert list(found)[:3] == ["1", "2 to 3", "4 to 7"]
    assert list(found)[-1] == "2048 to 3000"
    assert sum(found.values()) == 3000
    assert found["2048 to 3000"] == 953
    assert shares(by_powers({"1": 1, "3": 2, "9": 1})) == "1: 25 %, 3: 50 %, 9: 25 %"
