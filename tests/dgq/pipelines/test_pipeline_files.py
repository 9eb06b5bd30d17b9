"""A pipeline is known by what determines its images, and refused unless it is whole."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dgq.errors import DGQError
from dgq.pipelines.files import check_folder, pipeline_sha256
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.pipelines.sources import canonical, resolve

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(micro_folder: Path, tmp_path: Path) -> Path:
    """A pipeline to change."""
    return Path(shutil.copytree(micro_folder, tmp_path / "copy"))


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change settings in a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.update(changes)
        kept = {k: v for k, v in content.items() if v is not None or k not in changes}
        (folder / name).write_text(json.dumps(kept))

    return change


def one_weight(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        next(iter(tensors.values())).view(-1)[0] += 1e-3
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def a_merge(folder: Path) -> None:
    file = folder / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"].pop()
    file.write_text(json.dumps(content))


DETERMINES: dict[str, Callable[[Path], None]] = {
    "a weight of the UNet": one_weight(UNET),
    "a weight of the text encoder": one_weight(TEXT),
    "a weight of the VAE": one_weight(VAE),
    "VAE scaling": edit("vae/config.json", scaling_factor=0.9),
    "VAE activation": edit("vae/config.json", act_fn="relu"),
    "text activation": edit("text_encoder/config.json", hidden_act="gelu"),
    "text heads": edit("text_encoder/config.json", num_attention_heads=1),
    "heads": edit("unet/config.json", attention_head_dim=1),
    "norm": edit("unet/config.json", norm_eps=1e-3),
    "sampler's betas": edit("scheduler/scheduler_config.json", beta_end=0.5),
    "sampler": edit("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
    "kind": edit("model_index.json", _class_name="StableDiffusionXLPipeline"),
    "tokenizer": a_merge,
    "tokenizer's settings": edit("tokenizer/tokenizer_config.json", model_max_length=5),
}


@pytest.mark.parametrize("name", DETERMINES)
def test_what_determines_images_is_identity(name: str, copy: Path) -> None:
    before = pipeline_sha256(copy)
    DETERMINES[name](copy)
    assert pipeline_sha256(copy) != before


def resharded(folder: Path) -> None:
    """The same tensors in two files and an index."""
    tensors = load_file(folder / UNET)
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-{number}.safetensors"
        save_file({n: tensors[n] for n in part}, folder / "unet" / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / UNET).unlink()
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def with_metadata(folder: Path) -> None:
    save_file(load_file(folder / TEXT), folder / TEXT, {"format": "pt", "remark": "x"})


def indented(folder: Path) -> None:
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content, indent=7, sort_keys=True))


def strays(folder: Path) -> None:
    """What systems, downloads and people leave in a folder."""
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "README.md",
        ".cache/huggingface/download/config.json.metadata",
        "unet/.DS_Store",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/config.json",
        "tokenizer/notes.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    os.mkfifo(folder / "pipe")


DOES_NOT: dict[str, Callable[[Path], None]] = {
    "stray files": strays,
    "times": lambda folder: [os.utime(p, (0, 0)) for p in folder.rglob("*")] and None,
    "layout of JSON": indented,
    "remarks of libraries": edit(
        "unet/config.json", _name_or_path="elsewhere", _diffusers_version="0.1"
    ),
    "version of transformers": edit("text_encoder/config.json", transformers_version="4.0"),
    "shards": resharded,
    "metadata of weights": with_metadata,
    "safety checker": edit("model_index.json", safety_checker=["x", "Y"], feature_extractor=None),
}


@pytest.mark.parametrize("name", DOES_NOT)
def test_what_does_not_determine_images_is_not(name: str, copy: Path) -> None:
    before = pipeline_sha256(copy)
    DOES_NOT[name](copy)
    assert pipeline_sha256(copy) == before
    load_pipeline(str(copy))


@pytest.mark.parametrize("name", ["scene", "/no/such/folder", "~/models/sd", "a/b/c", "models/"])
def test_what_is_no_id_of_the_hub_is_not_looked_for_there(name: str) -> None:
    with pytest.raises(DGQError, match=r"nor a model's name: expected an embedded.*scenes"):
        resolve(name)


def test_an_empty_name_is_called_so() -> None:
    with pytest.raises(DGQError, match="an empty name is not a pipeline"):
        resolve("")


def test_a_pipeline_is_the_same_however_it_is_named(
    micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(micro_folder.parent)
    names = ["micro", "./micro/", f"{micro_folder}/", f"{micro_folder}/../micro"]
    assert {pipeline_sha256(resolve(name)) for name in names} == {pipeline_sha256(micro_folder)}
    assert {canonical(name) for name in names} == {str(micro_folder.resolve())}
    assert canonical("scenes-xl") == "scenes-xl"
    assert canonical("owner/name") == "owner/name"


def test_a_model_of_the_hub_is_known_by_its_content(
    copy: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another revision under the same name is another pipeline."""
    revisions = [micro_folder, copy]
    one_weight(TEXT)(copy)
    monkeypatch.setattr("dgq.pipelines.sources.download", lambda _: revisions[0])
    first = pipeline_sha256(resolve("owner/name"))
    revisions.reverse()
    assert pipeline_sha256(resolve("owner/name")) != first


