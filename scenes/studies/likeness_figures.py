"""Figures of the likeness to Stable Diffusion."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from statistics import mean, median

from dgq.quantizers.activation_quantizer import ActivationQuantizer
from scenes.studies.attention_scores import ScoreTally
from scenes.studies.ranges import change_over_steps, outliers
from scenes.studies.tables import number

GEGLU, CONV2 = "*.ff.net.2.*", "*.conv2.*"
"""Quantizers of GEGLU outputs and of the inputs of second resnet convolutions."""


@dataclass(frozen=True)
class Likeness:
    """What was measured of one UNet.

    Args:
        start_token: mean mass of cross-attention on the start token over uniform, mean of blocks.
        with_prompt: the same of the rows with a prompt alone.
        strongest_block: the same for the block with the largest value.
        small_cross: share of the cross-attention scores of other tokens below 2^-8.
        small_self: share of the self-attention scores below 2^-8.
        geglu_median: largest over median range of the channels of GEGLU outputs, median layer.
        geglu_largest: the same for the layer with the largest value.
        conv2_median: as geglu_median, for the inputs of second resnet convolutions.
        conv2_largest: the same for the layer with the largest value.
        all_median: as geglu_median, for all inputs.
        tokens_largest: the same over pixels or tokens instead of channels, for the layer with the
            largest value.
        change_median: widest over narrowest range over the steps, median layer.
        change_largest: the same for the layer with the largest value.
        by_token: share of the inputs that DGQ's rule groups by pixel or token.
    """

    start_token: float
    with_prompt: float
    strongest_block: float
    small_cross: float
    small_self: float
    geglu_median: float
    geglu_largest: float
    conv2_median: float
    conv2_largest: float
    all_median: float
    tokens_largest: float
    change_median: float
    change_largest: float
    by_token: float


TITLES = (
    *("start token, times uniform", "with prompt", "strongest block"),
    *("cross scores below 2^-8", "self scores below 2^-8"),
    *("GEGLU: median", "largest", "conv2: median", "largest", "all inputs: median"),
    *("tokens: largest", "change over steps: median", "largest", "grouped by token"),
)
"""Titles of the fields, in their order."""


def cells(likeness: Likeness) -> list[str]:
    """The cells of a table row."""
    return [number(value) for value in asdict(likeness).values()]


def summary(
    quantizers: dict[str, ActivationQuantizer],
    cross: Sequence[ScoreTally],
    own: Sequence[ScoreTally],
) -> Likeness:
    """The figures of the observed UNet; the axes were chosen by DGQ's own rule.

    Args:
        quantizers: by name, fitted.
        cross: tallies of cross-attentions.
        own: tallies of self-attentions.
    """
    masses = [tally.start_token() for tally in cross]
    observers = {name: quantizer.require_observer() for name, quantizer in quantizers.items()}
    channels = {n: outliers(o.channels) for n, o in observers.items() if o.pixels is not None}
    tokens = [outliers(o.pixels) for o in observers.values() if o.pixels is not None]
    changes = [change_over_steps(observer.channels) for observer in observers.values()]
    geglu, conv2 = ([r for n, r in channels.items() if fnmatch(n, k)] for k in (GEGLU, CONV2))
    return Likeness(
        start_token=mean(float(mass.mean()) for mass in masses),
        with_prompt=mean(float(mass[-1]) for mass in masses),
        strongest_block=max(float(mass.mean()) for mass in masses),
        small_cross=share_of_small(cross),
        small_self=share_of_small(own),
        geglu_median=median(geglu),
        geglu_largest=max(geglu),
        conv2_median=median(conv2),
        conv2_largest=max(conv2),
        all_median=median(channels.values()),
        tokens_largest=max(tokens),
        change_median=median(changes),
        change_largest=max(changes),
        by_token=mean(quantizers[name].on_pixels for name in channels),
    )


def share_of_small(tallies: Sequence[ScoreTally]) -> float:
    """The share of small ones among all scores except the start token's."""
    return sum(int(t.n_small) for t in tallies) / sum(t.n_others for t in tallies)
