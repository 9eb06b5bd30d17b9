"""Models of the first file formats load for ever and give the output they gave."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgq.errors import DGQError
from dgq.inference.layers import PackedLayer
from dgq.storage.checkpoint import load_quantized_unet, read_manifest, save_quantized
from tests.quantized_models import decibels
from tests.tiny_pipelines import unet_call

FOLDER = Path(__file__).parents[2] / "fixtures" / "dgq-1"
NAMES = ("w4a8", "rtn")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_it_gives_the_output_it_gave(name: str) -> None:
    """Bit-identical on the CPU that made the fixture.

    Elsewhere sums are ordered differently, and an activation between two codes may fall to either:
    hence a bound in decibels, far above what any mistake in scales or codes would leave.
    """
    unet = load_quantized_unet(FOLDER / name, "float")
    before = load_file(FOLDER / name / "output.safetensors")
    call: dict[str, Any] = unet_call(unet, 2, 401.0, seed=9)
    assert decibels(before["one_step"], unet(**call)[0]) > 60
    call["timestep"] = torch.tensor([801.0, 1.0])
    assert decibels(before["two_steps"], unet(**call)[0]) > 60


@pytest.mark.parametrize("name", NAMES)
def test_all_codes_and_scales_are_those_of_the_file(name: str) -> None:
    file = load_file(FOLDER / name / "quantized.safetensors")
    unet = load_quantized_unet(FOLDER / name, "float")
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, PackedLayer)}
    assert len(layers) == sum(n.endswith(".weight_quantizer.codes") for n in file) > 10
    for layer_name, layer in layers.items():
        for part in ("codes", "scale", "zero_point"):
            stored = file[f"{layer_name}.weight_quantizer.{part}"]
            assert torch.equal(getattr(layer, part), stored)
    found = unet.state_dict()
    hidden = "mid_block.attentions.0.transformer_blocks.0.attn1.{}.scale"
    stored = file[hidden.format("processor.hidden")]
    assert torch.equal(found[hidden.format("input_quantizer")].flatten(), stored.flatten())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_saved_again_it_is_of_the_new_format_and_the_same(name: str, tmp_path: Path) -> None:
    unet = load_quantized_unet(FOLDER / name, "float")
    save_quantized(unet, tmp_path, read_manifest(FOLDER / name))
    assert (
        json.loads((tmp_path / "config.json").read_text())["quantization_config"]["format"]
        == "dgq-3"
    )
    again = load_quantized_unet(tmp_path, "float")
    call = unet_call(unet, 2, 401.0, seed=9)
    assert torch.equal(again(**call)[0], unet(**call)[0])
    assert again.state_dict().keys() == unet.state_dict().keys()


def test_the_fixture_is_small_and_of_the_first_format(tmp_path: Path) -> None:
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 300_000
    for name in NAMES:
        content = json.loads((FOLDER / name / "quantization.json").read_text())
        assert content["format"] == "dgq-1"
        assert "grouping" not in content["quantization"]["activations"]


def test_a_damaged_one_is_refused_as_any_other(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER / "rtn", tmp_path / "copy"))
    content = bytearray((folder / "quantized.safetensors").read_bytes())
    content[-50] ^= 1
    (folder / "quantized.safetensors").write_bytes(content)
    with pytest.raises(DGQError, match="is not the one that"):
        load_quantized_unet(folder)


def described(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the description of a model in place."""
    file = folder / "quantization.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(edit(content) or content))
    return folder


@torch.no_grad()
def test_the_second_format_holds_the_modules_that_run(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER / "rtn", tmp_path / "second"))
    unet, file = load_quantized_unet(folder, "float"), folder / "quantized.safetensors"
    save_file(dict(unet.state_dict()), file, {"format": "dgq-2"})
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    described(folder, lambda content: content.update(format="dgq-2", weights_sha256=sha256))
    again, call = load_quantized_unet(folder, "float"), unet_call(unet, 2, 401.0, seed=9)
    assert torch.equal(again(**call)[0], unet(**call)[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content.update(format="dgq-9"),
            "json has another format, dgq-9: expected",
        ),
        (lambda content: content.update(format="dgq-2"), "is not the one that"),
        (
            lambda content: content.update(timesteps=["soon"]),
            "json: timesteps are .*: restore it",
        ),
        (
            lambda content: content.pop("timesteps") and None,
            "json: its .* is damaged .*: restore",
        ),
        (lambda content: [content], "json is damaged: restore it"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_its_file(
    edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    folder = described(Path(shutil.copytree(FOLDER / "rtn", tmp_path / "copy")), edit)
    with pytest.raises(DGQError, match=message):
        load_quantized_unet(folder)
