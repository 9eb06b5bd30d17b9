"""Calibrated micro UNets of the recipes that other engines run, saved for export."""

from dataclasses import replace
from functools import cache

from dgq.settings import ActivationSettings, QuantizationSettings, WeightSettings
from tests.lasting_folders import lasting_folder
from tests.quantized_models import FAST, FLOAT_SCORES, Calibrated, calibrated

GROUPED = WeightSettings(4, "minmax", symmetric=True, group_size=16, max_exponent=2)
RECIPES = {
    "w4a8": QuantizationSettings(
        GROUPED, ActivationSettings(8, "multiples", max_exponent=2, qkv=False), FLOAT_SCORES
    ),
    "w4a6": QuantizationSettings(
        GROUPED, ActivationSettings(6, "multiples", max_exponent=4, qkv=False), FLOAT_SCORES
    ),
    "w8a8": QuantizationSettings(
        WeightSettings(8, "minmax", symmetric=True),
        ActivationSettings(8, "exponents", max_exponent=0, qkv=False),
        FLOAT_SCORES,
    ),
    "one step": QuantizationSettings(
        FAST, ActivationSettings(8, n_groups=1, per_step=False, qkv=False), FLOAT_SCORES
    ),
    "absorbed": QuantizationSettings(
        WeightSettings(8, "minmax", symmetric=True, absorbs=True),
        ActivationSettings(8, "multiples", max_exponent=4, qkv=False),
        FLOAT_SCORES,
    ),
}

IN_PARTS = {"kept": replace(RECIPES["w4a8"], keep=("conv_in", "conv_out", "*.to_k"))}
"""Recipes of which some layers stay in floating point."""


@cache
def exported_model(name: str) -> Calibrated:
    """A calibrated micro UNet, made once for all tests."""
    return calibrated((RECIPES | IN_PARTS)[name], lasting_folder())
