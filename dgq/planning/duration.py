"""Estimated time of a calibration, from its arithmetic and the rates of a probe."""

from dataclasses import dataclass

from dgq.planning.rates import Rates
from dgq.settings import LearningSettings

BESIDE_PRODUCTS = 1.5
"""Cost of a call relative to its multiply-accumulates at the rate of the largest layer."""

OBSERVING = 1.6
"""Cost of a pass that also reads quantized weights and observes, relative to one that does not."""

AGAIN = 4 / 3
"""Cost of a step on the UNet as a whole, whose blocks run a second time for their gradients."""

STEP_SECONDS = 2e-3
"""Seconds of each learning step besides arithmetic: Python, and launching kernels."""


@dataclass(frozen=True)
class Work:
    """Amount of work in a calibration.

    Args:
        macs: multiply-accumulates of all layers and attentions for one row.
        weights: number of weights that are quantized.
        n_targets: targets that are learned one after another.
        recorded_rows: UNet rows that the full-precision pipeline draws; 0 if they already exist.
        streamed_rows: rows of all samples.
        batch_rows: rows of a learning step.
    """

    macs: int
    weights: int
    n_targets: int
    recorded_rows: int
    streamed_rows: int
    batch_rows: int


def estimated_seconds(
    work: Work, learning: LearningSettings, rates: Rates, of_network: bool = False
) -> dict[str, float]:
    """Seconds of each phase, on the machine and with the threads of the given rates.

    Args:
        work: what is computed.
        learning: how each target is learned.
        rates: rates of the machine.
        of_network: whether the UNet is also learned as a whole.
    """
    row = BESIDE_PRODUCTS * work.macs * rates.forward
    steps = learning.total_iterations
    of_batch = BESIDE_PRODUCTS * work.batch_rows * work.macs * rates.learning
    on_weights = learning.iterations * work.weights * rates.rounding
    whole = (AGAIN * of_batch + STEP_SECONDS) * steps if of_network else 0.0
    observed = OBSERVING * (2 if learning.learns_ranges else 1)
    return {
        "recording": work.recorded_rows * row,
        "capture": work.streamed_rows * row,
        "range search": work.weights * rates.searching,
        "learning": steps * (of_batch + work.n_targets * STEP_SECONDS) + on_weights + whole,
        "observation": observed * work.streamed_rows * row,
    }
