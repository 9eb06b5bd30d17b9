"""A student of few steps: each of its steps lands where several guided ones of the teacher do.

Progressive distillation (Salimans & Ho 2022, sections 3 and 4) in one stage, with the teacher's
guidance built in (Meng et al. 2023, section 3.1, for a single scale).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scenes.training import conditions, latents
from scenes.training.conditions import Conditions
from scenes.training.diffusion import build
from scenes.training.loop import CHECKPOINT, autocast, fit, read_average
from scenes.training.pipelines import pndm
from scenes.training.processes import rows_of_process
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
) -> None:
    """Train the student in `folder`, starting as a copy of the teacher in `teacher_folder`."""
    data, known = latents.load(pictures), conditions.load(texts)
    student, teacher = (
        build(unet, data.shape[-1], known.states.shape[-1]).to(device) for _ in range(2)
    )
    for network in (student, teacher):
        read_average(teacher_folder / CHECKPOINT, network)
        if device == "cpu":
            network.set_attn_processor(AttnProcessor())
    teacher.requires_grad_(False).eval()
    objective = Objective(student, teacher, data, known, settings)
    fit(student, objective, settings.fit, folder, resume)


class Objective:
    """The loss of a batch: the student's velocities against those that lead to the teacher."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        data: Tensor,
        known: Conditions,
        settings: Distillation,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.data, self.known, self.settings = data, known, settings
        n = settings.student_steps * settings.teacher_steps
        self.timesteps = trailing_timesteps(n)
        # The noise levels on the way; the last step ends at the clean picture.
        self.alphas = torch.cat([pndm().alphas_cumprod[self.timesteps], torch.ones(1)]).sqrt()

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        size = (self.settings.fit.batch_size,)
        caption = torch.randint(len(self.data), size, generator=generator)
        picture = torch.randint(self.data.shape[1], size, generator=generator)
        noise = torch.randn((*size, *self.data.shape[2:]), generator=generator)
        # Every step of the student's equally often.
        order = torch.randperm(size[0], generator=generator)
        first = order % self.settings.student_steps * self.settings.teacher_steps
        mine = rows_of_process(size[0])
        caption, picture, noise, first = caption[mine], picture[mine], noise[mine], first[mine]
        alpha = self._level(first)
        noisy = alpha * self.data[caption, picture].float() + (1 - alpha**2).sqrt() * noise
        # Sampling starts at pure noise, which the schedule never quite reaches.
        noisy = torch.where(first[:, None, None, None] == 0, noise, noisy)
        target = self._target(noisy, first, caption)
        device = self.student.device
        known = self.known.of(caption + 1, device)
        with autocast(device):
            velocity = self.student(
                noisy.to(device), self.timesteps[first].to(device), **known, return_dict=False
            )[0]
        loss = (velocity.float() - target.to(device)).square().mean()
        return loss, {}

    def _level(self, index: Tensor) -> Tensor:
        return self.alphas[index][:, None, None, None]

    @torch.no_grad()
    def _target(self, noisy: Tensor, first: Tensor, caption: Tensor) -> Tensor:
        """The velocity with which one step ends where the teacher's several steps end."""
        end = noisy
        for i in range(self.settings.teacher_steps):
            velocity = self._guided(end, self.timesteps[first + i], caption)
            end = step_to(end, velocity, self._level(first + i), self._level(first + i + 1))
        last = first + self.settings.teacher_steps
        return velocity_between(noisy, end, self._level(first), self._level(last))

    def _guided(self, noisy: Tensor, timesteps: Tensor, caption: Tensor) -> Tensor:
        """The teacher's velocity with guidance."""
        device = self.teacher.device
        known = self.known.of(torch.cat([torch.zeros_like(caption), caption + 1]), device)
        with autocast(device):
            both = self.teacher(
                noisy.repeat(2, 1, 1, 1).to(device),
                timesteps.repeat(2).to(device),
                **known,
                return_dict=False,
            )[0]
        without, with_caption = both.float().cpu().chunk(2)
        return without + self.settings.guidance_scale * (with_caption - without)


def trailing_timesteps(n: int) -> Tensor:
    """The timesteps of a sampler of `n` steps that starts at the noisiest one, [n]."""
    return (torch.arange(n, 0, -1) * 1000 / n).round().long() - 1


def step_to(noisy: Tensor, velocity: Tensor, alpha: Tensor, next_alpha: Tensor) -> Tensor:
    """A step of DDIM (Song et al. 2021, equation 12 without noise) from a velocity.

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
