"""Distribution-aware group quantization of diffusion UNets (arXiv 2501.04304)."""

from dgq.checkpoint import (
    GenerationSettings,
    Manifest,
    load_quantized_unet,
    read_manifest,
    save_quantized,
)
from dgq.context import quantization
from dgq.errors import DGQError
from dgq.hub.model_card import model_card
from dgq.pipelines import load_pipeline
from dgq.quantize import fit_activations_, quantize_
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)

__all__ = [
    "ActivationSettings",
    "DGQError",
    "GenerationSettings",
    "LearningSettings",
    "Manifest",
    "QuantizationSettings",
    "ScoreSettings",
    "WeightSettings",
    "fit_activations_",
    "load_pipeline",
    "load_quantized_unet",
    "model_card",
    "quantization",
    "quantize_",
    "read_manifest",
    "save_quantized",
]
