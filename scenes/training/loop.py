"""The one training loop: AdamW, warmup and cosine, running average, checkpoints, a log.

A stage supplies a module and its loss. In several processes gradients are averaged; the share of
the time budget that is spent travels with them, so that all processes stop together.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scenes.training.settings import Fit

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""Loss and numbers to log, from the step and a generator seeded for it."""

CHECKPOINT = "last.pt"
_SECONDS_BETWEEN_CHECKPOINTS = 90.0
_SECONDS_BETWEEN_LOG_LINES = 15.0


def fit(module: nn.Module, loss: Loss, settings: Fit, folder: Path, resume: bool) -> None:
    """Train a module in place and leave its averaged (else its last) weights in it.

    Writes `log.jsonl` and the checkpoint `last.pt` into `folder`; with `resume` a checkpoint
    found there is continued, and one that is complete is only loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(module, settings)
    if resume and (folder / CHECKPOINT).exists():
        trainer.load(folder / CHECKPOINT)
    trainer.run(loss, folder)
    trainer.use_average_()


class _Trainer:
    """State of one training: module, optimizer, running average, step and time spent."""

    def __init__(self, module: nn.Module, settings: Fit) -> None:
        self.module, self.settings = module, settings
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.parameters, settings.weight_decay), betas=(0.9, 0.99), fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else []
        self.step, self.seconds = 0, 0.0
        self.is_main = not dist.is_initialized() or dist.get_rank() == 0

    def run(self, loss: Loss, folder: Path) -> None:
        """Step until the budget is spent."""
        self.module.train()
        lap, saved, logged = time.monotonic(), self.seconds, self.seconds
        while (progress := self._progress()) < 1:
            learning_rate = self._set_learning_rate(progress)
            value, numbers = loss(self.step, self._generator())
            value.backward()
            now = time.monotonic()
            self.seconds += self._average_over_processes(now - lap)
            lap = now
            norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self._update_average()
            if self.is_main and self.seconds - logged > _SECONDS_BETWEEN_LOG_LINES:
                logged = self.seconds
                extra = {"lr": learning_rate, "grad_norm": float(norm)}
                self._log(folder, {"loss": value.item()} | numbers | extra)
            if self.is_main and self.seconds - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                saved = self.seconds
                self.save(folder / CHECKPOINT)
        if self.is_main:
            self.save(folder / CHECKPOINT)

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
        for parameter, average in zip(self.parameters, self.average, strict=False):
            parameter.data.copy_(average)

    def _progress(self) -> float:
        """The share of the budget that is spent, of time or of steps, whichever is more."""
        spent = self.seconds / (60 * self.settings.minutes)
        return max(spent, self.step / self.settings.max_steps)

    def _set_learning_rate(self, progress: float) -> float:
        warmup = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        learning_rate = self.settings.learning_rate * warmup * decay
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def _generator(self) -> torch.Generator:
        """A generator that depends on seed, step and process only, so that runs can resume."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        seed = (self.settings.seed * 64 + rank) * 10_000_019 + self.step
        return torch.Generator().manual_seed(seed)

    def _average_over_processes(self, seconds: float) -> float:
        """Average the gradients, and with them a duration: so all processes stop together."""
        if not dist.is_initialized():
            return seconds
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), gradients[0].new_tensor([seconds])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        *averages, duration = flat.split([*(g.numel() for g in gradients), 1])
        for gradient, average in zip(gradients, averages, strict=True):
            gradient.copy_(average.view_as(gradient))
        return float(duration)

    def _update_average(self) -> None:
        if self.average:
            decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.data for p in self.parameters], 1 - decay)

    def _log(self, folder: Path, numbers: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        rounded = {key: float(f"{number:.5g}") for key, number in numbers.items()}
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | rounded) + "\n")


@contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bfloat16 for matrix products: twice as fast where the processor has the instructions."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


def read_average(path: Path, module: nn.Module) -> int:
    """Load a checkpoint's averaged weights into a module; returns the step they are from."""
    trainer = _Trainer(module, Fit(minutes=1, batch_size=1, learning_rate=0, ema_decay=0.5))
    trainer.load(path)
    trainer.use_average_()
    return trainer.step


def _parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases do not decay."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
