"""Loading text-to-image pipelines, completely or not at all."""

import importlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

from dgq.errors import DGQError
from dgq.pipelines.embedded import EMBEDDED
from dgq.pipelines.files import UNUSED, read_components
from dgq.pipelines.schedulers import check_scheduler
from dgq.pipelines.sources import resolve, unavailable
from dgq.pipelines.weight_files import WEIGHTS, narrow_types, weight_layout
from dgq.storage.seal import defaults_of

PROBE = "a photo of two dogs on a beach"
"""A prompt whose words every tokenizer knows at least in part."""

log = logging.getLogger(__name__)


def load_pipeline(source: str, unet: nn.Module | None = None) -> DiffusionPipeline:
    """A text-to-image pipeline in float32 and evaluation mode, without progress bars or watermark.

    Args:
        source: the name of an embedded model (``EMBEDDED``), a folder as ``save_pretrained``
            writes it, a ``.safetensors`` file in the layout of the original code (see
            ``single_files``), or the id of a model on the hub.
        unet: replaces the pipeline's own, whose weights are then not read.

    Raises:
        DGQError: if it cannot be found or read, is of an unsupported kind, or incomplete.
    """
    folder = resolve(source)
    if unet is not None:
        check_fits(unet, folder)
    networks = {
        name: load_network(folder, name, library, kind)
        for name, (library, kind) in read_components(folder).items()
        if _is_network(library, kind) and (unet is None or name != "unet")
    }
    if unet is not None:
        networks["unet"] = unet
    try:
        config = DiffusionPipeline.load_config(str(folder))
        # Otherwise a pipeline without a safety checker would warn of arguments that it does not
        # know.
        unused: dict[str, Any] = {
            name: False if name.startswith("requires") else None
            for name in UNUSED
            if name in config
        }
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, **networks, **unused
        )
    except Exception as error:  # whatever the libraries raise for what is not as they expect
        raise unavailable(source, error) from error
    check_tokenizers(pipeline, folder)
    check_scheduler(pipeline.scheduler, folder)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        # Otherwise SDXL's images would depend on whether a package that marks them is installed.
        pipeline.watermark = None
    return pipeline


FITTING = ("in_channels", "out_channels", "cross_attention_dim", "addition_embed_type")
"""Entries of a UNet's configuration that the rest of a pipeline depends on."""


def check_fits(unet: nn.Module, folder: Path) -> None:
    """Raise DGQError for a UNet that the rest of the pipeline in a folder cannot call."""
    if not isinstance(unet, nn.Module) or not hasattr(unet, "config"):
        raise DGQError(f"unet: expected a UNet, got a {type(unet).__name__}")
    own = UNet2DConditionModel.load_config(str(folder), subfolder="unet")
    defaults = defaults_of(UNet2DConditionModel)
    for name in FITTING:
        expected = own.get(name, defaults[name])
        found = unet.config.get(name, "nothing")  # type: ignore[union-attr,operator]
        if plain(expected) != plain(found):
            raise DGQError(
                f"this UNet does not fit the pipeline {folder}: its {name} is {found}, there "
                f"{expected}; give the pipeline that it was made from"
            )


def plain(value: Any) -> Any:
    """A list for a tuple, since JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value


def load_unet(source: str) -> UNet2DConditionModel:
    """The UNet of a pipeline in float32 and evaluation mode; ``source`` as in ``load_pipeline``."""
    folder = resolve(source)
    return load_network(folder, "unet", *read_components(folder)["unet"])


def load_network(folder: Path, name: str, library: str, kind: str) -> Any:
    """One network of a pipeline in float32 and evaluation mode.

    Raises:
        DGQError: if it cannot be read, its files lack some of its tensors, or those of a UNet or
            VAE hold more. Text encoders come with buffers that transformers no longer has.
    """
    variant, files = weight_layout(folder / name, library)
    note_types(folder / name, ", ".join(narrow_types(files)))
    try:
        network, found = getattr(importlib.import_module(library), kind).from_pretrained(
            str(folder),
            subfolder=name,
            variant=variant,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever the libraries raise for what is not as they expect
        raise unavailable(str(folder), error) from error
    absent = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
    if absent:
        raise DGQError(
            f"the pipeline {folder} is incomplete: the files of {name} do not hold {absent[0]}"
            f"{f' and {len(absent) - 1} more tensors' if absent[1:] else ''}; download it again"
        )
    surplus = sorted(map(str, found["unexpected_keys"])) if library == "diffusers" else []
    if surplus:
        raise DGQError(
            f"the pipeline {folder} does not fit together: the configuration of {name} describes a "
            f"network without {surplus[0]}"
            f"{f' and {len(surplus) - 1} more tensors' if surplus[1:] else ''}, which its files "
            "hold; download it again"
        )
    return network.eval()


@lru_cache
def note_types(part: Path, types: str) -> None:
    """Log once that a network's weights are stored below full precision."""
    if types:
        # The embedded models are known to be: no need to say so in every run.
        level = logging.DEBUG if part.parent in EMBEDDED.values() else logging.WARNING
        log.log(level, "%s is stored in %s: it is computed in float32", part, types)


def _is_network(library: str, kind: str) -> bool:
    """Whether a component has tensors; raises DGQError if its library does not have its class."""
    found = getattr(importlib.import_module(library), kind, None) if library in WEIGHTS else None
    if not isinstance(found, type):
        raise DGQError(
            f"the pipeline has a {library}.{kind}, which this version of its library does not "
            "have: expected the components of a Stable Diffusion or SDXL pipeline"
        )
    return issubclass(found, nn.Module)


def check_tokenizers(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Raise DGQError for a tokenizer without words, or with more tokens than its text encoder."""
    for name, tokenizer in pipeline.components.items():
        if not name.startswith("tokenizer") or tokenizer is None:
            continue
        encoder = pipeline.components.get(name.replace("tokenizer", "text_encoder"))
        known = {i for i in tokenizer(PROBE).input_ids if i not in tokenizer.all_special_ids}
        if not known - {tokenizer.unk_token_id}:
            raise DGQError(
                f"the pipeline {folder} is incomplete: its {name} has an empty vocabulary, so "
                "its files are missing or damaged; download it again"
            )
        if encoder is not None and len(tokenizer) > encoder.config.vocab_size:
            raise DGQError(
                f"the pipeline {folder} does not fit together: its {name} has {len(tokenizer)} "
                f"tokens, its text encoder {encoder.config.vocab_size}; download it again"
            )
