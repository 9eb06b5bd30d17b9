"""Vectors that depend on the sampler step, in one table that is read once per call."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dgq.unet.calls import SamplerCall, SamplerCalls

StepVector = Callable[[], Tensor]
"""Returns a vector at the step of the call, ``[1, n]``."""


class _Row:
    """The vectors of the current call; not a module's attribute, which an export may not change."""

    vectors: Sequence[Tensor] = ()


class StepRows(nn.Module):
    """A table ``[steps, n]`` with the vectors of all layers side by side.

    Every operator costs engines time: one gather and one split are faster than a gather for each of
    some hundred vectors.
    """

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[Tensor] = []
        self._sizes: list[int] = []
        self._current = _Row()
        self.register_buffer("table", torch.empty(0), persistent=False)

    def add(self, values: Tensor) -> StepVector:
        """Add ``[steps, n]`` to the table; ``[1, n]``, the same at all steps, stays outside."""
        values = values.float().contiguous()
        if values.shape[0] == 1:
            return lambda: values
        self._columns.append(values)
        self._sizes.append(values.shape[1])
        index = len(self._sizes) - 1
        return lambda: self._current.vectors[index]

    def close_(self) -> None:
        """Join everything that was added; nothing can be added afterwards."""
        if self._columns:
            self.table = torch.cat(self._columns, 1)
        self._columns.clear()

    def select_(self, step: Tensor) -> None:
        """Read the row of a step, ``[1]``, long."""
        if self._sizes:
            self._current.vectors = self.table.index_select(0, step).split(self._sizes, 1)


class TracedCalls(SamplerCalls):
    """Calls of a UNet under tracing: each reads the row of its step.

    Args:
        calls: calls of the UNet.
        rows: table with the vectors of all layers.
    """

    def __init__(self, calls: SamplerCalls, rows: StepRows) -> None:
        super().__init__(calls.timesteps, calls.latent_size)
        self.rows = rows

    def begin(self, sample: Tensor, timestep: Tensor | float) -> SamplerCall | None:
        """Register the call that begins; returns the previous one, to be restored at the end.

        The size of the latents is not read, since that would fix it; channels do not depend on it.
        """
        before, step = self.current, self.step_of(torch.as_tensor(timestep))
        self.current = SamplerCall(step, self.latent_size)
        self.rows.select_(step)
        return before

    def _warn_of(self, gap: Tensor) -> None:
        """Do nothing: a trace cannot warn."""
