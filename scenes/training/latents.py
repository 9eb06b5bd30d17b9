"""The UNet's training set, computed once: latents of many renders, text states of each caption."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from scenes.captions import sample_captions
from scenes.renderer import render
from scenes.training.autoencoder import encode, to_model
from scenes.training.clip import text_tower, tokenize
from scenes.training.settings import Latents

_CHUNK = 1000


@dataclass(frozen=True)
class LatentSet:
    """Latents and text states, memory-mapped.

    `latents` is [captions, renders, channels, h, w], scaled to unit variance; `states` is
    [1 + captions, tokens, width], row 0 belonging to the empty caption. Both are float16.
    """

    latents: Tensor
    states: Tensor


def prepare(settings: Latents, image_size: int, folder: Path, device: str) -> None:
    """Compute and write the set from the autoencoder and CLIP found beside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = sample_captions(settings.n_captions, settings.seed, "train")
    _write_states(["", *captions], folder, device)
    model = AutoencoderKL.from_pretrained(folder.parent / "autoencoder" / "model").to(device)
    channels = model.config["latent_channels"]
    side = image_size // 2 ** (len(model.config["block_out_channels"]) - 1)
    shape = (len(captions), settings.renders, channels, side, side)
    latents = _create(folder / "latents.npy", shape)
    for start in range(0, len(captions), _CHUNK):
        part = captions[start : start + _CHUNK]
        for i in range(settings.renders):
            seed = settings.seed + start * settings.renders + i
            pictures = to_model(render(part, image_size, seed)).to(device)
            scaled = encode(model, pictures) * model.config["scaling_factor"]
            latents[start : start + _CHUNK, i] = scaled.cpu().half().numpy()
    latents.flush()
    (folder / "done.json").write_text(json.dumps({"captions": len(captions)}))


def load(folder: Path) -> LatentSet:
    """Open what `prepare` wrote.

    Raises:
        FileNotFoundError: it is not there or not complete.
    """
    if not (folder / "done.json").exists():
        raise FileNotFoundError(
            f"no complete latents in {folder}; run `python -m scenes.training latents` first"
        )
    # Copy on write: torch wants writable memory, the file stays as it is.
    arrays = [np.load(folder / name, mmap_mode="c") for name in ("latents.npy", "states.npy")]
    return LatentSet(*(torch.from_numpy(array) for array in arrays))


@torch.no_grad()
def _write_states(captions: list[str], folder: Path, device: str) -> None:
    encoder, tokenizer = text_tower(folder.parent / "clip" / "model")
    encoder = encoder.to(device).eval()
    ids = tokenize(tokenizer, captions)
    states = _create(folder / "states.npy", (*ids.shape, encoder.config.hidden_size))
    for start in range(0, len(captions), _CHUNK):
        part = encoder(ids[start : start + _CHUNK].to(device)).last_hidden_state
        states[start : start + _CHUNK] = part.cpu().half().numpy()
    states.flush()


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    if path.exists():
        os.remove(path)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
