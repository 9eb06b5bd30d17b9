"""LoRA on a quantized UNet: PEFT's layers around ours, by the calls that stock UNets have."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from dgq.errors import DGQError
from dgq.readers import Reader

PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the weights of the layer as they are."""


class Adapters(dict[str, Any]):
    """Configurations of the adapters on a quantized UNet, by name.

    PEFT puts a new one in before it looks at the layers: there it is checked, and told which of
    PEFT's layers go around quantized ones.
    """

    def __setitem__(self, name: str, config: Any) -> None:
        super().__setitem__(name, config)  # whoever fails takes it out again
        check_config(config)
        if is_lora(config):
            from dgq.lora_layers import lora_layer

            config._register_custom_module({Reader: lora_layer})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dictionary, one by one."""
        for name, config in dict(*args, **kwargs).items():
            self[name] = config


class TakesAdapters(nn.Module):
    """Mixed into quantized UNets: adapters are put on as on stock ones, or refused in one line."""

    @property
    def peft_config(self) -> Adapters:
        """Configurations of the adapters, by name; empty without any."""
        return self.__dict__.setdefault("_adapters", Adapters())

    @peft_config.setter
    def peft_config(self, configs: Mapping[str, Any]) -> None:
        if configs is not self.__dict__.get("_adapters"):
            self.__dict__["_adapters"] = Adapters()
            self.peft_config.update(configs)

    @peft_config.deleter
    def peft_config(self) -> None:
        self.__dict__.pop("_adapters", None)

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """As the stock UNet's: a new adapter, to be trained.

        Raises:
            DGQError: for an adapter that is no plain LoRA.
        """
        check_config(adapter_config)
        with putting_on(self):
            super().add_adapter(adapter_config, adapter_name)  # type: ignore[misc]

    def load_lora_adapter(self, source: Any, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's; the adapter computes in the precision of what is not quantized.

        Raises:
            DGQError: for an adapter that is no plain LoRA.
        """
        before = set(self.peft_config)
        with putting_on(self):
            super().load_lora_adapter(source, *args, **kwargs)  # type: ignore[misc]
        for name in set(self.peft_config) - before:
            convert_adapter_(self, name, self.dtype_of_adapters)

    @property
    def dtype_of_adapters(self) -> torch.dtype:
        """The precision of what is not quantized."""
        return getattr(self, "precision", None) or torch.float32

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's where adapters are on layers that were kept.

        Raises:
            DGQError: where one is on a quantized layer.
        """
        if any(isinstance(getattr(m, "base_layer", None), Reader) for m in self.modules()):
            raise refusal_to_fuse()
        super().fuse_lora(*args, **kwargs)  # type: ignore[misc]

    def set_attn_processor(self, processor: Any) -> None:
        """As the stock UNet's; all are changed, or none.

        Raises:
            DGQError: for processors that would leave out what is quantized.
        """
        for name, module in self.named_modules():
            if hasattr(module, "check_processor"):
                given = processor
                if isinstance(processor, dict):
                    given = processor.get(f"{name}.processor", module.processor)
                module.check_processor(given)
        super().set_attn_processor(processor)  # type: ignore[misc]


@contextmanager
def putting_on(unet: TakesAdapters) -> Iterator[None]:
    """What is undone when an adapter cannot be put on; PEFT's warning of earlier ones is muted."""
    before, loaded = set(unet.peft_config), unet._hf_peft_config_loaded
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            yield
    except BaseException:
        unet._hf_peft_config_loaded = loaded
        for name in set(unet.peft_config) - before:
            del unet.peft_config[name]
        raise


def is_lora(config: Any) -> bool:
    """Whether PEFT's configuration is of a LoRA."""
    return str(getattr(config.peft_type, "value", config.peft_type)) == "LORA"


def check_config(config: Any) -> None:
    """Raise DGQError for an adapter that would read or change the weights of a quantized layer."""
    if not hasattr(config, "peft_type"):
        return  # whoever uses it says what is wrong
    problem = problem_of(config)
    if problem is not None:
        raise DGQError(
            f"adapter: {problem} needs the full-precision weights, which a quantized UNet does not "
            "hold: expected a plain LoRA, or use the pipeline in full precision"
        )


def problem_of(config: Any) -> str | None:
    """What of an adapter quantized layers cannot take, if anything."""
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


def convert_adapter_(unet: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Let the layers of one adapter compute in a precision."""
    for module in unet.modules():
        if not hasattr(module, "base_layer"):
            continue
        for layers in module.children():
            if isinstance(layers, nn.ModuleDict) and name in layers:
                layers[name].to(dtype)


def refusal_to_fuse() -> DGQError:
    """What fusing into a quantized layer raises."""
    return DGQError(
        "fuse_lora: the codes of a quantized weight cannot take up a LoRA: leave it on as it is "
        "(set_adapters scales it), or fuse it into the full-precision UNet and calibrate that"
    )
