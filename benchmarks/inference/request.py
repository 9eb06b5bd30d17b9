"""The requests to child processes."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The parts of the command line that a child needs.

    Args:
        cache: folder for parts that are made once.
        ckpts: quantized models of the embedded model.
        threads: number of threads of every library.
        calls: least number of timed calls in each process and batch size.
        captions: held-out captions whose calls the SQNR is measured on.
        calibration_calls: number of calls that NNCF calibrates the embedded model on.
        device: device that computes, as torch names it.
        activation_bits: bits of the activations of models with random weights.
        turns: folder of the processes that measure one at a time; empty if a process is alone
            anyway.
    """

    cache: str
    ckpts: tuple[str, ...]
    threads: int
    calls: int
    captions: int
    calibration_calls: int
    device: str = "cpu"
    activation_bits: int = 8
    turns: str = ""


@dataclass(frozen=True)
class Request:
    """A part to make, or a row to measure.

    Args:
        model: which UNet.
        part: part to make; empty if a row is measured.
        row: row to measure.
        ckpt: name of the quantized model.
        batches: batch sizes.
        quality: measure the SQNR too.
    """

    model: str
    part: str = ""
    row: str = ""
    ckpt: str = ""
    batches: Sequence[int] = ()
    quality: bool = False
