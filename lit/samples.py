"""What a calibration needs of its Trainer's DataModule: the two know nothing else of each other."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from dgq.calibration.runtime import Call
from dgq.calibration.unet_calls import UNetCalls
from dgq.storage.manifest import GenerationSettings


class Samples(Protocol):
    """A DataModule whose batches are indices of rows, ``[rows]``, of its micro-batches.

    ``calls``, ``micro_batches``, ``held_out`` and ``measured`` are there from its ``setup`` on.
    """

    n_held_out_prompts: ClassVar[int]
    """Prompts that it draws to measure errors on."""

    @property
    def generation(self) -> GenerationSettings:
        """How the full-precision pipeline was run."""

    @property
    def batch_size(self) -> int:
        """Rows in one step of learning."""

    @property
    def calls(self) -> UNetCalls:
        """All recorded calls of the UNet."""

    @property
    def micro_batches(self) -> Sequence[Call]:
        """Arguments of UNet calls to learn on, this process' share."""

    @property
    def held_out(self) -> Sequence[Call]:
        """The same of samples on which errors are measured and nothing is learned."""

    @property
    def measured(self) -> Sequence[Call]:
        """The same of some samples, alike in all processes, for recipes that measure first."""

    def check_processes(self, n: int) -> None:
        """Raise DGQError unless so many processes can share the samples."""

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the samples and their order, to compare a resumed run with."""
