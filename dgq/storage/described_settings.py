"""Quantization settings as plain values for JSON and YAML, and back."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)


def described(settings: QuantizationSettings) -> dict[str, Any]:
    """Settings as plain values; for single layers only the differences from the rest, if any.

    Skips are only mentioned if they are split, so that other recipes' descriptions stay short.
    """
    content: dict[str, Any] = {
        name: asdict(getattr(settings, name)) for name in ("weights", "activations", "scores")
    }
    content["keep"] = list(settings.keep)
    if settings.layers:
        content["layers"] = {n: _differences(settings, own) for n, own in settings.layers.items()}
    if settings.split_skips:
        content["split_skips"] = list(settings.split_skips)
    return content


def quantization_settings(content: Mapping[str, Any]) -> QuantizationSettings:
    """Settings from the plain values that ``described`` returned.

    Raises:
        KeyError, TypeError, AttributeError: for content of another structure.
        SettingsError: for impossible values.
    """
    weights = WeightSettings(**content["weights"])
    activations = ActivationSettings(**content["activations"])
    layers = {
        name: LayerSettings(
            replace(weights, **own["weights"]) if "weights" in own else None,
            replace(activations, **own["activations"]) if "activations" in own else None,
        )
        for name, own in content.get("layers", {}).items()
    }
    scores = ScoreSettings(**content["scores"])
    keep, split = tuple(content["keep"]), tuple(content.get("split_skips", ()))
    return QuantizationSettings(weights, activations, scores, keep, layers, split)


def _differences(settings: QuantizationSettings, own: LayerSettings) -> dict[str, Any]:
    """Settings of a layer that differ from those of the rest, by kind."""
    return {
        name: {k: v for k, v in asdict(part).items() if v != getattr(common, k)}
        for name, part, common in (
            ("weights", own.weights, settings.weights),
            ("activations", own.activations, settings.activations),
        )
        if part is not None
    }
