"""Measuring what quantization does to a text-to-image pipeline: images, metrics, report."""

from lit.evaluation.protocol import Protocol
from lit.evaluation.run import evaluate
from lit.evaluation.settings import EvaluationSettings

__all__ = ["EvaluationSettings", "Protocol", "evaluate"]
