"""The UNets' conditions, computed once for each caption by the pipeline's own encoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from scenes.training.arrays import CHUNK, create, is_done, mark_done, open_array

_IMAGE_SIZE = "image_size"


@dataclass(frozen=True)
class Conditions:
    """Text states, and pooled text embeddings where the UNet takes them; both float16.

    `states` is [1 + captions, tokens, width] and `pooled` [1 + captions, width]; row 0 belongs to
    the empty caption. `image_size` is the side of the pictures in pixels.
    """

    states: Tensor
    pooled: Tensor | None
    image_size: int

    def of(self, rows: Tensor) -> dict[str, Any]:
        """Arguments of a UNet call for the given rows, in float32."""
        states = self.states[rows].float()
        if self.pooled is None:
            return {"encoder_hidden_states": states}
        # Original size, crop and target size, with the pipeline's default values.
        side = float(self.image_size)
        added = {
            "text_embeds": self.pooled[rows].float(),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * len(rows)),
        }
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}


@torch.no_grad()
def prepare(pipeline: DiffusionPipeline, captions: list[str], folder: Path) -> None:
    """Write the conditions of all captions into `folder`."""
    if is_done(folder):
        return
    empty = encode(pipeline, captions[:1], empty=True)
    arrays: list[np.memmap] = []
    for name, first in zip(("states.npy", "pooled.npy"), empty, strict=False):
        arrays.append(create(folder / name, (1 + len(captions), *first.shape[1:])))
        arrays[-1][0] = first[0].cpu().numpy().astype(np.float16)
    for start in range(0, len(captions), CHUNK):
        part = captions[start : start + CHUNK]
        for array, embeddings in zip(arrays, encode(pipeline, part), strict=True):
            array[1 + start : 1 + start + len(part)] = embeddings.cpu().numpy().astype(np.float16)
    (folder / _IMAGE_SIZE).write_text(str(pipeline.vae.config["sample_size"]))
    mark_done(folder, *arrays)


def encode(pipeline: DiffusionPipeline, captions: list[str], empty: bool = False) -> list[Tensor]:
    """Text states of captions, then pooled embeddings if the pipeline has them.

    With `empty`, those of the empty caption that guidance uses instead.
    """
    embeddings = pipeline.encode_prompt(
        prompt=captions,
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=empty,
    )
    return list(embeddings[1::2] if empty else embeddings[::2])


def load(folder: Path) -> Conditions:
    """Open what `prepare` wrote, memory-mapped.

    Raises:
        FileNotFoundError: it is missing or incomplete.
    """
    if not is_done(folder):
        raise FileNotFoundError(
            f"no complete text states in {folder}; run `python -m scenes.training {folder.name}` "
            "first"
        )
    pooled = folder / "pooled.npy"
    return Conditions(
        states=torch.from_numpy(open_array(folder / "states.npy")),
        pooled=torch.from_numpy(open_array(pooled)) if pooled.exists() else None,
        image_size=int((folder / _IMAGE_SIZE).read_text()),
    )
