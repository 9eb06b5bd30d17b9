"""The interface between a calibration and its Trainer's DataModule."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from dgq.calibration.unet_calls import UNetCalls
from dgq.storage.manifest import GenerationSettings
from dgq.unet.call_rows import Call


class Samples(Protocol):
    """A DataModule whose batches are indices of rows, ``[rows]``, of its micro-batches.

    ``calls``, ``micro_batches``, ``held_out`` and ``measured`` are available after ``setup``.
    """

    n_held_out_prompts: ClassVar[int]
    """Number of prompts that it draws to measure errors on."""

    @property
    def pipeline(self) -> str:
        """The full-precision pipeline."""

    @property
    def generation(self) -> GenerationSettings:
        """How the full-precision pipeline was run."""

    @property
    def prompts(self) -> Sequence[str]:
        """What the full-precision pipeline draws, held-out prompts included."""

    @property
    def batch_size(self) -> int:
        """Rows per learning step."""

    @property
    def calls(self) -> UNetCalls:
        """All recorded calls of the UNet."""

    @property
    def micro_batches(self) -> Sequence[Call]:
        """Arguments of UNet calls to learn on: this process' share."""

    @property
    def held_out(self) -> Sequence[Call]:
        """Arguments of UNet calls to measure errors on, from held-out samples."""

    @property
    def measured(self) -> Sequence[Call]:
        """Some calls, the same in all processes, for recipes that measure before they choose."""

    def check_processes(self, n: int) -> None:
        """Raise DGQError unless this number of processes can share the samples."""

    @property
    def identity(self) -> dict[str, Any]:
        """Values that determine the samples and their order, compared when a run is resumed."""
