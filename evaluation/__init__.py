"""Measuring what quantization does to a text-to-image pipeline: images, metrics, report."""

from evaluation.protocol import Protocol
from evaluation.run import evaluate
from evaluation.settings import EvaluationSettings

__all__ = ["EvaluationSettings", "Protocol", "evaluate"]
