"""The UNets' training pictures, computed once: latents of several renders of each caption."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from scenes.captions import sample_captions
from scenes.renderer import render
from scenes.training.arrays import CHUNK, create, is_done, mark_done, open_array
from scenes.training.autoencoder import encode, to_model
from scenes.training.settings import Latents


def prepare(
    settings: Latents, image_size: int, autoencoder: Path, folder: Path, device: str
) -> None:
    """Write the latents of all training captions, scaled to unit variance, into `folder`."""
    if is_done(folder):
        return
    captions = training_captions(settings)
    model = AutoencoderKL.from_pretrained(autoencoder).to(device)
    channels = model.config["latent_channels"]
    side = image_size // 2 ** (len(model.config["block_out_channels"]) - 1)
    latents = create(
        folder / "latents.npy", (len(captions), settings.renders, channels, side, side)
    )
    for start in range(0, len(captions), CHUNK):
        part = captions[start : start + CHUNK]
        for i in range(settings.renders):
            seed = settings.seed + start * settings.renders + i
            pictures = to_model(render(part, image_size, seed)).to(device)
            scaled = encode(model, pictures) * model.config["scaling_factor"]
            latents[start : start + CHUNK, i] = scaled.cpu().numpy().astype(np.float16)
    mark_done(folder, latents)


def training_captions(settings: Latents) -> list[str]:
    """The captions that the UNets learn from."""
    return sample_captions(settings.n_captions, settings.seed, "train")


def load(folder: Path) -> Tensor:
    """Latents, [captions, renders, channels, h, w] in float16, memory-mapped.

    Raises:
        FileNotFoundError: they are missing or incomplete.
    """
    if not is_done(folder):
        raise FileNotFoundError(
            f"no complete latents in {folder}; run `python -m scenes.training latents` first"
        )
    return torch.from_numpy(open_array(folder / "latents.npy"))
