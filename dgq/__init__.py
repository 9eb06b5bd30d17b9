"""Distribution-aware group quantization of diffusion UNets (arXiv 2501.04304)."""

from dgq.checkpoint import (
    GenerationSettings,
    Manifest,
    load_quantized_unet,
    read_manifest,
    save_quantized,
)
from dgq.context import quantization
from dgq.dequantize import dequantize
from dgq.diffusers_quantizer import DGQConfig
from dgq.errors import DGQError
from dgq.inference.execution import prepare_
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
    "DGQConfig",
    "DGQError",
    "GenerationSettings",
    "LearningSettings",
    "Manifest",
    "QuantizationSettings",
    "ScoreSettings",
    "WeightSettings",
    "dequantize",
    "fit_activations_",
    "load_pipeline",
    "load_quantized_unet",
    "prepare_",
    "quantization",
    "quantize_",
    "read_manifest",
    "save_quantized",
]
