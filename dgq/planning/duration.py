"""How long a calibration would take: an estimate from what is multiplied, and a probe's rates."""

from dataclasses import dataclass

from dgq.planning.rates import Rates
from dgq.settings import LearningSettings

BESIDE_PRODUCTS = 1.5
"""Cost of a call against its multiply-accumulates alone, at the rate of the layer with the most."""

OBSERVING = 1.6
"""Cost of a pass that also reads quantized weights and observes, against one that does not."""

AGAIN = 4 / 3
"""Cost of a step on the UNet as a whole, whose blocks run a second time for their gradients."""

STEP_SECONDS = 2e-3
"""Of each step of learning beside arithmetic: Python, and starting kernels."""


@dataclass(frozen=True)
class Work:
    """What a calibration computes.

    Args:
        macs: multiply-accumulates of all layers and attentions for one row.
        weights: that are quantized.
        n_targets: that are learned one after another.
        recorded_rows: rows of the UNet that the full-precision pipeline draws; 0 if they are there.
        streamed_rows: rows of all samples.
        batch_rows: rows in a step of learning.
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
    """Seconds of each phase, on the machine and with the threads that the rates are of.

    Args:
        work: what is computed.
        learning: how each target is learned.
        rates: of the machine.
        of_network: the UNet is learned as a whole, too.
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
