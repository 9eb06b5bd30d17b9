"""Which PEFT adapters quantized layers support."""

from dataclasses import fields
from typing import Any

from dgq.errors import DGQError

PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that do not change the weights of the layer."""


def is_lora(config: Any) -> bool:
    """Whether a PEFT configuration is that of a LoRA."""
    return str(getattr(config.peft_type, "value", config.peft_type)) == "LORA"


def check_config(config: Any) -> None:
    """Raise DGQError for an adapter that would read or change the weights of a quantized layer."""
    if not hasattr(config, "peft_type"):
        return  # whoever uses it says what is wrong
    problem = problem_of(config)
    if problem is not None:
        raise DGQError(
            f"adapter: {problem} reads or changes full-precision weights, which a quantized UNet "
            "does not hold: expected a plain LoRA, or use the pipeline in full precision"
        )


def problem_of(config: Any) -> str | None:
    """The part of an adapter that quantized layers do not support, if any."""
    if not is_lora(config):
        return str(getattr(config.peft_type, "value", config.peft_type))
    for field in fields(config):
        if field.metadata.get("is_lora_variant") and getattr(config, field.name):
            return field.name
    if config.init_lora_weights not in PLAIN_STARTS:
        return f"init_lora_weights={config.init_lora_weights!r}"
    if config.bias != "none":
        return f"bias={config.bias!r}"
    for name in ("layer_replication", "target_parameters"):
        if getattr(config, name, None):
            return name
    return None
