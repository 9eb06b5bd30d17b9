"""What a calibration is determined by: a checkpoint must agree in it to be resumed."""

import json
from dataclasses import asdict
from typing import Any

from dgq.errors import DGQError
from dgq.settings import LearningSettings, QuantizationSettings


def identity_of(
    pipeline: str,
    quantization: QuantizationSettings,
    learning: LearningSettings,
    data: dict[str, Any],
) -> str:
    """All that determines a calibration, as JSON."""
    content = {
        "pipeline": pipeline,
        "quantization": asdict(quantization),
        "learning": asdict(learning),
        "data": data,
    }
    return json.dumps(content, sort_keys=True)


def check_identity(saved: str, current: str) -> None:
    """Raise DGQError, naming a difference, unless a checkpoint was made with the same settings."""
    if saved != current:
        difference = first_difference(json.loads(saved), json.loads(current))
        raise DGQError(
            f"the checkpoint was made with other settings ({difference}): resume with the same "
            "ones, or start a new run with --run DIR"
        )


def first_difference(saved: Any, current: Any, name: str = "settings") -> str:
    """The first place, by name, where two nested settings differ."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(saved.keys() | current.keys()):
            if saved.get(key) != current.get(key):
                return first_difference(saved.get(key), current.get(key), key)
    return f"{name}: {saved} then, {current} now"
