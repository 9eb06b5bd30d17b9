"""Weights in half precision, in shards, or in files that run code."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from dgq.errors import DGQError
from dgq.pipelines import sources
from dgq.pipelines.files import check_folder, pipeline_sha256
from dgq.pipelines.loading import load_pipeline, load_unet, note_types
from dgq.pipelines.sources import resolve
from dgq.pipelines.weight_files import narrow_types, weight_layout

NETWORKS = {"unet": "diffusers", "vae": "diffusers", "text_encoder": "transformers"}


def saved(source: Path, folder: Path, dtype: torch.dtype, **options: object) -> Path:
    """A pipeline saved in another form."""
    pipeline = DiffusionPipeline.from_pretrained(str(source), torch_dtype=dtype)
    pipeline.save_pretrained(str(folder), **options)
    return folder


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("size", ["10GB", "20KB"])
def test_a_folder_of_half_precision_alone_is_loaded_in_float32(
    variant: str,
    size: str,
    micro_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    folder = saved(micro_folder, tmp_path / "half", dtype, variant=variant, max_shard_size=size)
    for name, library in NETWORKS.items():
        found, files = weight_layout(folder / name, library)
        assert found == variant
        assert (len(files) > 1) == (size == "20KB")
        assert all(variant in file.name for file in files)
    note_types.cache_clear()
    with caplog.at_level(logging.WARNING, "dgq"):
        pipeline = load_pipeline(str(folder))
        load_unet(str(folder))
    stored = str(dtype).removeprefix("torch.")
    lines = [r.getMessage() for r in caplog.records if r.name == "dgq.pipelines.loading"]
    expected = [f"{folder / n} is stored in {stored}: it is computed in float32" for n in NETWORKS]
    assert sorted(lines) == sorted(expected)
    exact = load_unet(str(micro_folder)).state_dict()
    for name, tensor in pipeline.unet.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, exact[name].to(dtype).float())


def test_full_precision_is_preferred_and_alone_decides_what_a_pipeline_is(
    micro_folder: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(micro_folder, tmp_path / "both"))
    saved(micro_folder, both, torch.float16, variant="fp16")
    assert weight_layout(both / "unet", "diffusers")[0] is None
    assert pipeline_sha256(both) == pipeline_sha256(micro_folder)
    half = saved(micro_folder, tmp_path / "half", torch.float16, variant="fp16")
    assert pipeline_sha256(half) != pipeline_sha256(micro_folder)


def test_shards_are_the_same_pipeline(micro_folder: Path, tmp_path: Path) -> None:
    shards = saved(micro_folder, tmp_path / "s", torch.float32, max_shard_size="20KB")
    assert len(weight_layout(shards / "unet", "diffusers")[1]) > 1
    assert pipeline_sha256(shards) == pipeline_sha256(micro_folder)
    whole, parts = load_unet(str(micro_folder)).state_dict(), load_unet(str(shards)).state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_types_are_read_from_headers(micro_folder: Path, tmp_path: Path) -> None:
    """Half precision under the name of full precision is half precision."""
    half = saved(micro_folder, tmp_path / "half", torch.float16)
    _, files = weight_layout(half / "unet", "diffusers")
    assert [f.name for f in files] == ["diffusion_pytorch_model.safetensors"]
    assert narrow_types(files) == ["float16"]
    assert {t.dtype for t in load_file(files[0]).values()} == {torch.float16}
    assert narrow_types(weight_layout(micro_folder / "unet", "diffusers")[1]) == []


@pytest.mark.parametrize("part", NETWORKS)
def test_weights_that_run_code_are_never_read(
    part: str, micro_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "pickled"))
    [file] = weight_layout(folder / part, NETWORKS[part])[1]
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(DGQError, match=rf"{part} has no safetensors but .*\.bin, which may run"):
        check_folder(folder)


def test_the_line_on_weights_that_run_code_says_how_to_convert_them(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "pickled"))
    [file] = weight_layout(folder / "unet", "diffusers")[1]
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(DGQError) as caught:
        check_folder(folder)
    _, code, _ = str(caught.value).split("`")
    monkeypatch.chdir(tmp_path)
    exec(code, {"DiffusionPipeline": DiffusionPipeline})
    assert pipeline_sha256(tmp_path / "pickled-safe") == pipeline_sha256(micro_folder)


def test_a_pickle_beside_safetensors_is_ignored(micro_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "both"))
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"x")
    check_folder(folder)


class Hub:
    """A hub with one repository, whose files are those of a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[str | None] = []
        monkeypatch.setattr(sources, "look_up", lambda *_: None)
        monkeypatch.setattr(sources, "hf_hub_download", lambda _, name: str(folder / name))
        monkeypatch.setattr(sources.DiffusionPipeline, "download", self.download)

    def download(self, _source: str, variant: str | None, **_options: object) -> str:
        self.asked.append(variant)
        if not (self.folder / "unet" / f"diffusion_pytorch_model.{variant}.safetensors").is_file():
            raise OSError("Could not find the necessary `safetensors` weights in {...}")
        return str(self.folder)


def test_a_hub_model_of_half_precision_alone_is_downloaded(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = saved(micro_folder, tmp_path / "half", torch.float16, variant="fp16")
    hub = Hub(half, monkeypatch)
    assert resolve("owner/name") == half
    assert hub.asked == [None, "fp16"]


def test_a_hub_model_of_another_kind_is_refused_before_it_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    hub = Hub(tmp_path, monkeypatch)
    with pytest.raises(DGQError, match=r"^owner/name is a FluxPipeline, which cannot"):
        resolve("owner/name")
    assert hub.asked == []


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_of_a_network_with_more_parts_are_refused(
    part: str, micro_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "more"))
    file = folder / part / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "another.weight": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(DGQError, match=f"{part} describes a network without another.weight"):
        load_pipeline(str(folder))


@pytest.mark.parametrize("content", ["[]", "5", '"name"', "null"])
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_configuration_that_is_no_object_is_refused(
    file: str, content: str, micro_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "odd"))
    (folder / file).write_text(content)
    with pytest.raises(DGQError, match="expected a JSON object"):
        load_pipeline(str(folder))
