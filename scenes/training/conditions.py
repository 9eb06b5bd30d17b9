"""What UNets are conditioned on, computed once for each caption by the pipeline's own encoders."""

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

    def of(self, rows: Tensor, device: torch.device) -> dict[str, Any]:
        """Arguments of a UNet call for the given rows, in float32 on the device."""
        states = self.states[rows].float().to(device)
        if self.pooled is None:
            return {"encoder_hidden_states": states}
        # Original size, crop and target size, as the pipeline gives them if nobody says otherwise.
        side = float(self.image_size)
        added = {
            "text_embeds": self.pooled[rows].float().to(device),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * len(rows), device=device),
        }
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}


@torch.no_grad()
def prepare(pipeline: DiffusionPipeline, captions: list[str], folder: Path) -> None:
    """Write the conditions of all captions into `folder`."""
    if is_done(folder):
        return
    arrays: list[np.memmap] = []
    for start in range(0, len(captions), CHUNK):
        part = captions[start : start + CHUNK]
        embeddings = encode(pipeline, part)
        if not arrays:
            names = ("states.npy", "pooled.npy")[: len(embeddings)]
            arrays = [
                create(folder / name, (1 + len(captions), *known.shape[1:]))
                for name, (known, _) in zip(names, embeddings, strict=True)
            ]
        for array, (known, empty) in zip(arrays, embeddings, strict=True):
            array[0] = empty[0].cpu().numpy().astype(np.float16)
            array[1 + start : 1 + start + len(part)] = known.cpu().numpy().astype(np.float16)
    (folder / _IMAGE_SIZE).write_text(str(pipeline.vae.config["sample_size"]))
    mark_done(folder, *arrays)


def encode(pipeline: DiffusionPipeline, captions: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Embeddings of captions and, beside each, those of the empty caption.

    Text states come first, then the pooled ones of a pipeline that has them.
    """
    embeddings = pipeline.encode_prompt(
        prompt=captions,
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )
    return list(zip(embeddings[::2], embeddings[1::2], strict=True))


def load(folder: Path) -> Conditions:
    """Open what `prepare` wrote, memory-mapped.

    Raises:
        FileNotFoundError: it is not there or not complete.
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
