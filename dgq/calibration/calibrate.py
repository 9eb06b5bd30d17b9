"""``dgq.calibrate``: from a pipeline and prompts, or a UNet and its calls, to a quantized UNet."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from dgq.calibration.calibrator import Calibrator
from dgq.calibration.given_calls import of_rows, samples_in
from dgq.calibration.given_model import check_call, check_unet, source_of, unet_of
from dgq.calibration.given_prompts import check_prompts, prompts_in
from dgq.calibration.held_out_calls import samples_of_calls
from dgq.calibration.learning_loop import learn_
from dgq.calibration.measuring import sqnr_by_step
from dgq.calibration.memory import check_room
from dgq.calibration.progress import CalibrationProgress
from dgq.calibration.recording import record_calls
from dgq.calibration.report import CalibrationReport, TargetError
from dgq.calibration.result import CalibrationResult
from dgq.calibration.runtime import Runtime, to_device
from dgq.calibration.samples import MOST_LATENT_PIXELS, Samples, Sampling, samples_of_prompts
from dgq.checkpoint import GenerationSettings, Manifest
from dgq.errors import SettingsError
from dgq.fingerprint import network_sha256
from dgq.recipes import Recipe, find_recipe
from dgq.settings import QuantizationSettings, WaitingSettings, check_positive
from dgq.waiting import waiting_rooms

PIXELS = 8
"""Of an image, along a side, for each of its latents."""


def calibrate(
    model: DiffusionPipeline | UNet2DConditionModel,
    samples: Sequence[str] | Sequence[Mapping[str, Any]],
    recipe: str | Recipe | QuantizationSettings = "w4a8",
    *,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    held_out: Sequence[Mapping[str, Any]] | None = None,
    n_held_out_prompts: int = 4,
    n_held_out: int = 16,
    n_samples: int | None = None,
    batch_size: int = 16,
    micro_batch_size: int | None = None,
    record_batch_size: int | None = None,
    seed: int = 0,
    waiting: WaitingSettings | None = None,
    progress: bool = True,
) -> CalibrationResult:
    """Quantize a UNet, target by target. The UNet is changed in place.

    It is in evaluation mode and without gradients afterwards, and of no use if this is interrupted
    or fails once the targets have begun. What is given is checked before anything is changed.

    Args:
        model: a text-to-image pipeline of Stable Diffusion or SDXL, or a UNet, in float32.
        samples: prompts for a pipeline to draw, a hundred or more for good ranges; or calls of the
            UNet, each a dict of its keyword arguments, as ``dgq.recording`` lists them.
        recipe: a name (``dgq.RECIPES``), a ``Recipe``, or settings that are learned as by default.
        num_inference_steps: of the sampler, as the pipeline will be used; for prompts.
        guidance_scale: of the same; 1 or less switches guidance off.
        height: of the images in pixels; the pipeline's own by default.
        width: of the images in pixels; the pipeline's own by default.
        held_out: calls to measure on; by default one in eight of the samples at each timestep is
            held out.
        n_held_out_prompts: how many of the prompts, the last ones, are held out to measure on.
        n_held_out: samples that the errors of the targets are measured on.
        n_samples: samples to learn on, evenly over the timesteps; all by default. A sample is a
            prompt (or a row of the calls) at a timestep.
        batch_size: rows in one step of learning.
        micro_batch_size: samples that run through the UNet at once; by default as many as have
            16,384 pixels of latents, at most 32.
        record_batch_size: prompts drawn at once; the default is made likewise, at most 16.
        seed: of noise, samples and batches.
        waiting: where samples wait for their turn at a target; on the device by default.
        progress: show a bar.

    Returns:
        The UNet with its figures.

    Raises:
        DGQError: for what cannot be calibrated, before any work.
    """
    chosen = find_recipe(recipe)
    sampling = Sampling(n_samples, n_held_out, batch_size, micro_batch_size, seed)
    generation = GenerationSettings(num_inference_steps, float(guidance_scale), height, width)
    if not math.isfinite(guidance_scale):
        raise SettingsError(f"guidance_scale must be finite, got {guidance_scale}")
    unet = unet_of(model)
    prompts = prompts_in(model, samples)
    if prompts is not None:
        check_prompts(model, prompts, n_held_out_prompts, held_out)
    check_unet(unet, chosen.quantization)
    unet.eval().requires_grad_(False)
    calibrator = Calibrator(
        unet, chosen.quantization, chosen.learning, batch_size, Runtime(unet.device)
    )
    if prompts is not None:
        at_once = pictures_at_once(unet, generation, record_batch_size)
        with calibrator.timer.phase("recording"), quiet(model):
            calls = record_calls(model, prompts, generation, seed, at_once, progress)
        found = samples_of_prompts(calls, n_held_out_prompts, sampling)
    else:
        given = None if held_out is None else samples_in(unet, held_out)
        found = samples_of_calls(samples_in(unet, samples), given, sampling)
        generation = replace(generation, num_inference_steps=len(found.timesteps))
    described = Manifest(
        source_of(model),
        dict(unet.config),
        chosen.quantization,
        generation,
        found.timesteps,
        found.latent_size,
        unet_sha256=network_sha256(unet),
    )
    with torch.inference_mode(False), torch.enable_grad():
        reconstruct_(calibrator, found, sampling, waiting or WaitingSettings(), progress)
        with calibrator.phase("measuring"):
            by_step = sqnr_by_step(unet, found.by_step)
    unet.manifest = described
    report = report_of(calibrator, chosen.name, found, by_step)
    return CalibrationResult(unet, report, described, chosen, found.held_out, found.by_step)


def reconstruct_(
    calibrator: Calibrator,
    samples: Samples,
    sampling: Sampling,
    waiting: WaitingSettings,
    progress: bool,
) -> None:
    """Quantize the UNet and reconstruct all targets."""
    unet = calibrator.unet
    one = to_device(of_rows(dict(samples.micro_batches[0]), slice(1)), calibrator.runtime.device)
    check_call(unet, one)
    check_room(unet, calibrator.settings, one, samples, waiting)
    calibrator.quantize_(samples.timesteps, samples.latent_size, one)
    with (
        tempfile.TemporaryDirectory(prefix="dgq-waiting-", dir=waiting.folder) as folder,
        CalibrationProgress(len(calibrator.targets), show=progress) as bar,
    ):
        try:
            rooms = waiting_rooms(waiting, unet, Path(folder))
            calibrator.start(samples.micro_batches, samples.held_out, rooms)
            learn_(calibrator, sampling, bar)
        finally:
            calibrator.close()


def report_of(
    calibrator: Calibrator, recipe: str, samples: Samples, by_step: Mapping[float, float]
) -> CalibrationReport:
    """The figures of a finished calibration."""
    targets = [
        TargetError(name=record["target"], **{k: v for k, v in record.items() if k != "target"})
        for record in calibrator.records
    ]
    return CalibrationReport(
        recipe,
        tuple(targets),
        calibrator.sqnr_db["weights"],
        calibrator.sqnr_db["all"],
        by_step,
        dict(calibrator.seconds),
        samples.n_samples,
        samples.n_held_out,
    )


def pictures_at_once(
    unet: UNet2DConditionModel, generation: GenerationSettings, asked: int | None
) -> int:
    """How many prompts are drawn at once: as asked, or few large pictures and many small ones."""
    if asked is not None:
        check_positive("record_batch_size", asked)
        return asked
    size = unet.config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if generation.height is not None and generation.width is not None:
        height, width = generation.height // PIXELS, generation.width // PIXELS
    return min(16, max(1, MOST_LATENT_PIXELS // max(1, height * width)))


@contextmanager
def quiet(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Without the pipeline's own bar, which would tell of each batch's steps."""
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
