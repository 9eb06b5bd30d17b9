"""Settings of a quantization as plain values, which JSON and YAML can hold, and back."""

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
    """Plain values; of single layers only what differs from the others, and nothing if none do.

    Nothing either of skips that are not split, so that descriptions of other recipes stay as short.
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
    """Settings from what ``described`` made of them.

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
    """What a layer has otherwise than the rest, by kind."""
    return {
        name: {k: v for k, v in asdict(part).items() if v != getattr(common, k)}
        for name, part, common in (
            ("weights", own.weights, settings.weights),
            ("activations", own.activations, settings.activations),
        )
        if part is not None
    }
