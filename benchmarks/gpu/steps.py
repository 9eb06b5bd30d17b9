"""The steps: what is run, for how long at most, in the order of their worth."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.exactness import CASES

BENCHMARKS = Path(__file__).parents[1]
COMPILE_SECONDS = 150


@dataclass(frozen=True)
class Step:
    """Commands that run at the same time.

    Args:
        seconds: until they are stopped.
        commands: each with the arguments after ``python``.
        interprets: whether a CPU interprets Triton's kernels in it.
    """

    seconds: int
    commands: Sequence[Sequence[str]]
    interprets: bool = False


@dataclass(frozen=True)
class Plan:
    """Where and how large.

    Args:
        out: folder for figures.
        scratch: folder for what is made on the way: weights, compiled code.
        rehearse: on a CPU, with tiny sizes.
        ckpt: a quantized embedded model, for its SQNR; or empty.
    """

    out: Path
    scratch: Path
    rehearse: bool
    ckpt: str = ""

    @property
    def device(self) -> str:
        """That computes."""
        return "cpu" if self.rehearse else "cuda"

    def child(self, name: str) -> list[str]:
        """The arguments of this command's own child."""
        own = ["--child", name, "--scratch", str(self.scratch)]
        return [str(BENCHMARKS / "gpu"), str(self.out), *own, *self._rehearses()]

    def inference(self, name: str, rows: str, batches: str, model: str = "sd14") -> list[str]:
        """The arguments of the benchmark of inference."""
        model = "tiny" if self.rehearse and model != "embedded" else model
        batches = "1" if self.rehearse else batches
        rest = ["--ckpt", self.ckpt] if model == "embedded" else []
        return [
            *(str(BENCHMARKS / "inference"), "--device", self.device, "--models", model, *rest),
            *("--rows", *rows.split(), "--batch", *batches.split(), "--repeats", "1"),
            *("--calls", "1" if self.rehearse else "5", "--threads", "1"),
            *("--captions", "2" if self.rehearse else "16", "--calibration-calls", "1"),
            *("--cache", str(self.scratch / "inference"), "--json", str(self.out / f"{name}.json")),
        ]

    def calibration(self) -> list[str]:
        """The arguments of the benchmark of calibration."""
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
        """By name."""
        compiled = "integer-compiled bf16-compiled"
        steps = {
            "exact": Step(120, [self.child(f"exact:{name}") for name in CASES], self.rehearse),
            "layers": Step(240, [self.child("layers")]),
            "eager": Step(120, [self.inference("eager", "bf16 integer weight-only", "2 16")]),
            "calibration": Step(120, [self.calibration()]),
            "compiled-16": Step(
                2 * COMPILE_SECONDS, [self.inference("compiled-16", compiled, "16")]
            ),
            "compiled-2": Step(2 * COMPILE_SECONDS, [self.inference("compiled-2", compiled, "2")]),
            "sdxl": Step(200, [self.inference("sdxl", "bf16 integer", "2 16", "sdxl")]),
            "sdxl-compiled": Step(
                3 * COMPILE_SECONDS, [self.inference("sdxl-compiled", compiled, "2", "sdxl")]
            ),
            "torchao": Step(COMPILE_SECONDS, [self.inference("torchao", "torchao", "16")]),
        }
        if self.ckpt:
            command = self.inference("embedded", "bf16 integer", "2 32", "embedded")
            steps["embedded"] = Step(120, [command])
        return steps


def python(arguments: Sequence[str]) -> list[str]:
    """A command line."""
    return [sys.executable, *arguments]
