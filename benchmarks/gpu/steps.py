"""The steps in order of importance: what they run, and for how long at most."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.exactness import CASES
from benchmarks.inference.turns import Turns

BENCHMARKS = Path(__file__).parents[1]
SECONDS = 470
"""Most seconds of a step."""

SMOKE_SECONDS = 180

ROWS_AT_ONCE = 5
"""Number of processes of an inference benchmark."""

GATES, UNPACKING = "gated", "unpacking"
"""Checks besides the cases of products."""

TURNS = "turns"
"""Folder in which processes register that measure one at a time."""


@dataclass(frozen=True)
class Step:
    """Commands that run at the same time.

    Args:
        seconds: seconds until they are stopped.
        commands: arguments of each after ``python``.
        interprets: whether a CPU interprets Triton kernels in it.
        is_required: whether its failure ends all other steps.
    """

    seconds: int
    commands: Sequence[Sequence[str]]
    interprets: bool = False
    is_required: bool = False


@dataclass(frozen=True)
class Plan:
    """Places and sizes of a run.

    Args:
        out: folder for figures.
        scratch: folder for intermediate files: weights, compiled code.
        rehearse: whether it runs on a CPU, with tiny sizes.
        ckpt: a quantized embedded model, for its SQNR; or empty.
    """

    out: Path
    scratch: Path
    rehearse: bool
    ckpt: str = ""

    @property
    def turns(self) -> Turns:
        """The turns that all processes of the steps share."""
        return Turns(self.scratch / TURNS)

    @property
    def device(self) -> str:
        """The device that computes."""
        return "cpu" if self.rehearse else "cuda"

    def child(self, name: str) -> list[str]:
        """The arguments of a child process of this command."""
        own = ["--child", name, "--scratch", str(self.scratch)]
        return [str(BENCHMARKS / "gpu"), str(self.out), *own, *self._rehearses()]

    def inference(self, name: str, rows: str, batches: str, model: str = "sd14") -> list[str]:
        """The arguments of the inference benchmark."""
        model = "tiny" if self.rehearse and model != "embedded" else model
        batches = "1" if self.rehearse else batches
        rest = ["--ckpt", self.ckpt] if model == "embedded" else []
        return [
            *(str(BENCHMARKS / "inference"), "--device", self.device, "--models", model, *rest),
            *("--rows", *rows.split(), "--batch", *batches.split(), "--repeats", "1"),
            *("--jobs", str(1 if self.rehearse else ROWS_AT_ONCE)),
            *("--turns", str(self.scratch / TURNS)),
            *("--calls", "1" if self.rehearse else "5", "--threads", "1"),
            *("--captions", "2" if self.rehearse else "16", "--calibration-calls", "1"),
            *("--cache", str(self.scratch / "inference"), "--json", str(self.out / f"{name}.json")),
        ]

    def calibration(self) -> list[str]:
        """The arguments of the calibration benchmark."""
        size = ["tiny", "8", "3"] if self.rehearse else ["sd14", "64", "12"]
        model, samples, targets = size
        return [
            *(str(BENCHMARKS / "full_size.py"), "--model", model, "--samples", samples),
            *("--stop-after", targets, "--batch-size", "8", "--micro-batch", "8", "--mixed"),
            *("--place", "device", "--device", self.device),
            *("--json", str(self.out / "calibration.json")),
        ]

    def _rehearses(self) -> list[str]:
        return ["--rehearse"] if self.rehearse else []

    def steps(self) -> Mapping[str, Step]:
        """The steps by name, in order."""
        compiled = "integer-compiled bf16-compiled"  # first: compiling takes minutes
        steps = {
            "smoke": Step(SMOKE_SECONDS, [self.child("smoke")], is_required=True),
            "sd14-compiled": Step(SECONDS, [self.inference("sd14-compiled", compiled, "16 2")]),
            "sd14": Step(SECONDS, [self.inference("sd14", "bf16 integer", "16 2")]),
            "calibration": Step(SECONDS, [self.calibration()]),
            "torchao": Step(SECONDS, [self.inference("torchao", "torchao", "16 2")]),
            "sdxl": Step(SECONDS, [self.inference("sdxl", "bf16 integer", "2", "sdxl")]),
            "attention": Step(SECONDS, [self.child("attention")]),
            "layers": Step(SECONDS, [self.child("layers")]),
            "shapes": Step(SECONDS, [self.child("shapes")], self.rehearse),
            "exact": Step(
                SECONDS,
                [self.child(f"exact:{n}") for n in (*CASES, GATES, UNPACKING)],
                self.rehearse,
            ),
            "weight-only": Step(SECONDS, [self.inference("weight-only", "weight-only", "2")]),
            "sdxl-compiled": Step(
                SECONDS,
                [self.inference("sdxl-compiled", compiled, "2", "sdxl")],
            ),
        }
        if self.ckpt:
            command = self.inference("embedded", "bf16 integer", "2 32", "embedded")
            steps["embedded"] = Step(SECONDS, [command])
        return steps


def python(arguments: Sequence[str]) -> list[str]:
    """The command line that runs Python with some arguments."""
    return [sys.executable, *arguments]
