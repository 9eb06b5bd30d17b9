"""The UNet calls that a pipeline made, as tensors in one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.tensor_files import CHECKSUM, read_sealed_tensors, write_sealed_tensors

CONDITIONING = "conditioning."
CHANGING = "changing."


@dataclass(frozen=True)
class UNetCalls:
    """Inputs of every UNet call for every prompt.

    With guidance, a call has two halves, unconditional and conditional, which mostly share their
    latents.

    Args:
        latents: ``[calls, prompts, channels, height, width]``.
        timesteps: ``[calls]``; a sampler may visit one twice.
        conditioning: the UNet's other arguments that are the same in all calls, by (dotted) name,
            ``[prompts, halves, ...]``.
        sha256: hash of all of it, if it was read from a file.
        changing: other arguments that change from call to call, ``[calls, prompts, halves, ...]``;
            ``sample`` if halves have latents of their own.
    """

    latents: Tensor
    timesteps: Tensor
    conditioning: dict[str, Tensor]
    sha256: str = ""
    changing: dict[str, Tensor] = field(default_factory=dict)

    @property
    def distinct_timesteps(self) -> tuple[float, ...]:
        """The timesteps in the order in which the sampler visits them, each once."""
        return tuple(dict.fromkeys(self.timesteps.tolist()))

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return int(self.latents.shape[-2]), int(self.latents.shape[-1])

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.latents.shape[1])

    @property
    def n_halves(self) -> int:
        """2 with classifier-free guidance, else 1."""
        shapes = [value.shape[1] for value in self.conditioning.values()]
        shapes += [value.shape[2] for value in self.changing.values()]
        return int(shapes[0]) if shapes else 1

    def save(self, path: Path) -> None:
        """Write to a safetensors file with a checksum, atomically."""
        tensors = {CONDITIONING + name: value for name, value in self.conditioning.items()}
        tensors |= {CHANGING + name: value for name, value in self.changing.items()}
        steps = {"latents": self.latents, "timesteps": self.timesteps}
        write_sealed_tensors(path, steps | tensors)

    @classmethod
    def load(cls, path: Path) -> "UNetCalls":
        """Read what ``save`` wrote; raises DGQError for a damaged file."""
        tensors, metadata = read_sealed_tensors(path)
        try:
            latents, timesteps = tensors.pop("latents"), tensors.pop("timesteps")
        except KeyError as error:
            raise DGQError(f"{path} does not hold recorded UNet calls: remove it") from error
        return cls(
            latents,
            timesteps,
            _with_prefix(tensors, CONDITIONING),
            metadata[CHECKSUM],
            _with_prefix(tensors, CHANGING),
        )

    def sample_pairs(self, n_pairs: int | None, seed: int, n_prompts: int | None = None) -> Tensor:
        """Draw pairs of call and prompt, evenly over the calls, in random order.

        Args:
            n_pairs: how many, rounded down to a multiple of the calls; all by default.
            seed: of the draw.
            n_prompts: draw from the first so many prompts; from all by default.

        Returns:
            ``[pairs, 2]``, indices of call and prompt.

        Raises:
            DGQError: if there are fewer pairs than calls or more than were recorded.
        """
        n_calls, n_recorded = self.latents.shape[:2]
        n_prompts = n_recorded if n_prompts is None else n_prompts
        per_call = n_prompts if n_pairs is None else n_pairs // n_calls
        if not 1 <= per_call <= n_prompts:
            raise DGQError(
                f"n_samples must be {n_calls} (one for each UNet call) to {n_calls * n_prompts} "
                f"(all that was recorded), got {n_pairs}"
            )
        generator = torch.Generator().manual_seed(seed)
        pairs = [
            torch.stack([torch.full((per_call,), call), prompts[:per_call]], dim=1)
            for call in range(n_calls)
            for prompts in [torch.randperm(n_prompts, generator=generator)]
        ]
        return torch.cat(pairs)[torch.randperm(per_call * n_calls, generator=generator)]

    def held_out_pairs(self, n_pairs: int, n_prompts: int) -> Tensor:
        """Pairs of the last prompts, spread over all calls.

        Args:
            n_pairs: how many; no more than there are calls of these prompts.
            n_prompts: how many of the last prompts are held out.

        Returns:
            ``[pairs, 2]``, indices of call and prompt.
        """
        n_calls, n_recorded = self.latents.shape[:2]
        index = torch.arange(min(n_pairs, n_calls * n_prompts))
        call = index * n_calls // index.numel()
        return torch.stack([call, n_recorded - n_prompts + index % n_prompts], dim=1)

    def batch(self, pairs: Tensor) -> dict[str, Any]:
        """Keyword arguments of one UNet call for these pairs, each with all its halves.

        Args:
            pairs: ``[n, 2]``, indices of call and prompt.

        Returns:
            Arguments with batch ``n * halves``, the halves of a pair side by side.
        """
        call, prompt = pairs[:, 0], pairs[:, 1]
        arguments = {name: value[prompt].flatten(0, 1) for name, value in self.conditioning.items()}
        arguments |= {n: value[call, prompt].flatten(0, 1) for n, value in self.changing.items()}
        return {
            "sample": self.latents[call, prompt].repeat_interleave(self.n_halves, 0),
            "timestep": self.timesteps[call].repeat_interleave(self.n_halves, 0),
            "return_dict": False,
            **unflatten(arguments),
        }


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors in nested keyword arguments, by dotted name."""
    tensors: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            tensors |= flatten(value, f"{prefix}{name}.")
    return tensors


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Inverse of ``flatten``."""
    nested: dict[str, Any] = {}
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested
