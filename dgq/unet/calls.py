"""The UNet call that runs now, in each thread: its sampler step and the size of its latents.

The step belongs to the call, not to the UNet: two pipelines may share a UNet in two threads, each
with a scheduler of its own, and gradient checkpointing runs blocks again when the call is over.
"""

import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgq.unet.memory_of_calls import Memory

FIRST_STEP = torch.zeros(1, dtype=torch.long)
LARGEST_SIZE = 2**20
"""Pixels on a side of the latents; more is no size."""
EXACT = 1e-3
"""Timesteps that differ by less are the same."""


class SamplerCall(NamedTuple):
    """What quantizers know of a UNet call.

    Args:
        step: index of the calibrated step of each sample, ``[1]`` or ``[batch]``, long.
        latent_size: height and width of the latents.
        memory: of the calls before of the same image; None where nothing is remembered.
        spoilt: ``[batch]``, NaN for samples in which a quantizer has met a NaN, else 0; None where
            nobody looks.
    """

    step: Tensor
    latent_size: tuple[int, int]
    memory: Memory | None = None
    spoilt: Tensor | None = None


class _CallOfThread(threading.local):
    """The call that runs in this thread; a copied UNet has calls of its own."""

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
        warns: once, of a timestep that scales are not made for.
        remembers: what layers computed is kept for the next call of the same image.
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
        self._known = {cpu: torch.tensor(self.timesteps, device=cpu)}
        self._current = _CallOfThread()
        self._noticed: Tensor | None = None
        self._warned = not warns
        self.remembers = remembers

    @property
    def n_steps(self) -> int:
        """Number of calibrated steps."""
        return len(self.timesteps)

    @property
    def current(self) -> SamplerCall | None:
        """The call that runs in this thread; ``None`` outside of one."""
        return self._current.call

    @current.setter
    def current(self, call: SamplerCall | None) -> None:
        self._current.call = call

    @property
    def step(self) -> Tensor:
        """Step of each sample of the current call; the first one outside of a call."""
        call = self._current.call
        return FIRST_STEP if call is None else call.step

    @property
    def current_size(self) -> tuple[int, int]:
        """Latent size of the current call; the calibrated one outside of a call."""
        call = self._current.call
        return self.latent_size if call is None else call.latent_size

    def begin(self, sample: Tensor, timestep: Tensor | float) -> SamplerCall | None:
        """Note the call that begins; returns the one to put back at its end.

        Args:
            sample: latents ``[batch, channels, height, width]``.
            timestep: the scheduler's value, a number, 0-d or ``[batch]``.
        """
        before = self._current.call
        timestep = torch.as_tensor(timestep, device=sample.device)
        size = (int(sample.shape[-2]), int(sample.shape[-1]))
        # A graph remembers nothing: every call of it is a first one.
        remembers = self.remembers and not torch.compiler.is_compiling()
        memory = self._memory_of(sample, timestep) if remembers else None
        spoilt = torch.zeros(sample.shape[0]) if notes_nans(sample) else None
        self._current.call = SamplerCall(self.step_of(timestep), size, memory, spoilt)
        return before

    @contextmanager
    def noting(self, x: Tensor) -> Iterator[Tensor | None]:
        """Where to note which samples of ``x`` have a NaN; None where nobody looks.

        Of a part of the samples, or several parts of each, a NaN spoils all: which is not known.
        """
        spoilt = None if self._current.call is None else self._current.call.spoilt
        if spoilt is None or x.shape[0] == spoilt.shape[0]:
            yield spoilt
            return
        of_parts = spoilt.new_zeros(x.shape[0])
        yield of_parts
        spoilt += of_parts.sum()

    def end(self) -> None:
        """Keep what the current call computed for the next one, unless it was the last.

        After a call that failed nothing is kept: some layers were there, and others were not.
        """
        memory = self.memory
        if memory is not None and bool((memory.timestep > min(self.timesteps)).any()):
            self._current.memory = memory

    @property
    def memory(self) -> Memory | None:
        """What was remembered of the calls before the current one, if anything is."""
        return None if self._current.call is None else self._current.call.memory

    def _memory_of(self, sample: Tensor, timestep: Tensor) -> Memory:
        """That of the call before in this thread, or a new one where an image begins."""
        memory, self._current.memory = self._current.memory, None
        timestep, shape = timestep.reshape(-1), tuple(sample.shape)
        if memory is None or not memory.goes_on(timestep, shape):
            return Memory(timestep, shape)
        memory.timestep = timestep
        return memory

    @contextmanager
    def narrowed(self, rows: slice) -> Iterator[None]:
        """Restrict the current call to some rows of the batch; restores all of them."""
        before = self._current.call
        if before is not None and before.step.shape[0] > 1:
            self._current.call = before._replace(step=before.step[rows])
        try:
            yield
        finally:
            self._current.call = before

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
            known = self._known[device] = torch.tensor(self.timesteps, device=device)
        return known

    def _warn_of(self, gap: Tensor) -> None:
        """Warn once of timesteps that were not calibrated; ``gap [batch]`` to the nearest.

        Where reading the gap would make an accelerator wait, it is copied behind the call's work
        and read one call later.
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

    def pixel_index(self, n_pixels: int, calibrated: int) -> Tensor | None:
        """Where each pixel of this call lies among the calibrated ones; ``None`` if they agree.

        Nearest-neighbour resizing of the ``calibrated``-pixel map to the current latent size, so
        that pixel groups survive another resolution, and another aspect of the same area. Tokens
        of several images, as self-attention to a reference image reads, are indexed one by one.
        """
        if self.current_size == self.latent_size:
            return None if n_pixels == calibrated else torch.arange(n_pixels) % calibrated
        growth = math.prod(self.current_size) / math.prod(self.latent_size)
        images = max(1, round(n_pixels / (calibrated * growth)))
        if n_pixels % images == 0:
            return self._resized(n_pixels // images, calibrated).repeat(images)
        return self._resized(n_pixels, calibrated)

    def _resized(self, n_pixels: int, calibrated: int) -> Tensor:
        """``pixel_index`` of one image."""
        height, width = grid_size(n_pixels, self.current_size)
        old_height, old_width = grid_size(calibrated, self.latent_size)
        rows = (torch.arange(height) * old_height) // height
        columns = (torch.arange(width) * old_width) // width
        return (rows[:, None] * old_width + columns).flatten()


def problem_of_steps(timesteps: Any, latent_size: Any) -> str | None:
    """What is impossible about timesteps or a size of latents, if anything."""
    try:
        times, sizes = [float(t) for t in timesteps], [*latent_size]
    except (TypeError, ValueError):
        return f"expected numbers and a height and a width, got {timesteps!r:.60}, {latent_size!r}"
    if not times or not all(map(math.isfinite, times)):
        return "timesteps are not a list of finite numbers"
    if len(set(times)) < len(times):
        return "a timestep is there twice"
    if len(sizes) != 2 or not all(type(n) is int and 0 < n <= LARGEST_SIZE for n in sizes):
        return f"latent_size is {sizes!r:.60}, expected a height and a width"
    return None


def notes_nans(sample: Tensor) -> bool:
    """Whether kernels note a NaN on the way: on a CPU, where nothing is traced.

    A graph would have to do so by an operator that writes to an argument, which compilers do not
    fuse and not all accept; kernels of GPUs would need another pass.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    traced = torch.compiler.is_compiling() or tracing or type(sample) is not Tensor
    return sample.device.type == "cpu" and not traced


def word_index(n_words: int, calibrated: int) -> Tensor:
    """Where each word of a text lies among the calibrated ones; surplus ones are as the last."""
    return torch.arange(n_words).clamp(max=calibrated - 1)


def grid_size(n_pixels: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map of ``n_pixels`` with the aspect of the latents."""
    height = max(1, round(latent_size[0] * math.sqrt(n_pixels / (latent_size[0] * latent_size[1]))))
    if n_pixels % height:
        return 1, n_pixels
    return height, n_pixels // height
