"""A student of few steps, each of which lands where several guided steps of the teacher land.

Progressive distillation (Salimans & Ho 2022, sections 3 and 4) in one stage, with the teacher's
guidance built in (Meng et al. 2023, section 3.1, for a single scale).
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scenes.training import conditions, latents
from scenes.training.batches import rows_of_process
from scenes.training.checkpoints import CHECKPOINT, read_average
from scenes.training.conditions import Conditions
from scenes.training.diffusion import build
from scenes.training.fit import fit
from scenes.training.module import Training
from scenes.training.pipelines import pndm
from scenes.training.settings import Distillation


def train(
    settings: Distillation,
    unet: dict[str, Any],
    pictures: Path,
    texts: Path,
    teacher_folder: Path,
    folder: Path,
    device: str,
    resume: bool,
    processes: int,
) -> None:
    """Train the student in `folder`, starting as a copy of the teacher in `teacher_folder`."""
    side, width = latents.load(pictures).shape[-1], conditions.load(texts).states.shape[-1]
    student, teacher = (build(unet, side, width) for _ in range(2))
    for network in (student, teacher):
        read_average(teacher_folder / CHECKPOINT, network)
        if device == "cpu":
            network.set_attn_processor(AttnProcessor())
    teacher.requires_grad_(False).eval()
    draw = StepDraw(settings, pictures, texts)
    training = DistillationTraining(student, teacher.to(device), settings)
    fit(training, draw, folder, device, resume, processes)


class Step(NamedTuple):
    """Noisy latents at the start of a student's step.

    Args:
        noisy: [pictures, channels, h, w].
        first: the teacher's step that it starts at, [pictures].
        with_caption: further arguments of the student, and of the teacher.
        without: the same for the empty caption.
    """

    noisy: Tensor
    first: Tensor
    with_caption: dict[str, Any]
    without: dict[str, Any]


class StepDraw:
    """Draws latents, noise, and one of the student's steps, each equally often."""

    def __init__(self, settings: Distillation, pictures: Path, texts: Path) -> None:
        self.settings, self.pictures, self.texts = settings, pictures, texts
        self.alphas = noise_levels(settings)

    @cached_property
    def data(self) -> tuple[Tensor, Conditions]:
        """All latents, and all conditions; opened in the process that draws."""
        return latents.load(self.pictures), conditions.load(self.texts)

    def __call__(self, generator: torch.Generator) -> Step:
        data, known = self.data
        size = (self.settings.fit.batch_size,)
        caption = torch.randint(len(data), size, generator=generator)
        picture = torch.randint(data.shape[1], size, generator=generator)
        noise = torch.randn((*size, *data.shape[2:]), generator=generator)
        order = torch.randperm(size[0], generator=generator)
        first = order % self.settings.student_steps * self.settings.teacher_steps
        mine = rows_of_process(size[0])
        caption, picture, noise, first = caption[mine], picture[mine], noise[mine], first[mine]
        alpha = self.alphas[first][:, None, None, None]
        noisy = alpha * data[caption, picture].float() + (1 - alpha**2).sqrt() * noise
        # Sampling starts from pure noise, which the schedule never quite reaches.
        noisy = torch.where(first[:, None, None, None] == 0, noise, noisy)
        return Step(noisy, first, known.of(caption + 1), known.of(torch.zeros_like(caption)))


class DistillationTraining(Training[UNet2DConditionModel]):
    """Compares the student's velocities with those that lead where the teacher ends."""

    timesteps: Tensor
    alphas: Tensor

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        settings: Distillation,
    ) -> None:
        super().__init__(student, settings.fit)
        self.stage = settings
        self._teacher = (teacher,)  # in a tuple, so that it is not trained, averaged or saved
        n = settings.student_steps * settings.teacher_steps
        self.register_buffer("timesteps", trailing_timesteps(n), persistent=False)
        self.register_buffer("alphas", noise_levels(settings), persistent=False)

    def loss(self, batch: Step) -> tuple[Tensor, dict[str, float]]:
        """The squared distance between velocities."""
        target = self._target(batch)
        with self.autocast():
            inputs = batch.noisy, self.timesteps[batch.first]
            velocity = self.network(*inputs, **batch.with_caption, return_dict=False)[0]
        return (velocity.float() - target).square().mean(), {}

    def _level(self, index: Tensor) -> Tensor:
        return self.alphas[index][:, None, None, None]

    @torch.no_grad()
    def _target(self, batch: Step) -> Tensor:
        """The velocity with which one step ends where the teacher's several steps end."""
        end, first = batch.noisy, batch.first
        for i in range(self.stage.teacher_steps):
            velocity = self._guided(end, self.timesteps[first + i], batch)
            end = step_to(end, velocity, self._level(first + i), self._level(first + i + 1))
        last = first + self.stage.teacher_steps
        return velocity_between(batch.noisy, end, self._level(first), self._level(last))

    def _guided(self, noisy: Tensor, timesteps: Tensor, batch: Step) -> Tensor:
        """The teacher's guided velocity."""
        known = joined(batch.without, batch.with_caption)
        inputs = noisy.repeat(2, 1, 1, 1), timesteps.repeat(2)
        with self.autocast():
            both = self._teacher[0](*inputs, **known, return_dict=False)[0]
        without, with_caption = both.float().chunk(2)
        guided: Tensor = without + self.stage.guidance_scale * (with_caption - without)
        return guided


def joined(first: Any, second: Any) -> Any:
    """Arguments of two calls combined into one call."""
    if isinstance(first, dict):
        return {name: joined(first[name], second[name]) for name in first}
    return torch.cat([first, second])


def noise_levels(settings: Distillation) -> Tensor:
    """Shares of the picture along the teacher's steps, [steps + 1]; the last is the clean one."""
    timesteps = trailing_timesteps(settings.student_steps * settings.teacher_steps)
    return torch.cat([pndm().alphas_cumprod[timesteps], torch.ones(1)]).sqrt()


def trailing_timesteps(n: int) -> Tensor:
    """The timesteps of a sampler of `n` steps that starts at the noisiest one, [n]."""
    return (torch.arange(n, 0, -1) * 1000 / n).round().long() - 1


def step_to(noisy: Tensor, velocity: Tensor, alpha: Tensor, next_alpha: Tensor) -> Tensor:
    """A DDIM step (Song et al. 2021, equation 12 without noise) with the given velocity.

    `alpha` and `next_alpha` are the shares of the picture, square roots of the cumulative
    products; those of the noise follow from alpha^2 + sigma^2 = 1.
    """
    sigma, next_sigma = (1 - alpha**2).sqrt(), (1 - next_alpha**2).sqrt()
    clean = alpha * noisy - sigma * velocity
    noise = sigma * noisy + alpha * velocity
    return next_alpha * clean + next_sigma * noise


def velocity_between(noisy: Tensor, end: Tensor, alpha: Tensor, end_alpha: Tensor) -> Tensor:
    """The velocity with which `step_to` leads from `noisy` to `end` (Salimans & Ho, appendix G)."""
    sigma, end_sigma = (1 - alpha**2).sqrt(), (1 - end_alpha**2).sqrt()
    # `step_to` is linear in the velocity: end = a * noisy + b * velocity.
    return (end - (end_alpha * alpha + end_sigma * sigma) * noisy) / (
        end_sigma * alpha - end_alpha * sigma
    )
