"""Whatever a quantized model's manifest says, the model is loaded or refused in one line."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from dgq.errors import DGQError
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import (
    GenerationSettings,
    Manifest,
    load_quantized_unet,
    read_manifest,
    save_quantized,
)
from dgq.storage.model_files import WEIGHTS_FILE
from tests.forging import forge_
from tests.tiny_pipelines import calibrate_, micro_unet

TIMESTEPS = (801.0, 401.0, 1.0)
QUANTIZATION = ("quantization_config",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized model."""
    folder = tmp_path_factory.mktemp("model")
    unet = micro_unet()
    config = dict(unet.config)
    calibrate_(unet, QuantizationSettings(), TIMESTEPS)
    generation = GenerationSettings(3, 3.0)
    described = ("scenes", config, QuantizationSettings(), generation, TIMESTEPS, (8, 8))
    save_quantized(unet, folder, Manifest(*described))
    return folder


def changed(model: Path, folder: Path, parts: Sequence[str] = (), **changes: Any) -> Path:
    """The model with another manifest, or another part of it, and a seal that vouches for it."""

    def edit(config: dict[str, Any]) -> None:
        content = config
        for name in parts:
            content = content[name]
        content.update(changes)

    return forge_(Path(shutil.copytree(model, folder, dirs_exist_ok=True)), edit)


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers_per_block", 10**9), ("attention_head_dim", 0), ("block_out_channels", [8] * 10**5)],
)
def test_a_network_that_cannot_be_built_is_refused_at_once(
    name: str, value: Any, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(DGQError, match=r"config\.json"):
        load_quantized_unet(changed(model, tmp_path, **{name: value}))


def test_a_manifest_nested_without_end_is_refused(model: Path, tmp_path: Path) -> None:
    copy = changed(model, tmp_path)
    (copy / "config.json").write_text("[" * 10**6)
    with pytest.raises(DGQError, match="nested too deeply"):
        read_manifest(copy)


values = st.one_of(st.none(), st.integers(-9, 10**10), st.text(max_size=3), st.lists(st.integers()))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_manifest_says_it_is_loaded_or_refused(
    data: st.DataObject, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    known = json.loads((model / "config.json").read_text())
    parts = data.draw(st.sampled_from([(), QUANTIZATION, (*QUANTIZATION, "quantization")]))
    for part in parts:
        known = known[part]
    name = data.draw(st.sampled_from(sorted(known)))
    folder = tmp_path_factory.mktemp("fuzz")
    copy = changed(model, folder, parts, **{name: data.draw(values)})
    with suppress(DGQError):
        load_quantized_unet(copy)
    # Sizes of the network, and whose the method is, are stock diffusers' own to check.
    if parts and name != "quant_method":
        with suppress(DGQError, ValueError):
            UNet2DConditionModel.from_pretrained(copy)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def known(model: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model as it is."""
    return load_quantized_unet(model, "float").state_dict()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_happens_to_a_file_no_other_model_is_loaded(
    data: st.DataObject,
    model: Path,
    known: dict[str, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("fuzz") / "model"))
    file = folder / data.draw(st.sampled_from(["config.json", WEIGHTS_FILE]))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "repeat", "zeros"]))
    if damage == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "cut":
        del content[place:]
    elif damage == "repeat":
        content[place:place] = content[: data.draw(st.integers(1, 64))]
    else:
        content[place : place + 8] = bytes(len(content[place : place + 8]))
    file.write_bytes(content)
    for load in (load_quantized_unet, UNet2DConditionModel.from_pretrained):
        try:
            found = load(folder).state_dict()
        except (DGQError, OSError, ValueError, SafetensorError):
            continue  # the others are diffusers' own, raised before any quantizer is asked
        assert all(torch.equal(found[name].float(), known[name].float()) for name in known)
    shutil.rmtree(folder)
