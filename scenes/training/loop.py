"""The one training loop: AdamW, warmup and cosine, running average, checkpoints, a log.

A stage supplies a module and its loss. Everything is scheduled by steps, so that a run gives the
same weights however fast the machine is; several processes share each batch and average their
gradients.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import filterfalse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from scenes.training.settings import Fit

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""Loss and numbers to log, from the step and a generator seeded for it."""

CHECKPOINT = "last.pt"
LOG = "log.jsonl"
DONE = "done"
"""Marks a folder whose work is complete."""
_SECONDS_BETWEEN_CHECKPOINTS = 90.0
_LOG_LINES = 200


def fit(module: nn.Module, loss: Loss, settings: Fit, folder: Path, resume: bool) -> None:
    """Train a module in place and leave its averaged (else its last) weights in it.

    Writes `log.jsonl` and the checkpoint `last.pt` into `folder`; with `resume` a checkpoint
    found there is continued, and one that is complete is only loaded.

    Raises:
        FileExistsError: there is a checkpoint, and `resume` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_existing(folder, resume)
    trainer = _Trainer(module, settings)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
        if trainer.is_main:
            _forget_after(trainer.step, folder / LOG)
    trainer.run(loss, folder)
    trainer.use_average_()
    if trainer.is_main:
        (folder / DONE).touch()


def refuse_existing(folder: Path, resume: bool) -> None:
    """Raise FileExistsError if `folder` holds a training that is not to be resumed."""
    if (folder / CHECKPOINT).exists() and not resume:
        raise FileExistsError(
            f"{folder} holds a training already; continue it with --resume, or remove it"
        )


class _Trainer:
    """State of one training: module, optimizer, running average, step and time spent."""

    def __init__(self, module: nn.Module, settings: Fit) -> None:
        self.module, self.settings = module, settings
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.parameters, settings), betas=(0.9, settings.beta2), fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else []
        self.step, self.seconds = 0, 0.0
        self.is_main = not dist.is_initialized() or dist.get_rank() == 0

    def run(self, loss: Loss, folder: Path) -> None:
        """Take the steps that are left."""
        self.module.train()
        lap, saved = time.monotonic(), self.seconds
        with progress_bar(folder.name, self.settings.steps, self.step, self.is_main) as show:
            while self.step < self.settings.steps:
                numbers = self._take_step(loss)
                self.seconds, lap = self.seconds + time.monotonic() - lap, time.monotonic()
                show(self.step, numbers["loss"])
                if not self.is_main:
                    continue
                is_last = self.step == self.settings.steps
                if is_last or self.step % max(self.settings.steps // _LOG_LINES, 1) == 0:
                    self._log(folder, numbers)
                if self.step in self.settings.snapshots:
                    self._save_snapshot(folder)
                if self.seconds - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    saved = self.seconds
                    self.save(folder / CHECKPOINT)
        if self.is_main:
            self.save(folder / CHECKPOINT)

    def _take_step(self, loss: Loss) -> dict[str, float]:
        """One step of the optimizer; returns the numbers to log."""
        learning_rate = self._set_learning_rate()
        value, numbers = loss(self.step, self._generator())
        value.backward()
        self._average_over_processes()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._update_average()
        return {"loss": value.item(), **numbers, "lr": learning_rate, "grad_norm": float(norm)}

    def save(self, path: Path) -> None:
        """Write a checkpoint beside `path`, then move it there."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        device = self.parameters[0].device
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]

    def use_average_(self) -> None:
        """Put the running average into the module."""
        _put_(self.average, self.parameters)

    def _set_learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        learning_rate = self.settings.learning_rate * warmup * decay
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def _generator(self) -> torch.Generator:
        """A generator that depends on seed and step only, so that runs can resume."""
        return torch.Generator().manual_seed(self.settings.seed * 10_000_019 + self.step)

    def _average_over_processes(self) -> None:
        if not dist.is_initialized():
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _save_snapshot(self, folder: Path) -> None:
        """Keep the weights of this step, averaged where an average is kept."""
        state = dict(zip(self.names, self.average or self.parameters, strict=True))
        tensors = {name: tensor.detach().half().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / snapshot_name(self.step))

    def _update_average(self) -> None:
        if self.average:
            decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.data for p in self.parameters], 1 - decay)

    def _log(self, folder: Path, numbers: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        rounded = {key: float(f"{number:.5g}") for key, number in numbers.items()}
        with (folder / LOG).open("a") as file:
            file.write(json.dumps(line | rounded) + "\n")


@contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bfloat16 for matrix products: twice as fast where the processor has the instructions."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


def _forget_after(step: int, log: Path) -> None:
    """Drop the lines of steps that are about to be taken again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    new = log.with_suffix(".new")
    new.write_text("".join(kept))
    os.replace(new, log)


def snapshot_name(step: int) -> str:
    """The file that keeps the weights of a step."""
    return f"step-{step:06d}.safetensors"


@contextmanager
def progress_bar(
    name: str, steps: int, done: int, is_shown: bool
) -> Iterator[Callable[[int, float], None]]:
    """A bar that is told the step and the loss."""
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, "loss {task.fields[loss]:.4f}", TimeRemainingColumn(), disable=not is_shown
    ) as bar:
        task = bar.add_task(name, total=steps, completed=done, loss=math.nan)
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)


def read_average(path: Path, module: nn.Module) -> None:
    """Load a checkpoint's averaged weights, or its last if it has none, into a module."""
    trained = [p for p in module.parameters() if p.requires_grad]
    state: dict[str, Any] = torch.load(path, map_location=trained[0].device, weights_only=True)
    module.load_state_dict(state["module"])
    _put_(state["average"], trained)


def _put_(average: list[Tensor], parameters: list[nn.Parameter]) -> None:
    """Put a running average, if one was kept, into the parameters."""
    if average:
        for parameter, value in zip(parameters, average, strict=True):
            parameter.data.copy_(value)


def parameter_groups(parameters: list[nn.Parameter], settings: Fit) -> list[dict[str, Any]]:
    """What decays, and what does not: norms and biases, unless the settings say so."""

    def decays(parameter: nn.Parameter) -> bool:
        return settings.decays_norms or parameter.ndim > 1

    decayed, kept = filter(decays, parameters), filterfalse(decays, parameters)
    return [
        {"params": list(decayed), "weight_decay": settings.weight_decay},
        {"params": list(kept), "weight_decay": 0.0},
    ]
