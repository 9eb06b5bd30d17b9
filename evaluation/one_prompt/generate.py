"""From a prompt to a file: check, draw, compare, write, and report."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from dgq.devices import forget_peak, peak_bytes
from dgq.errors import DGQError
from dgq.inference.execution import Execution
from dgq.math.reconstruction import sqnr_db
from dgq.pipelines.schedulers import scheduler_like
from evaluation.devices import find_devices
from evaluation.images.files import to_images, to_tensor
from evaluation.images.sampling import check_drawable, sample
from evaluation.one_prompt.files import check_output, write_pictures
from evaluation.one_prompt.lora import find_lora, with_lora
from evaluation.one_prompt.settings import PictureSettings
from evaluation.one_prompt.sheet import side_by_side
from evaluation.one_prompt.subjects import Subjects, find_subjects
from evaluation.progress import make_progress

SAMPLING_OPTIONS = "--height, --width, --steps, --scheduler or --negative"


@dataclass(frozen=True)
class Drawn:
    """Result of drawing with one UNet.

    Args:
        name: name of the UNet.
        pictures: pictures, one for each noise.
        seconds: time that the pipeline took for all.
        peak_bytes: peak memory of the process or the GPU meanwhile.
        execution: how it ran; None in full precision.
    """

    name: str
    pictures: list[Image.Image]
    seconds: float
    peak_bytes: int
    execution: Execution | None


def generate(settings: PictureSettings, console: Console) -> list[Path]:
    """Draw a prompt, write the pictures, and print time and memory.

    Args:
        settings: what to draw, and with what.
        console: where progress and report are printed.

    Returns:
        The files written.

    Raises:
        DGQError: before anything is drawn, if an input is missing, damaged, or does not fit; or if
            a picture is not finite.
    """
    check_output(settings)
    device = find_devices(settings.device, 1)[0]
    lora = None if settings.lora is None else find_lora(settings.lora)
    found = find_subjects(settings, device)
    pipeline, generation = found.pipeline, found.generation
    if settings.scheduler is not None:
        pipeline.scheduler = scheduler_of(pipeline, settings.scheduler)
    scale = 1.0 if settings.lora_scale is None else settings.lora_scale
    with torch.no_grad(), with_lora(pipeline, lora, scale):
        options = options_of(settings)
        check_drawable(pipeline, settings.prompt, generation, SAMPLING_OPTIONS, **options)
    drawn = []
    for subject in found.subjects:
        if len(found.subjects) > 1:
            pipeline.unet = None  # one UNet at a time in memory
            pipeline.unet = subject.load()
        with with_lora(pipeline, lora, scale), make_progress(console) as progress:
            drawn.append(draw(found, subject.name, settings, device, progress))
    files = write_pictures(pictures_of(drawn, settings), settings)
    report(drawn, files, console)
    return files


@torch.no_grad()
def draw(
    found: Subjects, name: str, settings: PictureSettings, device: str, progress: Progress
) -> Drawn:
    """Draw all pictures one by one, so that none depends on their number.

    Raises:
        DGQError: if one is not finite.
    """
    pipeline, generation = found.pipeline, found.generation
    n_steps = len(pipeline.scheduler.timesteps) * settings.number
    task = progress.add_task(name, total=n_steps)
    hook = pipeline.unet.register_forward_hook(lambda *_: progress.advance(task))
    pictures = []
    forget_peak(device)
    start = perf_counter()
    try:
        for index in range(settings.index, settings.index + settings.number):
            prompts, seed = {index: settings.prompt}, settings.seed
            pixels = sample(pipeline, prompts, [index], generation, seed, **options_of(settings))
            check_finite(pixels, name)
            pictures += to_images(pixels)
    finally:
        hook.remove()
    seconds = perf_counter() - start
    execution = getattr(pipeline.unet, "execution", None)
    return Drawn(name, pictures, seconds, peak_bytes(device), execution)


def options_of(settings: PictureSettings) -> dict[str, Any]:
    """Additional arguments of the pipeline."""
    return {} if settings.negative is None else {"negative_prompt": [settings.negative]}


def check_finite(pixels: Tensor, name: str) -> None:
    """Raise DGQError for a picture with values that are not finite: saved, it would be black."""
    if not bool(pixels.isfinite().all()):
        raise DGQError(f"{name}: the picture is not finite: calibrate this model again")


def scheduler_of(pipeline: DiffusionPipeline, name: str) -> Any:
    """Another sampler with the settings of the pipeline's; raises DGQError if incompatible."""
    possible = {kind.__name__: kind for kind in pipeline.scheduler.compatibles}
    if name not in possible:
        raise DGQError(
            f"--scheduler {name} does not go with this pipeline: expected one of "
            f"{', '.join(sorted(possible))}"
        )
    try:
        return scheduler_like(possible[name], pipeline.scheduler)
    except (ImportError, ValueError) as error:  # some need a package, or settings of their own
        raise DGQError(f"--scheduler {name} cannot be used: {error}") from error


def pictures_of(drawn: list[Drawn], settings: PictureSettings) -> list[Image.Image]:
    """The pictures to write: as they are, or all in one if models are compared."""
    if not settings.compare:
        return drawn[0].pictures
    return [side_by_side({each.name: each.pictures for each in drawn}, settings.prompt)]


def report(drawn: list[Drawn], files: list[Path], console: Console) -> None:
    """Print the cost of each UNet, the difference between two, and where the pictures are."""
    for each in drawn:
        gigabytes = each.peak_bytes / 1e9
        say(console, f"{each.name}: {each.seconds:.2f} s, peak memory {gigabytes:.2f} GB")
        if each.execution is not None:
            say(console, f"{each.name}: {each.execution}")
    if len(drawn) > 1:
        say(console, difference(*(to_tensor(each.pictures) for each in drawn)))
    for file in files:
        say(console, f"written: {file}")


def difference(expected: Tensor, actual: Tensor) -> str:
    """Differences of pictures ``[N, 3, H, W]`` with values in [0, 1] from the expected ones."""
    squared = (expected.double() - actual.double()).square().mean()
    if squared == 0:
        return "the pictures are the same, pixel by pixel"
    sqnr = sqnr_db(actual.double(), expected.double())
    psnr = -10 * squared.log10()
    return f"quantized against full precision: SQNR {sqnr:.1f} dB, PSNR {psnr:.1f} dB"


def say(console: Console, text: str) -> None:
    """Print a line unchanged."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
