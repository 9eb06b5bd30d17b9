"""A UNet without memory and a call for it, on the meta device, from configurations alone."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from dgq.errors import DGQError
from dgq.pipelines.embedded import EMBEDDED
from dgq.pipelines.files import CONFIGS, INDEX, read_components
from dgq.pipelines.single_files import configuration_beside, is_single_file
from dgq.storage.files import checked_path, exists, read_json
from dgq.unet.configuration import sizes_of_added

N_TOKENS = 77
"""Tokens of a prompt, if the text encoder's configuration does not tell."""


def local_folder(source: str) -> Path:
    """The folder with a pipeline's configurations; nothing is downloaded or converted.

    Args:
        source: name of an embedded model, a folder, a file with its configuration beside it, or the
            id of a model in the hub's cache.

    Raises:
        DGQError: if it is not on this machine, or cannot be calibrated.
    """
    source = str(checked_path(source, "a pipeline"))
    folder: Path | None = EMBEDDED.get(source, Path(source))
    if is_single_file(Path(source)):
        folder = configuration_beside(Path(source))
    elif folder is not None and not exists(folder):
        folder = cached_folder(source)
    if folder is None or not (folder / INDEX).is_file():
        raise DGQError(
            f"there are no configurations of {source} on this machine, and planning downloads "
            f"nothing: run `hf download {source} --include '*.json' '*/*.json' --local-dir FOLDER` "
            "where there is internet, then add `--pipeline FOLDER`"
        )
    read_components(folder)
    return folder


def cached_folder(source: str) -> Path | None:
    """Folder of a model in the hub's cache; None if the cache has no model with this id."""
    with suppress(ValueError):  # no possible id
        found = try_to_load_from_cache(source, INDEX)
        return Path(found).parent if isinstance(found, str) else None
    return None


def unet_config(folder: Path) -> dict[str, Any]:
    """The configuration of a pipeline's UNet.

    Raises:
        DGQError: if it is missing or not JSON.
    """
    return dict(read_json(folder / "unet" / CONFIGS[0]))


def empty_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A stock UNet whose tensors have shapes but no memory.

    Raises:
        DGQError: if the configuration is not of a UNet.
    """
    try:
        with init_empty_weights(include_buffers=True):
            return UNet2DConditionModel.from_config(dict(config)).eval().requires_grad_(False)
    except Exception as error:  # whatever diffusers raises for a configuration of no UNet
        raise DGQError(f"the UNet's configuration describes none: {error}") from error


def tokens_of(folder: Path) -> int:
    """Number of text tokens that a pipeline passes to its UNet."""
    file = folder / "text_encoder" / CONFIGS[0]
    found = read_json(file).get("max_position_embeddings") if file.is_file() else None
    return int(found or N_TOKENS)


def latent_size_of(config: Mapping[str, Any], folder: Path, pixels: tuple[int | None, ...]) -> Any:
    """Height and width of the latents.

    Args:
        config: of the UNet.
        folder: of the pipeline.
        pixels: height and width of the images; the pipeline's own where they are None.
    """
    own = config.get("sample_size") or 64
    height, width = own if isinstance(own, list | tuple) else (own, own)
    if pixels[0] is None:
        return int(height), int(width)
    vae = read_json(folder / "vae" / CONFIGS[0])
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    return pixels[0] // factor, (pixels[1] or pixels[0]) // factor


def empty_call(
    config: Any, n_rows: int, latent_size: tuple[int, int], n_tokens: int = N_TOKENS
) -> dict[str, Any]:
    """Keyword arguments of a call on the meta device, with everything that a configuration needs.

    Args:
        config: configuration of the UNet, with its defaults.
        n_rows: rows of the batch.
        latent_size: height and width.
        n_tokens: tokens of the text.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(n_rows, *shape, dtype=dtype, device="meta")

    width = config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    call: dict[str, Any] = {
        "sample": empty(config.in_channels, *latent_size),
        "timestep": empty(),
        "encoder_hidden_states": empty(n_tokens, config.encoder_hid_dim or width),
        "return_dict": False,
    }
    if config.time_cond_proj_dim is not None:
        call["timestep_cond"] = empty(config.time_cond_proj_dim)
    if config.class_embed_type in ("projection", "simple_projection"):
        call["class_labels"] = empty(config.projection_class_embeddings_input_dim)
    elif config.class_embed_type is not None or config.num_class_embeds:
        call["class_labels"] = empty(dtype=torch.int64)
    if config.addition_embed_type == "text_time":
        n_ids, text_width = sizes_of_added(config)
        call["added_cond_kwargs"] = {"text_embeds": empty(text_width), "time_ids": empty(n_ids)}
    return call
