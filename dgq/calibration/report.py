"""Figures of a finished calibration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

N_WORST = 5
"""Targets named in the text: those with the largest errors."""


@dataclass(frozen=True)
class TargetError:
    """Relative squared error of one target's output on held-out samples.

    Args:
        name: name of the target.
        error_nearest: error before learning, with weights rounded to nearest; of ``network``, the
            UNet as a whole, after its blocks were learned.
        error: error with learned weights; of ``network`` both errors are with everything quantized.
        error_quantized: error with quantized activations too, where their ranges were learned.
    """

    name: str
    error_nearest: float
    error: float
    error_quantized: float | None = None


@dataclass(frozen=True)
class CalibrationReport:
    """Figures of one calibration; SQNR is that of the UNet's output on held-out samples.

    Args:
        recipe: name of the recipe.
        targets: errors of the targets, in execution order.
        sqnr_weights_db: SQNR with quantized weights.
        sqnr_db: SQNR with everything quantized.
        sqnr_by_step_db: the same by timestep.
        seconds: seconds by phase; CPU time, or wall time with an accelerator.
        n_samples: number of samples to learn on.
        n_held_out: number of samples to measure the targets' errors on.
    """

    recipe: str
    targets: tuple[TargetError, ...]
    sqnr_weights_db: float
    sqnr_db: float
    sqnr_by_step_db: Mapping[float, float]
    seconds: Mapping[str, float]
    n_samples: int
    n_held_out: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        steps = [{"timestep": t, "sqnr_db": db} for t, db in self.sqnr_by_step_db.items()]
        return asdict(self) | {
            "targets": [asdict(target) for target in self.targets],
            "sqnr_by_step_db": steps,
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        worst = sorted(self.targets, key=lambda target: target.error, reverse=True)[:N_WORST]
        steps = ", ".join(f"{t:g}: {db:.1f}" for t, db in self.sqnr_by_step_db.items())
        seconds = ", ".join(f"{phase} {s:.1f}" for phase, s in self.seconds.items())
        return "\n".join(
            [
                f"{self.recipe}: {len(self.targets)} targets, learned on {self.n_samples} samples, "
                f"errors of {self.n_held_out} held-out ones",
                f"SQNR of the UNet's output: {self.sqnr_weights_db:.1f} dB with quantized weights, "
                f"{self.sqnr_db:.1f} dB with everything quantized",
                f"SQNR by timestep, dB: {steps}",
                "largest errors, before and after learning: "
                + ", ".join(f"{t.name} {t.error_nearest:#.4g} -> {t.error:#.4g}" for t in worst),
                f"seconds: {seconds}",
            ]
        )