def without_a_tensor(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors.pop(next(n for n in tensors if n.endswith("weight")))
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / TEXT)
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name] = torch.zeros(3, 3)
    save_file(tensors, folder / TEXT, {"format": "pt"})


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


NOT_WHOLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "UNet without a tensor": (without_a_tensor(UNET), "incomplete.*unet"),
    "text encoder without a tensor": (without_a_tensor(TEXT), "incomplete.*text_encoder"),
    "VAE without a tensor": (without_a_tensor(VAE), "incomplete.*vae"),
    "a tensor of another shape": (with_another_shape, "incomplete|cannot read"),
    "no tokenizer": (without("tokenizer/tokenizer.json"), "empty vocabulary"),
    "no VAE": (edit("model_index.json", vae=None), "names no vae"),
    "no folder": (lambda f: shutil.rmtree(f / "text_encoder"), "no folder text_encoder"),
    "more tokens than embeddings": (
        edit("text_encoder/config.json", vocab_size=4),
        "incomplete|cannot read|does not fit",
    ),
    "weights that run code": (without(UNET), "cannot read the pipeline"),
    "0 heads": (edit("unet/config.json", attention_head_dim=0), "cannot read the pipeline"),
    "10^9 layers": (edit("unet/config.json", layers_per_block=10**9), "cannot be built"),
    "10^9 layers, one by one": (
        edit("unet/config.json", layers_per_block=[1, 10**9]),
        "cannot be built",
    ),
    "10^9 layers of text": (
        edit("text_encoder/config.json", num_hidden_layers=10**9),
        "cannot be built",
    ),
    "10^12 steps": (
        edit("scheduler/scheduler_config.json", num_train_timesteps=10**12),
        "cannot be built",
    ),
    "as many blocks": (
        edit("unet/config.json", block_out_channels=[8] * 10**5),
        "more than tensors",
    ),
    "an unknown class": (
        edit("model_index.json", unet=["diffusers", "UNet9DModel"]),
        "UNet9DModel",
    ),
    "an unknown library": (edit("model_index.json", vae=["os", "system"]), "os.system"),
    "an image variation pipeline": (
        edit("model_index.json", _class_name="StableDiffusionImageVariationPipeline"),
        "the inputs of its UNet are unknown",
    ),
    "a class that is a list": (
        edit("model_index.json", _class_name=["own", "OwnPipeline"]),
        "cannot be calibrated",
    ),
    "latents of no number": (edit("vae/config.json", latent_channels="4"), "latent_channels"),
    "weights that run code alone": (
        lambda f: (f / UNET).rename(f / UNET.replace(".safetensors", ".bin")) and None,
        "may run code and is never read.*save_pretrained",
    ),
    "an unknown pipeline": (edit("model_index.json", _class_name="NewPipeline"), "NewPipeline"),
    "an inpainting UNet": (edit("unet/config.json", in_channels=9), "inpaints"),
    "a list for an index": (
        lambda f: (f / "model_index.json").write_text("[]") and None,
        "something else",
    ),
    "a deep index": (
        lambda f: (f / "model_index.json").write_text("[" * 10**6) and None,
        "too deeply",
    ),
    "a pipe for an index": (pipe("model_index.json"), "is not a pipeline"),
    "a pipe for a config": (pipe("unet/config.json"), "cannot be read|cannot read"),
    "a pipe for weights": (pipe(UNET), "cannot read the pipeline"),
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_pipeline_is_whole_or_refused_in_one_line(name: str, copy: Path) -> None:
    change, message = NOT_WHOLE[name]
    change(copy)
    with pytest.raises(DGQError, match=message) as caught:
        load_pipeline(str(copy))
    assert "\n" not in str(caught.value)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 10**9), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_configuration_says_it_is_loaded_or_refused(
    data: st.DataObject, micro_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path_factory.mktemp("fuzz") / "p"))
    file = folder / data.draw(
        st.sampled_from(["unet/config.json", "vae/config.json", "model_index.json"])
    )
    content = json.loads(file.read_text())
    name = data.draw(st.sampled_from(sorted(content)))
    file.write_text(json.dumps(content | {name: data.draw(values)}))
    with suppress(DGQError):  # and nothing else, before long
        check_folder(folder)
        load_unet(str(folder))
    shutil.rmtree(folder)
