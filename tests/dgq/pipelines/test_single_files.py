"""Models in one file in the original layout: converted once, or one line on what is missing."""

import json
import shlex
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgq.errors import DGQError
from dgq.pipelines import single_files
from dgq.pipelines.files import pipeline_sha256
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.pipelines.single_files import configuration_beside, converted_folder, likely_repository
from dgq.pipelines.sources import canonical, configuration_of, resolve
from tests.model_zoo import CALIBRATE
from tests.original_names import to_original_names


def no_hub(source: str) -> Path:
    raise DGQError(f"{source} is not in the cache")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of Stable Diffusion 1's kind."""
    return CALIBRATE["Stable Diffusion 1.x"].save(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def tensors(source: Path) -> dict[str, torch.Tensor]:
    """Its weights under their original names."""
    return to_original_names(load_pipeline(str(source)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of converted pipelines."""
    monkeypatch.setattr(single_files, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def configuration(source: Path, folder: Path) -> Path:
    """A pipeline's folder without its weights."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(source, folder, ignore=ignored))


def write(tensors: dict[str, torch.Tensor], file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("place", ["beside", "around"])
def test_a_single_file_is_the_pipeline_that_it_was_made_from(
    place: str, source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models/name" if place == "beside" else tmp_path / "models"
    configuration(source, folder)
    file = write(tensors, tmp_path / "models/name.safetensors")
    assert configuration_beside(file) == folder
    assert canonical(str(file)) == str(file)
    assert pipeline_sha256(resolve(str(file))) == pipeline_sha256(source)
    stock, found = load_unet(str(source)).state_dict(), load_unet(str(file)).state_dict()
    assert stock.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in stock.items())
    assert len(list(cache.iterdir())) == 1


def test_it_is_converted_once_and_again_when_it_changes(
    source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    configuration(source, tmp_path / "name")
    file = write(tensors, tmp_path / "name.safetensors")
    first = resolve(str(file))
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    moved = Path(shutil.copytree(tmp_path / "name", tmp_path / "other/name")).parent
    shutil.copy(file, moved / "name.safetensors")
    assert resolve(str(moved / "name.safetensors")) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    write({name: tensor + 1 for name, tensor in tensors.items()}, file)
    second = resolve(str(file))
    assert second != first
    assert pipeline_sha256(second) != pipeline_sha256(first)
    scheduler = tmp_path / "name/scheduler/scheduler_config.json"
    content = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(content | {"beta_end": 0.5}))
    assert resolve(str(file)) not in (first, second)


def test_a_single_file_of_sdxl_has_both_text_encoders(cache: Path, tmp_path: Path) -> None:
    source = CALIBRATE["SDXL"].save(tmp_path)
    tensors = to_original_names(load_pipeline(str(source)))
    configuration(source, tmp_path / "name")
    file = write(tensors, tmp_path / "name.safetensors")
    stock, found = (load_pipeline(str(s)).components for s in (source, file))
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        expected, tensors = stock[name].state_dict(), found[name].state_dict()
        assert expected.keys() == tensors.keys()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())
    assert pipeline_sha256(resolve(str(file))) == pipeline_sha256(source)


def test_half_precision_stays_as_it_is_on_disk(
    source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    configuration(source, tmp_path / "name")
    halves = {name: t.half() for name, t in tensors.items()}
    folder = resolve(str(write(halves, tmp_path / "name.safetensors")))
    stored = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert load_unet(str(tmp_path / "name.safetensors")).dtype == torch.float32


def test_without_a_configuration_the_line_says_which_and_where(
    tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    file = write(tensors, tmp_path / "name.safetensors")
    with pytest.raises(DGQError, match="has weights but no configuration") as caught:
        converted_folder(file, no_hub)
    message = str(caught.value)
    assert "\n" not in message
    assert f"hf download {likely_repository(file)} --include" in message
    assert f"--local-dir {tmp_path / 'name'}" in message
    assert not cache.exists()


@pytest.mark.parametrize(
    ("key", "shape", "repository"),
    [
        ("input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (320, 768), "-v1-5"),
        ("input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024), "diffusion-2-1"),
    ],
)
def test_the_likely_model_is_known_by_names_and_shapes(
    key: str, shape: tuple[int, ...], repository: str, tmp_path: Path
) -> None:
    name = f"model.diffusion_model.{key}"
    file = write({name: torch.zeros(shape)}, tmp_path / "m.safetensors")
    assert repository in likely_repository(file)


def test_the_configuration_of_the_hub_is_used(
    source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    found = configuration(source, tmp_path / "hub")
    file = write(tensors, tmp_path / "files/name.safetensors")
    asked = []

    def hub(name: str) -> Path:
        asked.append(name)
        return found

    assert pipeline_sha256(converted_folder(file, hub)) == pipeline_sha256(source)
    assert asked == [likely_repository(file)]


def test_the_cache_of_the_hub_needs_no_network(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub/models--owner--name"
    snapshot = configuration(source, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert configuration_of("owner/name") == snapshot
    with pytest.raises(DGQError, match="nor can it be downloaded"):
        configuration_of("owner/other")


def test_a_configuration_of_another_model_is_refused_and_leaves_nothing(
    tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    other = CALIBRATE["BK-SDM"].save(tmp_path)
    wider = json.loads((other / "unet/config.json").read_text())
    wider["block_out_channels"] = [16, 32]
    (other / "unet/config.json").write_text(json.dumps(wider))
    configuration(other, tmp_path / "name")
    file = write(tensors, tmp_path / "name.safetensors")
    with pytest.raises(DGQError, match="cannot be read with the configuration in") as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "first_stage_model.decoder.conv_in.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused(
    name: str, source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    configuration(source, tmp_path / "name")
    fewer = {key: tensor for key, tensor in tensors.items() if key != name}
    assert len(fewer) == len(tensors) - 1
    with pytest.raises(DGQError, match="it lacks tensors of a network"):
        load_unet(str(write(fewer, tmp_path / "name.safetensors")))
    assert list(cache.iterdir()) == []


REFUSED = {
    "a LoRA": ({"lora_unet_mid.lora_up.weight": torch.zeros(2)}, "not a LoRA"),
    "nothing": ({}, "but nothing"),
    "a UNet alone, in diffusers' layout": ({"conv_in.weight": torch.zeros(2)}, "but conv_in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_something_else_is_refused(name: str, cache: Path, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    with pytest.raises(DGQError, match=message):
        resolve(str(write(content, tmp_path / "x.safetensors")))


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    with pytest.raises(DGQError):
        resolve("x" * 5000 + ".safetensors")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pth"])
def test_a_pickle_is_never_read(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(DGQError, match=r"may run code .* convert it by .*save_file") as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)


def test_the_line_on_pickles_says_how_to_convert_them(
    source: Path,
    tensors: dict[str, torch.Tensor],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configuration(source, tmp_path / "model")
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DGQError) as caught:
        resolve("model.ckpt")
    _, command, _ = str(caught.value).split("`")
    program, option, code = shlex.split(command)
    assert (program, option) == ("python", "-c")
    exec(code, {})
    assert pipeline_sha256(resolve("model.safetensors")) == pipeline_sha256(source)


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(DGQError, match="does not exist"):
        resolve(str(file))
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(DGQError, match="damaged or no safetensors file"):
        resolve(str(file))


def test_a_single_file_of_another_kind_of_pipeline_is_refused(
    source: Path, tensors: dict[str, torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    index = configuration(source, tmp_path / "name") / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"_class_name": "StableDiffusionGLIGENPipeline"}))
    with pytest.raises(DGQError, match="is a StableDiffusionGLIGENPipeline, which cannot"):
        resolve(str(write(tensors, tmp_path / "name.safetensors")))
