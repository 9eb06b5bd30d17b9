"""How attention scores are quantized."""

from dataclasses import dataclass
from typing import Literal, get_args

from dgq.settings.bits import check_bits
from dgq.settings.checks import check_choice
from dgq.settings.types import check_types

ScoreMethod = Literal["log", "affine"]
Maximum = Literal["live", "calibrated"]


@dataclass(frozen=True)
class ScoreSettings:
    """Quantization of the softmax output of attention (paper, section 4.2).

    Args:
        n_bits: 2 to 8, or 16 to keep the scores in floating point.
        cross_attention: ``log`` (powers of two under the live maximum) or ``affine``.
        self_attention: the same choice for self-attention.
        keep_start_token: keep the ``<start>`` token's key and scores in full precision.
        maximum: reference of the powers of two: each sample's own maximum (``live``), or the
            largest of the calibration samples at each step (``calibrated``).
    """

    n_bits: int = 8
    cross_attention: ScoreMethod = "log"
    self_attention: ScoreMethod = "affine"
    keep_start_token: bool = True
    maximum: Maximum = "live"

    def __post_init__(self) -> None:
        check_bits("scores.n_bits", self.n_bits)
        check_choice("scores.maximum", self.maximum, get_args(Maximum))
        check_choice("scores.cross_attention", self.cross_attention, get_args(ScoreMethod))
        check_choice("scores.self_attention", self.self_attention, get_args(ScoreMethod))
        check_types(self, "scores.")
