"""The UNet calls of a full-precision image, recorded while it is drawn, for others to replay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.calibration.recording import recording
from dgq.calibration.unet_calls import flatten, unflatten
from dgq.errors import DGQError
from dgq.storage.tensor_files import read_sealed_tensors, write_sealed_tensors

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
        conditioning: other arguments of the UNet, by dotted name, [halves, prompts, ...], the same
            in each call.
    """

    samples: Tensor
    timesteps: Tensor
    outputs: Tensor
    conditioning: dict[str, Tensor]

    def of_prompt(self, position: int) -> "Trajectory":
        """The trajectory of a single prompt."""
        part = slice(position, position + 1)
        return Trajectory(
            self.samples[:, :, part],
            self.timesteps,
            self.outputs[:, :, part],
            {name: value[:, part] for name, value in self.conditioning.items()},
        )

    def calls(self, device: str | torch.device) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Keyword arguments and output [halves * prompts, ...] of each call, on a device."""
        rows = {name: value.flatten(0, 1).to(device) for name, value in self.conditioning.items()}
        arguments = {"return_dict": False, **unflatten(rows)}
        for sample, timestep, output in zip(
            self.samples, self.timesteps, self.outputs, strict=True
        ):
            call = {"sample": sample.flatten(0, 1).to(device), "timestep": timestep.to(device)}
            yield arguments | call, output.flatten(0, 1).to(device)

    def save(self, path: Path, which: str = "") -> None:
        """Write to a safetensors file with a checksum, atomically.

        Args:
            path: path of the file.
            which: the image it belongs to.
        """
        conditioning = {CONDITIONING + name: value for name, value in self.conditioning.items()}
        steps = {"samples": self.samples, "timesteps": self.timesteps, "outputs": self.outputs}
        write_sealed_tensors(path, steps | conditioning, {WHICH: which})


def load_trajectories(paths: Sequence[Path]) -> Trajectory:
    """Combine the trajectories of some prompts with the same settings.

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
    """Whether a file holds the whole trajectory of an image."""
    try:
        _, metadata = read_sealed_tensors(path)
    except DGQError:
        return False
    return metadata.get(WHICH) == which


@contextmanager
def recording_trajectory(unet: nn.Module, n_prompts: int) -> Iterator[Callable[[], Trajectory]]:
    """Record the calls and outputs of a UNet in this block.

    Args:
        unet: UNet of a pipeline that draws in the block.
        n_prompts: prompts drawn at once.

    Yields:
        A function that returns the trajectory of all of them, on the CPU, once they are drawn.
    """
    outputs: list[Tensor] = []

    def keep(_unet: nn.Module, _args: Any, output: Any) -> None:
        outputs.append(output[0].cpu())

    with recording(unet) as calls:
        hook = unet.register_forward_hook(keep)
        try:
            yield lambda: _arranged(calls, outputs, n_prompts)
        finally:
            hook.remove()


def _arranged(
    calls: Sequence[Mapping[str, Any]], outputs: Sequence[Tensor], n_prompts: int
) -> Trajectory:
    """Calls of one batch of prompts as a trajectory; rows are [halves * prompts, ...]."""

    def by_prompt(rows: Tensor) -> Tensor:
        return rows.reshape(-1, n_prompts, *rows.shape[1:])

    rest = {name: value for name, value in calls[0].items() if name not in ("sample", "timestep")}
    return Trajectory(
        torch.stack([by_prompt(call["sample"]) for call in calls]),
        torch.stack([torch.as_tensor(call["timestep"]) for call in calls]),
        torch.stack([by_prompt(output) for output in outputs]),
        {name: by_prompt(rows) for name, rows in flatten(rest).items()},
    )


def _load(path: Path) -> Trajectory:
    tensors, _ = read_sealed_tensors(path)
    try:
        samples, timesteps = tensors.pop("samples"), tensors.pop("timesteps")
        outputs = tensors.pop("outputs")
    except KeyError as error:
        raise DGQError(f"{path} is not a trajectory of a UNet: {error} is missing") from error
    conditioning = {name.removeprefix(CONDITIONING): value for name, value in tensors.items()}
    return Trajectory(samples, timesteps, outputs, conditioning)
