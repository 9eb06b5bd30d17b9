"""The embedded model: with real weights and calls, and therefore an SQNR beside the seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

import scenes
from benchmarks.inference.parts import Part
from benchmarks.inference.request import Options
from benchmarks.inference.subjects import Call, Subject
from data.embedded import SCENES_GENERATION
from dgq.calibration.recording import record_calls
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError
from dgq.pipelines.files import pipeline_sha256
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.pipelines.sources import resolve
from dgq.storage.checkpoint import GenerationSettings, Manifest, quantized_folder, read_manifest
from dgq.storage.tensor_files import read_tensors, write_tensors

SEED = 1234
CALLS, REFERENCE, CALIBRATION = (
    f"{name}.safetensors" for name in ("held_out", "reference", "calibration")
)
RECORD_BATCH = 16


class Embedded(Subject):
    """The UNet of the pipeline that the quantized models were made from; if none, ``scenes``."""

    name = "embedded"
    default_batches = (2, 1, 32)
    parts = ("calls",)
    calibrates_fully = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        manifests = {ckpt: read_manifest(ckpt) for ckpt in options.ckpts}
        self.pipeline, self.generation = _shared(manifests)
        self.title = f"embedded model ({self.pipeline})"

    @property
    def folder(self) -> Path:
        """The cache folder, which depends on the pipeline."""
        return Path(self.options.cache) / f"embedded-{self._sha256[:8]}"

    def stock(self) -> UNet2DConditionModel:
        """The pipeline's UNet."""
        return load_unet(self.pipeline)

    def identity(self) -> dict[str, Any]:
        """The pipeline's content, and its sampling."""
        return {
            "pipeline": self._sha256,
            "generation": asdict(self.generation),
            "seed": SEED,
        }

    def ckpts(self) -> Sequence[str]:
        """The quantized models as given by the user."""
        return self.options.ckpts

    def quantized(self, ckpt: str) -> Path:
        """The folder of that run."""
        return quantized_folder(ckpt)

    def own_part(self, name: str) -> Part | None:
        """The recorded calls; quantized models exist already."""
        if name != "calls":
            return None
        counts = {"captions": self.options.captions, "calls": self.options.calibration_calls}
        return Part(self.folder / "calls", self.identity() | counts, self._record)

    def call(self, batch: int) -> Call:
        """A call in the middle of the sampler, with this number of rows of held-out captions."""
        arguments, _ = self._held_out_call(len(self._calls.timesteps) // 2)
        rows = arguments["sample"].shape[0]
        some: Call = _rows(arguments, torch.arange(batch) % rows)
        return some

    def calibration(self) -> Sequence[Call]:
        """Recorded calls of captions that are not held out: all steps of one, then of the next."""
        calls = UNetCalls.load(self._file(CALIBRATION))
        n_calls, n_prompts = calls.latents.shape[:2]
        pairs = torch.cartesian_prod(torch.arange(n_prompts), torch.arange(n_calls)).flip(1)
        pairs = pairs[: self.options.calibration_calls]
        return [_one_step(calls.batch(pair)) for pair in pairs[:, None]]

    def held_out(self) -> Iterator[tuple[Call, Tensor]]:
        """Yield call and reference output of each sampler step, all captions in one batch."""
        for step in range(len(self._calls.timesteps)):
            yield self._held_out_call(step)

    @cached_property
    def _sha256(self) -> str:
        return pipeline_sha256(resolve(self.pipeline))

    @cached_property
    def _calls(self) -> UNetCalls:
        return UNetCalls.load(self._file(CALLS))

    @cached_property
    def _reference(self) -> Tensor:
        return read_tensors(self._file(REFERENCE))[0]["outputs"]

    def _file(self, name: str) -> Path:
        return self.folder / "calls" / name

    def _held_out_call(self, step: int) -> tuple[Call, Tensor]:
        return _one_step(self._calls.batch(_pairs(self._calls, step))), self._reference[step]

    def _record(self, folder: Path) -> None:
        """Record calls of the captions and the reference outputs, in full precision."""
        held_out = self._recorded(self.options.captions, "test")
        held_out.save(folder / CALLS)
        n_calls = len(held_out.timesteps)
        n_prompts = -(-self.options.calibration_calls // n_calls)
        self._recorded(n_prompts, "train").save(folder / CALIBRATION)
        unet = self.stock()
        outputs = [
            unet(**_one_step(held_out.batch(_pairs(held_out, step))))[0] for step in range(n_calls)
        ]
        write_tensors(folder / REFERENCE, {"outputs": torch.stack(outputs)}, {})

    def _recorded(self, n: int, split: Any) -> UNetCalls:
        captions = scenes.sample_captions(n, SEED, split)
        pipeline = load_pipeline(self.pipeline)
        return record_calls(pipeline, captions, self.generation, SEED, RECORD_BATCH)


def _shared(manifests: dict[str, Manifest]) -> tuple[str, GenerationSettings]:
    """The pipeline and generation settings that all quantized models share.

    Raises:
        DGQError: if they differ.
    """
    if not manifests:
        return "scenes", SCENES_GENERATION
    first, *others = manifests
    used = {name: (m.pipeline, m.generation) for name, m in manifests.items()}
    for other in others:
        if used[other] != used[first]:
            raise DGQError(
                f"--ckpt: {other} was made from another pipeline or sampler than {first}: "
                "measure them one after the other"
            )
    return used[first]


def _pairs(calls: UNetCalls, step: int) -> Tensor:
    """Pairs of one step with all prompts."""
    prompts = torch.arange(calls.n_prompts)
    return torch.stack([torch.full_like(prompts, step), prompts], 1)


def _one_step(call: Call) -> Call:
    """A call as pipelines make it: one number for the timestep."""
    return call | {"timestep": call["timestep"][0]}


def _rows(call: Any, index: Tensor) -> Any:
    """Some rows of the tensors in nested arguments."""
    if isinstance(call, dict):
        return {name: _rows(value, index) for name, value in call.items()}
    return call[index] if isinstance(call, Tensor) and call.ndim else call
