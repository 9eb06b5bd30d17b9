"""What to quantize and how: typed settings, validated when they are made; one idea a file."""

from dgq.math.range_search import RangeMethod
from dgq.settings.activations import LIVE, ActivationSettings, Grouping
from dgq.settings.bits import FLOAT_BITS, check_bits, operand_bits
from dgq.settings.checks import (
    check_choice,
    check_kind,
    check_not_negative,
    check_positive,
    check_whole,
)
from dgq.settings.integer_product import check_product, fitting
from dgq.settings.learning import FEW_BITS, Decay, LearningSettings
from dgq.settings.network import NetworkSettings
from dgq.settings.quantization import LayerSettings, QuantizationSettings, SkipReader
from dgq.settings.scores import Maximum, ScoreMethod, ScoreSettings
from dgq.settings.types import check_types
from dgq.settings.waiting import Place, WaitingSettings, WaitingType
from dgq.settings.weights import WeightSettings

__all__ = [
    "FEW_BITS",
    "FLOAT_BITS",
    "LIVE",
    "ActivationSettings",
    "Decay",
    "Grouping",
    "LayerSettings",
    "LearningSettings",
    "Maximum",
    "NetworkSettings",
    "Place",
    "QuantizationSettings",
    "RangeMethod",
    "ScoreMethod",
    "ScoreSettings",
    "SkipReader",
    "WaitingSettings",
    "WaitingType",
    "WeightSettings",
    "check_bits",
    "check_choice",
    "check_kind",
    "check_not_negative",
    "check_positive",
    "check_product",
    "check_types",
    "check_whole",
    "fitting",
    "operand_bits",
]
