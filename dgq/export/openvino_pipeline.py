"""The parts of a pipeline that optimum-intel needs besides the UNet: text encoders and VAE."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, __version__
from torch import Tensor, nn

from dgq.export.openvino import named, save_openvino
from dgq.export.traceable import N_TOKENS, traced
from dgq.pipelines.files import INDEX, UNUSED
from dgq.pipelines.loading import load_pipeline
from dgq.storage.files import write_json

SMALL = 8
"""Size of latents in a trace, which is valid for any size."""

ENCODERS = ("text_encoder", "text_encoder_2")
COPIED = ("tokenizer", "tokenizer_2", "scheduler")
"""Parts without weights, under diffusers' names."""


class TextEncoder(nn.Module):
    """A text encoder that returns everything that pipelines read.

    Args:
        encoder: a transformers text encoder.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """First the output that pipelines take by position, then all hidden states."""
        output = self.encoder(input_ids, output_hidden_states=True, return_dict=True)
        pooled = output["text_embeds"] if "text_embeds" in output else output["pooler_output"]
        last = output["last_hidden_state"]
        first = (pooled, last) if "text_embeds" in output else (last, pooled)
        return (*first, *output["hidden_states"])


class Decoder(nn.Module):
    """The half of a VAE that turns latents into images.

    Args:
        vae: the whole VAE.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """``[batch, channels, height, width]``."""
        image: Tensor = self.vae.decode(latent_sample, return_dict=False)[0]
        return image


class Encoder(nn.Module):
    """The half of a VAE that turns images into latents.

    Args:
        vae: the whole VAE.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        """Mean and log variance of the latents, side by side."""
        parameters: Tensor = self.vae.encode(sample)["latent_dist"].parameters
        return parameters


def write_rest_of_pipeline(source: str, folder: Path) -> None:
    """Write all of a pipeline except the UNet, in the layout of optimum-intel.

    Args:
        source: source of the full-precision pipeline.
        folder: an existing folder.
    """
    pipeline = load_pipeline(source)
    for name in ENCODERS:
        if getattr(pipeline, name, None) is not None:
            write_text_encoder(getattr(pipeline, name), folder / name)
    write_vae(pipeline.vae, folder)
    for name in COPIED:
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).save_pretrained(folder / name)
    write_json(folder / INDEX, index_of(pipeline))


def write_text_encoder(encoder: Any, folder: Path) -> None:
    """Write a CLIP text encoder."""
    n_hidden = encoder.config.num_hidden_layers + 1
    has_projection = hasattr(encoder, "text_projection")
    outputs = ["text_embeds", "last_hidden_state"]
    if not has_projection:
        outputs = ["last_hidden_state", "pooler_output"]
    outputs += [f"hidden_states.{i}" for i in range(n_hidden)]
    tokens = torch.ones(2, N_TOKENS, dtype=torch.long)
    write_part(TextEncoder(encoder), {"input_ids": tokens}, outputs, folder)
    write_json(folder / "config.json", encoder.config.to_dict())


def write_vae(vae: Any, folder: Path) -> None:
    """Write both halves of a VAE, each into its own folder."""
    config = vae.config
    size = SMALL * 2 ** (len(config.block_out_channels) - 1)
    latents = {"latent_sample": torch.zeros(2, config.latent_channels, SMALL, SMALL)}
    write_part(Decoder(vae), latents, ["sample"], folder / "vae_decoder")
    image = {"sample": torch.zeros(2, config.in_channels, size, size)}
    write_part(Encoder(vae), image, ["latent_parameters"], folder / "vae_encoder")
    for half in ("vae_decoder", "vae_encoder"):
        vae.save_config(folder / half)


def write_part(
    module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], folder: Path
) -> None:
    """Write one network for OpenVINO, with 16-bit weights.

    Args:
        module: takes tensors in the order of the inputs.
        inputs: example inputs by name.
        outputs: names of the outputs.
        folder: folder to create.
    """
    import openvino

    model = openvino.convert_model(traced(module, inputs))
    named(model, list(inputs), outputs)
    folder.mkdir()
    save_openvino(model, folder, half=True)


def index_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The index of the folder in diffusers' terms, which optimum-intel reads."""
    index = {
        name: value
        for name, value in pipeline.config.items()
        if not name.startswith("_") and not (name in UNUSED and isinstance(value, tuple))
    }
    return {"_class_name": type(pipeline).__name__, "_diffusers_version": __version__, **index}
