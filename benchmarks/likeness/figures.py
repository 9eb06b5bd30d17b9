"""What is measured, as numbers: a block of attention, a set of scores, a layer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from benchmarks.likeness import histogram
from benchmarks.likeness.kinds import kind_of
from benchmarks.likeness.ranges import change_over_steps, outliers
from benchmarks.likeness.scores import ScoreTally
from dgq.quantizers.activation_quantizer import ActivationQuantizer

EXPONENTS = (-4, -8, -12)
CROSS_OTHERS, SELF = "cross-attention, other tokens", "self-attention"
CHANNELS, PIXELS, WHOLE = "channels", "pixels or tokens", "whole tensor"
DIGITS = 5


@dataclass(frozen=True)
class BlockFigures:
    """Mean mass on the start token of one cross-attention.

    Args:
        name: of the attention.
        n_tokens: keys; a uniform distribution has a mass of one over it.
        mass: over all rows, steps, heads and queries.
        mass_with_prompt: of the rows with a prompt alone.
        mass_without_prompt: of the rows with the empty prompt; none without guidance.
        smallest_head: the mass of the head with least.
        largest_head: the mass of the head with most.
        thirds: the mass in the first (noisiest), middle and last third of the steps.
    """

    name: str
    n_tokens: int
    mass: float
    mass_with_prompt: float
    mass_without_prompt: float | None
    smallest_head: float
    largest_head: float
    thirds: list[float]


@dataclass(frozen=True)
class ScoreFigures:
    """Distribution of scores, in log2.

    Args:
        below: share below ``2^exponent``, by exponent.
        median: rounded down to a sixteenth of an octave, as are the next two.
        high: the 99 % quantile.
        largest: of all.
    """

    below: dict[int, float]
    median: float
    high: float
    largest: float


@dataclass(frozen=True)
class LayerFigures:
    """The input of one quantized layer, or an operand of an attention.

    Args:
        name: of the layer.
        kind: of its input.
        channel_outliers: the largest range over the median range of its channels, at the median
            step; none where only the whole tensor is quantized.
        pixel_outliers: the same of its pixels or tokens.
        change: the total range at the widest step over that at the narrowest.
        axis: that DGQ's rule groups.
    """

    name: str
    kind: str
    channel_outliers: float | None
    pixel_outliers: float | None
    change: float
    axis: str


@dataclass(frozen=True)
class Figures:
    """Everything that was measured of one UNet."""

    blocks: list[BlockFigures]
    scores: dict[str, ScoreFigures]
    layers: list[LayerFigures]

    def of_kind(self, kind: str) -> list[LayerFigures]:
        """The layers of a kind."""
        return [layer for layer in self.layers if layer.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """Plain containers, numbers to five digits."""
        content: dict[str, Any] = rounded(asdict(self))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Figures":
        """What ``as_json`` gave, also after it was in a file, where keys are strings."""
        scores = {
            name: ScoreFigures(**score | {"below": {int(e): s for e, s in score["below"].items()}})
            for name, score in content["scores"].items()
        }
        return cls(
            blocks=[BlockFigures(**block) for block in content["blocks"]],
            scores=scores,
            layers=[LayerFigures(**layer) for layer in content["layers"]],
        )


def block_figures(name: str, tally: ScoreTally) -> BlockFigures:
    """Means of one cross-attention's tally; all steps and halves weigh the same."""
    mass = tally.mean_mass()
    heads = mass.mean((0, 1))
    halves = mass.mean((1, 2)).tolist()
    by_step = mass.mean((0, 2)).tolist()
    return BlockFigures(
        name=name,
        n_tokens=tally.n_keys,
        mass=float(mass.mean()),
        mass_with_prompt=halves[-1],
        mass_without_prompt=halves[0] if len(halves) == 2 else None,
        smallest_head=float(heads.min()),
        largest_head=float(heads.max()),
        thirds=thirds(by_step),
    )


def thirds(values: list[float]) -> list[float]:
    """Means of the first, middle and last third of one or more values."""
    n = len(values)
    parts = [values[n * i // 3 : max(n * (i + 1) // 3, n * i // 3 + 1)] for i in range(3)]
    return [sum(part) / len(part) for part in parts]


def score_figures(bins: Tensor) -> ScoreFigures:
    """Figures of a histogram."""
    return ScoreFigures(
        below={e: histogram.share_below(bins, e) for e in EXPONENTS},
        median=histogram.quantile_log2(bins, 0.5),
        high=histogram.quantile_log2(bins, 0.99),
        largest=histogram.quantile_log2(bins, 1.0),
    )


def layer_figures(name: str, quantizer: ActivationQuantizer) -> LayerFigures:
    """Figures of what a fitted quantizer observed."""
    observer = quantizer.require_observer()
    grouped = PIXELS if quantizer.on_pixels else CHANNELS
    return LayerFigures(
        name=name,
        kind=kind_of(name),
        channel_outliers=None if observer.pixels is None else outliers(observer.channels),
        pixel_outliers=None if observer.pixels is None else outliers(observer.pixels),
        change=change_over_steps(observer.channels),
        axis=WHOLE if observer.pixels is None else grouped,
    )


def rounded(content: Any) -> Any:
    """The same containers with numbers to five significant digits."""
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}")
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    return [rounded(value) for value in content] if isinstance(content, list) else content
