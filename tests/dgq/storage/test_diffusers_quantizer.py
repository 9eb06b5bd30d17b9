"""diffusers' own check-list for quantization methods, item by item, and what else may go wrong."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, UNet2DConditionModel
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.stored_tensors import StoredTensors
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet, read_manifest, save_quantized
from dgq.storage.dequantize import dequantize
from dgq.storage.diffusers_config import DGQConfig
from dgq.storage.model_files import WEIGHTS_FILE
from dgq.unet.unet_checks import NORMS
from tests.quantized_models import SETTINGS, Calibrated, decibels
from tests.tiny_pipelines import save_micro

Models = Callable[[str], Calibrated]
exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


def stock_load(folder: Path, **options: Any) -> Any:
    """As a user of diffusers loads it."""
    return UNet2DConditionModel.from_pretrained(folder, **options)


def output(unet: Any, model: Calibrated) -> Tensor:
    with torch.no_grad():
        result: Tensor = unet(**model.call)[0]
    return result


# Loading


@pytest.mark.parametrize("name", SETTINGS)
def test_from_pretrained_gives_what_our_loader_gives(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    ours, theirs = load_quantized_unet(model.folder), stock_load(model.folder)
    assert torch.equal(output(theirs, model), output(ours, model))
    assert theirs.execution == ours.execution
    assert {n: t.dtype for n, t in theirs.state_dict().items()} == {
        n: t.dtype for n, t in ours.state_dict().items()
    }
    assert not theirs.training
    assert not any(p.requires_grad for p in theirs.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["kmeans", "multiples"])
def test_scales_and_norms_stay_in_float32(
    name: str, dtype: torch.dtype | None, calibrated_as: Models
) -> None:
    model = calibrated_as(name)
    unet = stock_load(model.folder, torch_dtype=dtype)
    reference = load_quantized_unet(model.folder, "float", torch.float32).state_dict()
    for owner, module in unet.named_modules():
        if isinstance(module, StoredTensors):
            for leaf, tensor in module.stored.items():
                assert torch.equal(tensor, reference[f"{owner}.{leaf}"])
        elif isinstance(module, NORMS):
            assert module.weight.dtype == torch.float32
    if dtype is not None:
        assert unet.dtype == dtype
        assert output(unet, model).dtype == model.call["sample"].dtype
    assert decibels(model.output, output(unet, model)) > 20


def test_memory_ratio(calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    unet = load_quantized_unet(model.folder, "float", torch.float32)
    stock = dequantize(unet)
    assert unet.get_memory_footprint() < 0.4 * stock.get_memory_footprint()


@pytest.mark.parametrize("device_map", ["cpu", "auto", "balanced", {"": "cpu"}])
def test_device_maps(device_map: Any, calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    expected = output(stock_load(model.folder), model)
    assert torch.equal(output(stock_load(model.folder, device_map=device_map), model), expected)


def test_a_precision_is_chosen_when_loading_only(calibrated_as: Models) -> None:
    unet = stock_load(calibrated_as("multiples").folder)
    for convert in (unet.half, unet.float, lambda: unet.to(torch.float16)):
        with pytest.raises(ValueError, match="quantized model"):
            convert()
    assert unet.is_quantized
    assert unet.hf_quantizer.is_compileable
    assert unet.hf_quantizer.is_serializable


def test_nothing_is_quantized_on_the_fly(tmp_path: Path) -> None:
    folder = save_micro(tmp_path)
    config = DGQConfig()
    with pytest.raises(DGQError, match=r"calibrate the UNet with dgq\.calibrate"):
        stock_load(folder / "unet", quantization_config=config)
    mapping = PipelineQuantizationConfig(quant_mapping={"unet": config})
    with pytest.raises(DGQError, match=r"calibrate the UNet with dgq\.calibrate"):
        DiffusionPipeline.from_pretrained(folder, quantization_config=mapping)


# Saving


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["kmeans", "multiples", "nothing kept"])
def test_round_trip_is_exact(
    name: str, dtype: torch.dtype | None, calibrated_as: Models, tmp_path: Path
) -> None:
    model = calibrated_as(name)
    unet = stock_load(model.folder, torch_dtype=dtype)
    unet.save_pretrained(tmp_path / "again")
    again = stock_load(tmp_path / "again", torch_dtype=dtype)
    assert torch.equal(output(again, model), output(unet, model))
    ours = load_quantized_unet(tmp_path / "again", dtype=dtype)
    assert torch.equal(output(ours, model), output(unet, model))
    before, after = read_manifest(model.folder), read_manifest(tmp_path / "again")
    assert before.quantization == after.quantization
    assert before.timesteps == after.timesteps
    if dtype == torch.float32:
        assert before.sha256 == after.sha256


def test_shards(calibrated_as: Models, tmp_path: Path) -> None:
    model = calibrated_as("multiples")
    unet = stock_load(model.folder)
    unet.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    for load in (stock_load, load_quantized_unet):
        assert torch.equal(output(load(tmp_path), model), output(unet, model))
    unet.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == [WEIGHTS_FILE]
    assert torch.equal(output(load_quantized_unet(tmp_path), model), output(unet, model))


def test_a_model_over_shards_is_the_only_one(calibrated_as: Models, tmp_path: Path) -> None:
    """diffusers would read an index that is left, and its shards."""
    model = calibrated_as("multiples")
    whole = load_quantized_unet(model.folder, "float", torch.float32)
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    save_quantized(whole, tmp_path, read_manifest(model.folder))
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == [WEIGHTS_FILE]
    for load in (stock_load, load_quantized_unet):
        assert torch.equal(output(load(tmp_path), model), output(stock_load(model.folder), model))
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_a_swapped_shard_is_refused(calibrated_as: Models, tmp_path: Path) -> None:
    for name in ("exponents", "kmeans"):
        folder = tmp_path / name
        stock_load(calibrated_as(name).folder).save_pretrained(folder, max_shard_size="20KB")
    last = max((tmp_path / "exponents").glob("*.safetensors"))
    content = bytearray(last.read_bytes())
    content[-9] ^= 4
    last.write_bytes(content)
    for load in (stock_load, load_quantized_unet):
        with pytest.raises(DGQError, match="agree with the seal"):
            load(tmp_path / "exponents")


@pytest.mark.parametrize("index", ["[]", '{"weight_map": {"a": "../../secret.safetensors"}}'])
def test_an_index_leads_nowhere_else(index: str, calibrated_as: Models, tmp_path: Path) -> None:
    shutil.copy(calibrated_as("kmeans").folder / "config.json", tmp_path)
    (tmp_path / f"{WEIGHTS_FILE}.index.json").write_text(index)
    with pytest.raises(DGQError, match=r"index\.json"):
        load_quantized_unet(tmp_path)


def test_pickles_are_neither_written_nor_read(calibrated_as: Models, tmp_path: Path) -> None:
    model = calibrated_as("kmeans")
    unet = stock_load(model.folder)
    with pytest.raises(DGQError, match="safetensors"):
        unet.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert not (tmp_path / "pickled").exists()
    shutil.copy(model.folder / "config.json", tmp_path)
    torch.save(unet.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(DGQError, match="not a safetensors file"):
        stock_load(tmp_path)


def test_an_edited_description_is_refused(calibrated_as: Models, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calibrated_as("kmeans").folder, tmp_path / "copy"))
    file = folder / "config.json"
    known = json.loads(file.read_text())
    edits: list[tuple[list[str], Any]] = [
        (["sample_size"], 16),
        (["quantization_config", "pipeline"], "elsewhere"),
        (["quantization_config", "timesteps"], [1.0, 2.0, 3.0]),
        (["quantization_config", "sha256"], "0" * 64),
        (["quantization_config", "quantization", "scores", "n_bits"], 6),
    ]
    for names, value in edits:
        edited = copy.deepcopy(known)
        place = edited
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        file.write_text(json.dumps(edited))
        for load in (stock_load, load_quantized_unet):
            with pytest.raises(DGQError, match="agree with the seal"):
                load(folder)
    file.write_text(json.dumps(known, indent=7) + "\n\n")  # laid out otherwise, it says the same
    for load in (stock_load, load_quantized_unet):
        load(folder)


def test_a_failed_save_keeps_what_was_there(
    calibrated_as: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = calibrated_as("multiples")
    stock_load(model.folder).save_pretrained(tmp_path / "model")
    before = {f.name: f.read_bytes() for f in (tmp_path / "model").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        stock_load(calibrated_as("kmeans").folder).save_pretrained(tmp_path / "model")
    assert {f.name: f.read_bytes() for f in (tmp_path / "model").iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_unet_under_calibration_is_not_saved(calibrated_as: Models, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match=r"dgq\.save"):
        calibrated_as("kmeans").unet.save_pretrained(tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


@torch.no_grad()
def test_a_pipeline_comes_back_whole(calibrated_as: Models, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(save_micro(tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet = load_quantized_unet(calibrated_as("multiples").folder)
    pipeline.save_pretrained(tmp_path / "whole")
    again = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    again.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}
    images = [
        p("a red circle", generator=torch.Generator().manual_seed(0), **arguments).images
        for p in (pipeline, again)
    ]
    assert again.unet.is_quantized
    assert (images[0] == images[1]).all()
    assert torch.equal(
        output(load_quantized_unet(tmp_path / "whole"), calibrated_as("multiples")),
        output(again.unet, calibrated_as("multiples")),
    )


# Moving


@pytest.mark.parametrize("name", ["multiples", "kmeans"])
def test_offloading_from_the_cpu(name: str, calibrated_as: Models, tmp_path: Path) -> None:
    """Tensors wait on the meta device, and in another list, instead of on another machine."""
    model = calibrated_as(name)
    reference = load_quantized_unet(model.folder, "float", torch.float32)
    unet = stock_load(model.folder, torch_dtype=torch.float32)
    cpu_offload(unet, torch.device("cpu"))
    waiting = [p for m in unet.modules() if isinstance(m, StoredTensors) for p in m.stored.values()]
    assert {p.device.type for p in waiting} == {"meta"}
    assert decibels(output(reference, model), output(unet, model)) > 80
    place = torch.device("cpu")
    for more in ({}, {"offload_to_disk_path": str(tmp_path)}):
        unet = stock_load(model.folder, torch_dtype=torch.float32)
        unet.enable_group_offload(place, place, offload_type="leaf_level", **more)
        assert decibels(output(reference, model), output(unet, model)) > 80
        assert not any(isinstance(module, IntegerLayer) for module in unet.modules())


@exact
def test_a_copy_moves_without_its_original(calibrated_as: Models) -> None:
    unet = stock_load(calibrated_as("multiples").folder)
    n_layers = unet.execution.integer_layers
    copy.deepcopy(unet).to("meta")
    assert unet.execution.integer_layers == n_layers > 0


# Where it is saved to


def test_it_is_saved_as_a_stock_model_is_called(
    calibrated_as: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = calibrated_as("multiples")
    unet = stock_load(model.folder)
    unet.save_pretrained(tmp_path / "by position", True, None, True)
    monkeypatch.chdir(tmp_path)
    unet.save_pretrained(".")
    for folder in (tmp_path, tmp_path / "by position"):
        assert torch.equal(output(stock_load(folder), model), output(unet, model))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize("name", ["a file", 5, None])
def test_what_is_no_folder_is_refused(name: Any, calibrated_as: Models, tmp_path: Path) -> None:
    unet = stock_load(calibrated_as("multiples").folder)
    file = tmp_path / "a file"
    file.write_text("mine")
    with pytest.raises(DGQError, match=r"cannot be written into|expected a path"):
        unet.save_pretrained(file if name == "a file" else name)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"sample_size": 64}, "was given sample_size: "),
        ({"upcast_attention": True, "dropout": 0.1}, "was given dropout, upcast_attention: "),
        ({"ignore_mismatched_sizes": True}, "leave ignore_mismatched_sizes out"),
    ],
)
def test_a_quantized_unet_is_not_changed_while_it_is_loaded(
    option: dict[str, Any], why: str, calibrated_as: Models
) -> None:
    with pytest.raises(DGQError, match=why):
        stock_load(calibrated_as("multiples").folder, **option)


def test_parts_that_were_put_on_disk_are_refused(calibrated_as: Models, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match=r"device_map puts .* on disk"):
        stock_load(
            calibrated_as("multiples").folder,
            device_map="auto",
            max_memory={"cpu": "20KB"},
            offload_folder=str(tmp_path),
        )


# Back to floating point


@pytest.mark.parametrize("name", SETTINGS)
def test_dequantized_it_is_stock_and_computes_with_the_same_weights(
    name: str, calibrated_as: Models, tmp_path: Path
) -> None:
    model = calibrated_as(name)
    unet, twin = load_quantized_unet(model.folder), load_quantized_unet(model.folder)
    assert torch.equal(output(unet, model), output(twin, model))
    stock: Any = dequantize(unet)
    assert type(stock) is UNet2DConditionModel
    # The quantized one is as it was; some remember the call before.
    assert torch.equal(output(unet, model), output(twin, model))
    kinds = {type(module).__module__.partition(".")[0] for module in stock.modules()}
    assert kinds <= {"torch", "diffusers"}
    fresh = UNet2DConditionModel.from_config(stock.config)
    fresh.load_state_dict(stock.state_dict(), strict=True)
    close = {"rtol": 1e-4, "atol": 1e-5}  # images of integers are laid out by pixels
    torch.testing.assert_close(output(fresh, model), output(stock, model), **close)
    packed = load_quantized_unet(model.folder, "float", torch.float32)
    layer = "mid_block.resnets.0.conv1"
    weight = packed.get_submodule(layer).operands()[0]
    assert torch.equal(stock.get_submodule(layer).weight, weight)
    stock.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    torch.testing.assert_close(output(stock_load(tmp_path), model), output(stock, model), **close)


def test_diffusers_dequantizes_in_place(calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    unet = stock_load(model.folder)
    expected = output(dequantize(unet), model)
    unet.dequantize()
    assert not unet.is_quantized
    assert not hasattr(unet, "hf_quantizer")
    assert isinstance(unet.mid_block.resnets[0].conv1, nn.Conv2d)
    assert torch.equal(output(unet, model), expected)


def test_nothing_else_is_dequantized(calibrated_as: Models) -> None:
    for unet in (calibrated_as("kmeans").unet, nn.Linear(2, 2)):
        with pytest.raises(DGQError, match="nothing to dequantize"):
            dequantize(unet)
