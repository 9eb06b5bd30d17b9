"""What is asked of a child process."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What a child process has to know of the command line.

    Args:
        cache: folder for what is made once.
        ckpts: quantized models of the embedded model.
        threads: of every library.
        calls: timed in each process and batch size, at least.
        captions: held-out ones, on whose calls the SQNR is measured.
        calibration_calls: that NNCF calibrates the embedded model on.
        device: that computes, in torch's words.
        turns: folder of processes that measure one at a time; empty where one is alone anyway.
    """

    cache: str
    ckpts: tuple[str, ...]
    threads: int
    calls: int
    captions: int
    calibration_calls: int
    device: str = "cpu"
    turns: str = ""


@dataclass(frozen=True)
class Request:
    """A part to make, or a row to measure.

    Args:
        model: which UNet.
        part: to make; empty if a row is measured.
        row: to measure.
        ckpt: which quantized model.
        batches: sizes.
        quality: measure the SQNR too.
    """

    model: str
    part: str = ""
    row: str = ""
    ckpt: str = ""
    batches: Sequence[int] = ()
    quality: bool = False
