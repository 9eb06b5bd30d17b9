"""``dgq.calibrate``: from a pipeline and prompts, or a UNet and its calls, to a quantized UNet."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from dgq.calibration.calibrator import Calibrator
from dgq.calibration.drawn_samples import Drawing
from dgq.calibration.given_calls import samples_in
from dgq.calibration.given_model import check_calibratable, check_call, source_of, unet_of
from dgq.calibration.given_prompts import check_prompts, prompts_in
from dgq.calibration.held_out_calls import samples_of_calls
from dgq.calibration.learning_loop import learn_
from dgq.calibration.measuring import sqnr_by_step
from dgq.calibration.memory import check_waiting_memory
from dgq.calibration.progress import CalibrationProgress
from dgq.calibration.report import CalibrationReport, TargetError
from dgq.calibration.result import CalibrationResult
from dgq.calibration.runtime import Precision, Runtime
from dgq.calibration.samples import Amount, Samples, Sampling
from dgq.errors import DGQError
from dgq.recipes import Recipe, find_recipe
from dgq.settings import QuantizationSettings, WaitingSettings, check_kind
from dgq.storage.checkpoint import GenerationSettings, Manifest
from dgq.storage.files import check_writable
from dgq.storage.fingerprint import network_sha256
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.streams.waiting import waiting_places
from dgq.torch_defaults import torch_defaults
from dgq.unet.call_rows import Call, of_rows, to_device


@torch_defaults()
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
    precision: Precision = "32-true",
    progress: bool = True,
) -> CalibrationResult:
    """Quantize a UNet, target by target. The UNet is changed in place.

    Afterwards it is in evaluation mode and without gradients. If this is interrupted or fails once
    learning has started, the UNet is unusable. Arguments are checked before anything is changed.

    Args:
        model: a text-to-image pipeline of Stable Diffusion or SDXL, or a UNet, in float32.
        samples: prompts for a pipeline to draw, a hundred or more for good ranges; or calls of the
            UNet, each a dict of its keyword arguments, as ``dgq.recording`` lists them.
        recipe: a name (``dgq.RECIPES``), a ``Recipe``, or settings with default learning.
        num_inference_steps: sampler steps, as the pipeline will be used; for prompts.
        guidance_scale: guidance, likewise; 1 or less switches it off.
        height: height of the images in pixels; the pipeline's default if None.
        width: width of the images in pixels; the pipeline's default if None.
        held_out: calls to measure on; by default one in eight of the samples at each timestep is
            held out.
        n_held_out_prompts: how many of the prompts, the last ones, are held out to measure on.
        n_held_out: samples that the errors of the targets are measured on.
        n_samples: samples to learn on, evenly over the timesteps; all by default. A sample is a
            prompt (or a row of the calls) at a timestep.
        batch_size: rows per learning step.
        micro_batch_size: samples that run through the UNet at once; by default as many as have
            16,384 pixels of latents, at most 32.
        record_batch_size: prompts drawn at once; by default chosen likewise, at most 16.
        seed: seed of noise, samples and batches.
        waiting: where suspended samples are kept; on the device by default.
        precision: ``"bf16-mixed"`` computes in bfloat16 where ``torch.autocast`` does, which is
            faster on GPUs and on CPUs with AMX. Weights, ranges and scales stay in float32.
        progress: show a progress bar.

    Returns:
        The UNet with its report.

    Raises:
        DGQError: if the model or the samples cannot be calibrated, before any work.
    """
    chosen = find_recipe(recipe)
    sampling = Sampling(n_samples, n_held_out, batch_size, micro_batch_size, seed)
    generation = GenerationSettings(num_inference_steps, guidance_scale, height, width)
    waiting = checked_waiting(waiting)
    unet = unet_of(model)
    prompts = prompts_in(model, samples)
    if prompts is not None:
        check_prompts(model, prompts, n_held_out_prompts, held_out)
    check_calibratable(unet, chosen)
    calibrator = Calibrator(unet, chosen, batch_size, Runtime(unet.device, precision))
    if prompts is not None:
        drawing = Drawing(
            model, prompts, generation, n_held_out_prompts, record_batch_size, sampling
        )
        call, amount = drawing.preview()
        check_work(calibrator, call, amount, waiting)
        unet.eval().requires_grad_(False)
        with calibrator.timer.phase("recording"):
            found = drawing.samples(call, progress)
    else:
        all_samples = samples_in(unet, samples)
        measured = None
        if held_out is not None:
            measured = samples_in(unet, held_out, "held-out call", all_samples)
        found = samples_of_calls(all_samples, measured, sampling)
        generation = replace(generation, num_inference_steps=len(found.timesteps))
        check_work(calibrator, all_samples[0], found.amount, waiting)
        unet.eval().requires_grad_(False)
    unet_config, sha256 = dict(unet.config), network_sha256(unet)
    with torch.inference_mode(False), torch.enable_grad():
        reconstruct_(calibrator, found, sampling, waiting, progress)
        with calibrator.phase("measuring"):
            by_step = sqnr_by_step(unet, found.by_step)
    described = Manifest(
        source_of(model),
        unet_config,
        calibrator.settings,
        generation,
        found.timesteps,
        found.latent_size,
        unet_sha256=sha256,
        prompt_hashes=prompt_hashes(prompts or ()),
    )
    unet.manifest = described
    report = report_of(calibrator, chosen.name, found, by_step)
    return CalibrationResult(unet, report, described, chosen, found.held_out, found.by_step)


def checked_waiting(waiting: WaitingSettings | None) -> WaitingSettings:
    """Where samples wait; on the device by default.

    Raises:
        DGQError: for anything else, or a folder that cannot be written into.
    """
    if waiting is None:
        return WaitingSettings()
    check_kind("waiting", waiting, WaitingSettings)
    if waiting.place == "disk":
        try:
            folder = Path(waiting.folder or tempfile.gettempdir())
        except OSError as error:
            raise DGQError(f"waiting.folder: {error}: name one that can be written into") from error
        check_writable(folder, "waiting.folder")
        folder.mkdir(parents=True, exist_ok=True)
    return waiting


def waiting_folder(waiting: WaitingSettings) -> AbstractContextManager[str]:
    """A folder that is removed at the end; none where samples wait in memory."""
    if waiting.place != "disk":
        return nullcontext("")
    return tempfile.TemporaryDirectory(prefix="dgq-waiting-", dir=waiting.folder)


def check_work(
    calibrator: Calibrator, call: Call, amount: Amount, waiting: WaitingSettings
) -> None:
    """Raise DGQError for calls that the UNet cannot compute, or samples that do not fit in memory.

    Args:
        calibrator: calibrator of the UNet.
        call: call of one sample.
        amount: numbers of samples that exist or will be drawn.
        waiting: where they will wait.
    """
    one = one_row(call, calibrator.runtime.device)
    check_call(calibrator.unet, one)
    check_waiting_memory(calibrator.unet, calibrator.recipe, one, amount, waiting)


def one_row(call: Call, device: torch.device) -> Call:
    """The first row of a call, on a device."""
    row: Call = to_device({**of_rows(dict(call), slice(1)), "return_dict": False}, device)
    return row


def reconstruct_(
    calibrator: Calibrator,
    samples: Samples,
    sampling: Sampling,
    waiting: WaitingSettings,
    progress: bool,
) -> None:
    """Quantize the UNet and reconstruct all targets."""
    unet = calibrator.unet
    one = one_row(samples.micro_batches[0], calibrator.runtime.device)
    settings = calibrator.recipe.settings(unet, samples.micro_batches, progress)
    calibrator.quantize_(samples.timesteps, samples.latent_size, one, settings)
    with (
        waiting_folder(waiting) as folder,
        CalibrationProgress(len(calibrator.targets), show=progress) as bar,
    ):
        try:
            places = waiting_places(waiting, unet, Path(folder))
            calibrator.start(samples.micro_batches, samples.held_out, places)
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
