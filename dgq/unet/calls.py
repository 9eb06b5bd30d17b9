"""The UNet call that each thread is running: its sampler step and the size of its latents.

The step belongs to the call, not to the UNet: two threads may share a UNet, each with its own
scheduler, and gradient checkpointing runs blocks again after the call has ended.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgq.unet.memory_of_calls import Memory
from dgq.unet.nan_marks import marks_of

FIRST_STEP = torch.zeros(1, dtype=torch.long, device="cpu")
OUTSIDE = (
    "a part of a quantized UNet computes outside of a call of that UNet, as a block does that was "
    "copied or taken out of it: the scales of the first step are used"
)
EXACT = 1e-3
"""Timesteps that differ by less than this are the same."""


class SamplerCall(NamedTuple):
    """What quantizers know of a UNet call.

    Args:
        step: index of the calibrated step of each sample, ``[1]`` or ``[batch]``, long.
        latent_size: height and width of the latents.
        memory: what the previous call of the same image left; None if nothing is remembered.
        spoilt: ``[batch]``, NaN for samples in which a quantizer met a NaN, else 0; None if this is
            not tracked.
    """

    step: Tensor
    latent_size: tuple[int, int]
    memory: Memory | None = None
    spoilt: Tensor | None = None


class _CallOfThread(threading.local):
    """The call running in this thread; a copied UNet has calls of its own."""

    def __init__(self) -> None:
        self.call: SamplerCall | None = None
        self.memory: Memory | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_CallOfThread":
        return _CallOfThread()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_CallOfThread, ())


class SamplerCalls:
    """Calls of a quantized UNet; each of its quantizers holds a reference.

    Args:
        timesteps: the scheduler's values that the scales are made for, one for each step.
        latent_size: height and width of the latents that pixel groups are made for.
        warns: warn, once, where the scales are not those of the timestep.
        remembers: keep layers' outputs for the next call of the same image.
    """

    def __init__(
        self,
        timesteps: Sequence[float],
        latent_size: tuple[int, int],
        warns: bool = True,
        remembers: bool = False,
    ) -> None:
        self.timesteps = tuple(float(t) for t in timesteps)
        self.latent_size = latent_size
        cpu = torch.device("cpu")  # whatever the device that a UNet is built on
        self._known = {cpu: torch.tensor(self.timesteps, dtype=torch.float32, device=cpu)}
        self._current = _CallOfThread()
        self._noticed: Tensor | None = None
        self._warned = self._warned_outside = not warns
        self.remembers = remembers

    @property
    def n_steps(self) -> int:
        """Number of calibrated steps."""
        return len(self.timesteps)

    @property
    def current(self) -> SamplerCall | None:
        """The call running in this thread; ``None`` outside of a call."""
        return self._current.call

    @current.setter
    def current(self, call: SamplerCall | None) -> None:
        self._current.call = call

    @property
    def step(self) -> Tensor:
        """Step of each sample of the current call; the first one, with a warning, outside of it."""
        call = self._current.call
        if call is not None:
            return call.step
        if self.n_steps > 1 and not self._warned_outside and not torch.compiler.is_compiling():
            self._warned_outside = True
            warnings.warn(OUTSIDE, stacklevel=3)
        return FIRST_STEP

    @property
    def current_size(self) -> tuple[int, int]:
        """Latent size of the current call; the calibrated one outside of a call."""
        call = self._current.call
        return self.latent_size if call is None else call.latent_size

    def begin(self, sample: Tensor, timestep: Tensor | float) -> SamplerCall | None:
        """Register the call that begins; returns the previous one, to be restored at the end.

        Args:
            sample: latents ``[batch, channels, height, width]``.
            timestep: the scheduler's value, a number, 0-d or ``[batch]``.
        """
        before = self._current.call
        timestep = timestep_tensor(timestep, sample.device)
        # A compiled graph remembers nothing: each of its calls is a first one.
        remembers = self.remembers and not torch.compiler.is_compiling()
        memory = self._memory_of(sample, timestep) if remembers else None
        spoilt = marks_of(sample)
        call = self.call_of(sample, timestep)
        self._current.call = call._replace(memory=memory, spoilt=spoilt)
        return before

    def call_of(self, sample: Tensor, timestep: Tensor | float) -> SamplerCall:
        """Step and size of a call with these arguments, in which nothing is remembered."""
        timestep = timestep_tensor(timestep, sample.device)
        size = (int(sample.shape[-2]), int(sample.shape[-1]))
        return SamplerCall(self.step_of(timestep), size)

    @contextmanager
    def noting(self, x: Tensor) -> Iterator[Tensor | None]:
        """A tensor in which to mark samples of ``x`` that have a NaN; None if this is not tracked.

        If rows of ``x`` do not correspond to samples one to one, a NaN in any of them marks all
        samples.
        """
        spoilt = None if self._current.call is None else self._current.call.spoilt
        if spoilt is None or x.shape[0] == spoilt.shape[0]:
            yield spoilt
            return
        of_parts = spoilt.new_zeros(x.shape[0])
        yield of_parts
        spoilt += of_parts.sum()

    def end(self) -> None:
        """Keep the current call's results for the next one, unless it was the last of its image.

        After a failed call nothing is kept, since only some of the layers have run.
        """
        memory = self.memory
        if memory is not None and bool((memory.timestep > min(self.timesteps)).any()):
            self._current.memory = memory

    @property
    def memory(self) -> Memory | None:
        """What earlier calls of the current image left, if anything."""
        return None if self._current.call is None else self._current.call.memory

    def _memory_of(self, sample: Tensor, timestep: Tensor) -> Memory:
        """The memory of the previous call in this thread, or a new one if an image begins."""
        memory, self._current.memory = self._current.memory, None
        timestep, shape = timestep.reshape(-1), tuple(sample.shape)
        if memory is None or not memory.continues(timestep, shape):
            return Memory(timestep, shape)
        memory.timestep = timestep
        return memory

    @contextmanager
    def during(self, call: SamplerCall | None) -> Iterator[None]:
        """Let this thread run a call, then restore the one that it ran before."""
        before, self._current.call = self._current.call, call
        try:
            yield
        finally:
            self._current.call = before

    def narrowed(self, rows: slice) -> AbstractContextManager[None]:
        """Restrict the current call to some rows of the batch; restores all of them."""
        call = self._current.call
        if call is not None and call.step.shape[0] > 1:
            call = call._replace(step=call.step[rows])
        return self.during(call)

    def step_of(self, timestep: Tensor) -> Tensor:
        """Index of the calibrated step of each timestep, the nearest if there is no exact one.

        Args:
            timestep: 0-d or ``[batch]``.

        Returns:
            ``[1]`` or ``[batch]``, long.
        """
        known = self.known_on(timestep.device)
        distance = (timestep.reshape(-1, 1).to(known.dtype) - known).abs()
        gap, step = distance.min(1)
        if not self._warned and not torch.compiler.is_compiling():
            self._warn_of(gap.detach())
        return step

    def known_on(self, device: torch.device) -> Tensor:
        """The calibrated timesteps on a device, copied there once."""
        known = self._known.get(device)
        if known is None:
            known = self._known[device] = torch.tensor(
                self.timesteps, dtype=torch.float32, device=device
            )
        return known

    def _warn_of(self, gap: Tensor) -> None:
        """Warn once of uncalibrated timesteps; ``gap [batch]`` is the distance to the nearest.

        If reading the gap would make an accelerator wait, it is copied asynchronously and read one
        call later.
        """
        if gap.device.type != "cpu":
            self._noticed, gap = gap.to("cpu", non_blocking=True), self._noticed
        if gap is not None and bool((gap > EXACT).any()):
            self._warned = True
            warnings.warn(
                "this sampler visits timesteps that were not calibrated; the scales of the nearest "
                "calibrated timestep are used",
                stacklevel=3,
            )


def timestep_tensor(timestep: Tensor | float, device: torch.device) -> Tensor:
    """A timestep on a device; numbers in float32, since torch's default may round them."""
    dtype = torch.float32 if isinstance(timestep, float) else None
    return torch.as_tensor(timestep, dtype=dtype, device=device)
