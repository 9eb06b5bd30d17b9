"""The UNet calls of one full-precision image, recorded while it is drawn, replayed by others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.storage.files import read_sealed_tensors, write_sealed_tensors

CONDITIONING = "conditioning."
WHICH = "image"


@dataclass(frozen=True)
class Trajectory:
    """Inputs and outputs of every UNet call for some prompts.

    Args:
        samples: [calls, halves, prompts, channels, height, width]; with classifier-free guidance
            there are two halves, the unconditional one first.
        timesteps: [calls].
        outputs: like ``samples``.
        conditioning: what else the UNet is given, by dotted name, [halves, prompts, ...]; the same
            in each call.
    """

    samples: Tensor
    timesteps: Tensor
    outputs: Tensor
    conditioning: dict[str, Tensor]

    def of_prompt(self, position: int) -> "Trajectory":
        """That of a single prompt."""
        part = slice(position, position + 1)
        return Trajectory(
            self.samples[:, :, part],
            self.timesteps,
            self.outputs[:, :, part],
            {name: value[:, part] for name, value in self.conditioning.items()},
        )

    def calls(self, device: str | torch.device) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Keyword arguments and output [halves * prompts, ...] of each call, on a device."""
        arguments: dict[str, Any] = {"return_dict": False}
        for name, value in self.conditioning.items():
            *parents, leaf = name.split(".")
            place = arguments
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value.flatten(0, 1).to(device)
        for sample, timestep, output in zip(
            self.samples, self.timesteps, self.outputs, strict=True
        ):
            call = {"sample": sample.flatten(0, 1).to(device), "timestep": timestep.to(device)}
            yield arguments | call, output.flatten(0, 1).to(device)

    def save(self, path: Path, which: str = "") -> None:
        """Write to a safetensors file with a checksum, atomically.

        Args:
            path: of the file.
            which: image it belongs to.
        """
        conditioning = {CONDITIONING + name: value for name, value in self.conditioning.items()}
        steps = {"samples": self.samples, "timesteps": self.timesteps, "outputs": self.outputs}
        write_sealed_tensors(path, steps | conditioning, {WHICH: which})


def load_trajectories(paths: Sequence[Path]) -> Trajectory:
    """The trajectories of some prompts with the same settings, side by side.

    Raises:
        DGQError: if a file is missing or damaged.
    """
    parts = [_load(path) for path in paths]
    return Trajectory(
        torch.cat([part.samples for part in parts], 2),
        parts[0].timesteps,
        torch.cat([part.outputs for part in parts], 2),
        {
            name: torch.cat([part.conditioning[name] for part in parts], 1)
            for name in parts[0].conditioning
        },
    )


def is_recorded(path: Path, which: str) -> bool:
    """Whether there is the whole trajectory of an image in a file."""
    try:
        _, metadata = read_sealed_tensors(path)
    except DGQError:
        return False
    return metadata.get(WHICH) == which


class Recorder:
    """Collects the calls that a UNet gets while a batch of prompts is drawn."""

    def __init__(self, n_prompts: int) -> None:
        self.n_prompts = n_prompts
        self._calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self._conditioning: dict[str, Tensor] = {}

    def trajectory(self) -> Trajectory:
        """What was collected, on the CPU."""
        samples, timesteps, outputs = zip(*self._calls, strict=True)
        return Trajectory(
            torch.stack([self._by_prompt(sample) for sample in samples]),
            torch.stack(timesteps),
            torch.stack([self._by_prompt(output) for output in outputs]),
            {name: self._by_prompt(value) for name, value in self._conditioning.items()},
        )

    @contextmanager
    def recording(self, unet: nn.Module) -> Iterator[None]:
        """Keep every call of the UNet meanwhile."""
        handle = unet.register_forward_hook(self._keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _keep(
        self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        rest = dict(kwargs)
        sample = args[0] if args else rest.pop("sample")
        timestep = args[1] if len(args) > 1 else rest.pop("timestep")
        self._calls.append((sample.cpu(), torch.as_tensor(timestep).cpu(), output[0].cpu()))
        if not self._conditioning:
            self._conditioning = {name: value.cpu() for name, value in _tensors(rest)}

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """[halves * prompts, ...] -> [halves, prompts, ...]."""
        return rows.unflatten(0, (-1, self.n_prompts))


def _tensors(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors among nested arguments, by dotted name."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _load(path: Path) -> Trajectory:
    tensors, _ = read_sealed_tensors(path)
    try:
        samples, timesteps = tensors.pop("samples"), tensors.pop("timesteps")
        outputs = tensors.pop("outputs")
    except KeyError as error:
        raise DGQError(f"{path} is no trajectory of a UNet: {error} is missing") from error
    conditioning = {name.removeprefix(CONDITIONING): value for name, value in tensors.items()}
    return Trajectory(samples, timesteps, outputs, conditioning)
