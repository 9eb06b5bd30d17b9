"""Distribution-aware group quantization of diffusion UNets (arXiv 2501.04304)."""

from dgq.calibration.calibrate import calibrate
from dgq.calibration.recording import recording
from dgq.calibration.report import CalibrationReport, TargetError
from dgq.calibration.result import CalibrationResult
from dgq.calibration.saving import save
from dgq.errors import DGQError
from dgq.hub.model_card import model_card
from dgq.inference.execution import prepare_
from dgq.pipelines.loading import load_pipeline
from dgq.planning.plan import Plan, plan
from dgq.recipes import DGQ, RECIPES, RTN, TFMQ, Custom, MixDQ, Ours, QDiffusion, Recipe
from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    LearningSettings,
    NetworkSettings,
    QuantizationSettings,
    ScoreSettings,
    WaitingSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import (
    GenerationSettings,
    Manifest,
    load_quantized_unet,
    read_manifest,
    save_quantized,
)
from dgq.storage.dequantize import dequantize
from dgq.storage.diffusers_config import DGQConfig
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_

__all__ = [
    "DGQ",
    "RECIPES",
    "RTN",
    "TFMQ",
    "ActivationSettings",
    "CalibrationReport",
    "CalibrationResult",
    "Custom",
    "DGQConfig",
    "DGQError",
    "GenerationSettings",
    "LayerSettings",
    "LearningSettings",
    "Manifest",
    "MixDQ",
    "NetworkSettings",
    "Ours",
    "Plan",
    "QDiffusion",
    "QuantizationSettings",
    "Recipe",
    "ScoreSettings",
    "TargetError",
    "WaitingSettings",
    "WeightSettings",
    "calibrate",
    "dequantize",
    "fit_activations_",
    "load_pipeline",
    "load_quantized_unet",
    "model_card",
    "plan",
    "prepare_",
    "quantization",
    "quantize_",
    "read_manifest",
    "recording",
    "save",
    "save_quantized",
    "start_observing_",
]
