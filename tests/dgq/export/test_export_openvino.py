"""OpenVINO's model of a quantized UNet: what it computes, in what precision, and its files."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgq import load_pipeline, load_quantized_unet, save_quantized
from dgq.export.export import export
from dgq.inference.layers import PackedLayer
from tests.exported_models import RECIPES, exported_model
from tests.quantized_models import TIMESTEPS, decibels, description
from tests.tiny_pipelines import calibrate_, unet_call

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the micro UNet, by a program in which warnings are errors."""
    out = tmp_path_factory.mktemp("openvino") / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = export(exported_model("w4a8").folder, "openvino", out)
    assert made.folder == out
    return out


def compiled(folder: Path, precision: str = "f32", shapes: dict[str, Any] | None = None) -> Any:
    core = openvino.Core()
    model = core.read_model(folder / "unet" / "openvino_model.xml")
    if shapes:
        model.reshape(shapes)
    config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(model, "CPU", config)


def inputs_of(call: dict[str, Any]) -> dict[str, Any]:
    tensors = {name: t for name, t in call.items() if isinstance(t, Tensor)}
    tensors["timestep"] = call["timestep"].reshape(-1)[0]
    tensors |= call.get("added_cond_kwargs", {})
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def output(model: Any, call: dict[str, Any]) -> Tensor:
    return torch.from_numpy(model(inputs_of(call))["out_sample"])


def executed(model: Any) -> list[dict[str, str]]:
    """What runs: type, precision and name of each operator."""
    names = {"type": "layerType", "precision": "runtimePrecision", "origin": "originalLayersNames"}
    return [
        {key: str(node.get_rt_info()[name].value) for key, name in names.items()}
        for node in model.get_runtime_model().get_ops()
    ]


@torch.no_grad()
def test_openvino_computes_what_our_own_execution_does(folder: Path) -> None:
    model = exported_model("w4a8")
    unet = load_quantized_unet(model.folder, "float", torch.float32)
    engine = compiled(folder)
    for timestep in TIMESTEPS:
        call = model.at(timestep)
        assert decibels(unet(**call)[0], output(engine, call)) > 40
    for batch, size in ((1, 8), (3, 16)):  # nothing of the trace's size is left
        call = unet_call(unet, batch, TIMESTEPS[1], size) | {"timestep": torch.tensor(TIMESTEPS[1])}
        assert decibels(unet(**call)[0], output(engine, call)) > 40


def test_all_quantized_layers_run_in_int8(folder: Path) -> None:
    shapes = {"sample": [2, 4, 8, 8], "timestep": [], "encoder_hidden_states": [2, 77, 16]}
    products = [
        node
        for node in executed(compiled(folder, shapes=shapes))
        if node["type"] in ("Convolution", "FullyConnected", "FullyConnectedQuantizedLegacy")
    ]
    unet = exported_model("w4a8").unet
    n_layers = sum(hasattr(m, "weight_quantizer") for m in unet.modules())
    in_bytes = [node for node in products if node["precision"] in ("u8", "i8")]
    others = [node["origin"] for node in products if node not in in_bytes]
    assert len(in_bytes) == n_layers
    assert len(others) == 2, "conv_in and conv_out, which are kept"
    assert all("conv_in" in name or "conv_out" in name for name in others)


def test_the_step_is_found_in_float32_where_the_rest_is_rounded(folder: Path) -> None:
    model = compiled(folder, "bf16")
    if "bfloat16" not in str(model.get_property("INFERENCE_PRECISION_HINT")):
        pytest.skip("OpenVINO does not compute in bfloat16 here")
    (search,) = [node for node in executed(model) if node["type"] == "TopK"]
    assert search["precision"] == "f32"


@torch.no_grad()
def test_it_is_as_near_in_the_default_precision_as_rounding_lets_it(folder: Path) -> None:
    model = exported_model("w4a8")
    unet = load_quantized_unet(model.folder, "float", torch.float32)
    engine = compiled(folder, "bf16")
    assert decibels(unet(**model.call)[0], output(engine, model.call)) > 25


def test_the_files_are_those_that_optimum_intel_reads(folder: Path) -> None:
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "export.json",
        "unet/config.json",
        "unet/openvino_model.bin",
        "unet/openvino_model.xml",
    ]
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["cross_attention_dim"] == 16
    said = json.loads((folder / "export.json").read_text())
    assert said["engine"] == "openvino"
    assert said["layers"].startswith(f"{len(exported_layers())} layers in int8")
    assert said["versions"]["openvino"]


def exported_layers() -> list[object]:
    unet = load_quantized_unet(exported_model("w4a8").folder, "float")
    return [m for m in unet.modules() if isinstance(m, PackedLayer)]


@pytest.mark.slow
@torch.no_grad()
def test_the_unet_of_sdxl_takes_its_further_inputs(sdxl_folder: Path, tmp_path: Path) -> None:
    unet = load_pipeline(str(sdxl_folder)).unet
    manifest = description(unet, RECIPES["w4a8"])
    save_quantized(calibrate_(unet, RECIPES["w4a8"], TIMESTEPS), tmp_path / "model", manifest)
    export(tmp_path / "model", "openvino", tmp_path / "out")
    own = load_quantized_unet(tmp_path / "model", "float", torch.float32)
    call = unet_call(own, 2, TIMESTEPS[0], seed=4) | {"timestep": torch.tensor(TIMESTEPS[0])}
    engine, expected = compiled(tmp_path / "out"), own(**call)[0]
    # Random weights and ranges of one call: what rounds the other way grows over 200 layers.
    assert decibels(expected, output(engine, call)) > 30
    added = call["added_cond_kwargs"]
    for name in added:  # both are read
        other = call | {"added_cond_kwargs": added | {name: added[name].flip(0) + 1}}
        found = output(engine, other)
        assert decibels(own(**other)[0], found) > decibels(expected, found) + 5


@torch.no_grad()
@pytest.mark.filterwarnings("error")
def test_the_rest_of_a_pipeline_computes_the_same(micro_folder: Path, tmp_path: Path) -> None:
    from dgq.export.openvino_pipeline import write_rest_of_pipeline

    write_rest_of_pipeline(str(micro_folder), tmp_path)
    pipeline, core = load_pipeline(str(micro_folder)), openvino.Core()
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    assert (tmp_path / "scheduler" / "scheduler_config.json").exists()

    def run(part: str, **inputs: Tensor) -> Any:
        file = tmp_path / part / "openvino_model.xml"
        engine = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return engine({name: tensor.numpy() for name, tensor in inputs.items()})

    ids = pipeline.tokenizer(
        ["a red circle"], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    expected = pipeline.text_encoder(ids, output_hidden_states=True)
    found = run("text_encoder", input_ids=ids)
    for name, tensor in (
        ("last_hidden_state", expected.last_hidden_state),
        ("pooler_output", expected.pooler_output),
        ("hidden_states.0", expected.hidden_states[0]),
    ):
        assert decibels(tensor, torch.from_numpy(found[name])) > 50
    latents = torch.randn(1, 4, 6, 10)
    image = pipeline.vae.decode(latents).sample
    assert (
        decibels(image, torch.from_numpy(run("vae_decoder", latent_sample=latents)["sample"])) > 50
    )
    parameters = pipeline.vae.encode(image).latent_dist.parameters
    found = run("vae_encoder", sample=image)["latent_parameters"]
    assert decibels(parameters, torch.from_numpy(found)) > 50
