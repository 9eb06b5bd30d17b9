"""UNet calls of prompts that no calibration has seen, with the full-precision outputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import scenes
from data.embedded import SCENES_GENERATION
from dgq.calibration.recording import record_calls
from dgq.calibration.unet_calls import UNetCalls
from dgq.pipelines.files import pipeline_sha256
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.pipelines.sources import resolve
from dgq.storage.tensor_files import read_sealed_tensors, write_sealed_tensors

SEED = 4321
"""Seed of captions and noise; calibrations and evaluations use other seeds."""

AT_ONCE = 16
"""Prompts per call, with two rows each under guidance."""


@dataclass(frozen=True)
class HeldOut:
    """Calls of a model and their outputs.

    Args:
        calls: recorded in full precision.
        outputs: ``[calls, prompts, halves, channels, height, width]``.
    """

    calls: UNetCalls
    outputs: Tensor

    @property
    def n_prompts(self) -> int:
        """Number of prompts that were drawn."""
        return self.calls.n_prompts

    def batches(self, n_prompts: int) -> Iterator[tuple[int, slice, dict[str, Any]]]:
        """Call, prompts and keyword arguments of each batch, for the first prompts."""
        for call in range(self.calls.latents.shape[0]):
            for first in range(0, n_prompts, AT_ONCE):
                prompts = slice(first, min(first + AT_ONCE, n_prompts))
                index = torch.arange(prompts.start, prompts.stop)
                pairs = torch.stack([torch.full_like(index, call), index], 1)
                yield call, prompts, self.calls.batch(pairs)


@torch.no_grad()
def held_out_calls(model: str, n_prompts: int, folder: Path) -> HeldOut:
    """Recorded calls and outputs of an embedded model, made once and kept in a folder.

    Args:
        model: name of the embedded model.
        n_prompts: prompts of the scenes' test split.
        folder: folder of the files.
    """
    which = f"{model}-{pipeline_sha256(resolve(model))[:8]}-{n_prompts}"
    recorded, references = folder / f"{which}.safetensors", folder / f"{which}-out.safetensors"
    if not recorded.is_file():
        captions = scenes.sample_captions(n_prompts, SEED, "test")
        pipeline = load_pipeline(model)
        record_calls(pipeline, captions, SCENES_GENERATION, SEED, AT_ONCE).save(recorded)
    calls = UNetCalls.load(recorded)
    if not references.is_file():
        outputs = outputs_of(load_unet(model), calls)
        write_sealed_tensors(references, {"outputs": outputs})
    return HeldOut(calls, read_sealed_tensors(references)[0]["outputs"])


def outputs_of(unet: nn.Module, calls: UNetCalls) -> Tensor:
    """Outputs of a UNet, ``[calls, prompts, halves, channels, height, width]``."""
    n_calls, n_prompts = calls.latents.shape[:2]
    shape = (n_calls, n_prompts, calls.n_halves, *calls.latents.shape[2:])
    outputs = torch.empty(shape)
    batches = list(HeldOut(calls, outputs).batches(n_prompts))
    for call, prompts, arguments in track(batches, description="full precision, held out"):
        found = unet(**arguments)[0]
        outputs[call, prompts] = found.unflatten(0, (-1, calls.n_halves))
    return outputs
