"""LoRA on a quantized UNet: PEFT's layers around ours, by the calls that stock UNets have."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dgq.adapters.configs import check_config, is_lora
from dgq.adapters.fusing import refusal_to_fuse
from dgq.errors import DGQError
from dgq.unet.readers import Reader


class Adapters(dict[str, Any]):
    """Configurations of the adapters on a quantized UNet, by name.

    PEFT puts a new one in before it looks at the layers: there it is checked, and told which of
    PEFT's layers go around quantized ones.
    """

    def __setitem__(self, name: str, config: Any) -> None:
        super().__setitem__(name, config)  # whoever fails takes it out again
        check_config(config)
        if is_lora(config):
            from dgq.adapters.layers import lora_layer

            config._register_custom_module({Reader: lora_layer})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dictionary, one by one."""
        for name, config in dict(*args, **kwargs).items():
            self[name] = config


class TakesAdapters(nn.Module):
    """Mixed into quantized UNets: adapters are put on as on stock ones, or refused in one line."""

    precision: torch.dtype | None

    @property
    def peft_config(self) -> Adapters:
        """Configurations of the adapters, by name; empty without any."""
        adapters: Adapters = self.__dict__.setdefault("_adapters", Adapters())
        return adapters

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
            DGQError: for an adapter that is no plain LoRA, or of another model.
        """
        before = set(self.peft_config)
        with putting_on(self):
            try:
                super().load_lora_adapter(source, *args, **kwargs)  # type: ignore[misc]
            except RuntimeError as error:
                if "size mismatch" not in str(error):
                    raise
                first = next(line for line in str(error).splitlines() if "size mismatch" in line)
                raise DGQError(f"this LoRA is of another model: {first.strip()}") from error
        for name in set(self.peft_config) - before:
            convert_adapter_(self, name, self.computes_in(torch.float32))

    def computes_in(self, given: torch.dtype) -> torch.dtype:
        """The precision of what is not quantized, for inputs of the given one."""
        raise NotImplementedError

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's where adapters are on layers that were kept.

        Raises:
            DGQError: where one is on a quantized layer.
        """
        if any(isinstance(layer.base_layer, Reader) for layer in adapted_layers(self).values()):
            raise refusal_to_fuse()
        super().fuse_lora(*args, **kwargs)  # type: ignore[misc]

    def enable_layerwise_casting(
        self,
        storage_dtype: torch.dtype = torch.float8_e4m3fn,
        compute_dtype: torch.dtype | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As the stock UNet's; it casts what is not quantized."""
        compute_dtype = compute_dtype or self.computes_in(torch.float32)
        super().enable_layerwise_casting(  # type: ignore[misc]
            storage_dtype, compute_dtype, *args, **kwargs
        )
        self.precision = compute_dtype

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock UNet's; its own precision is no conversion.

        diffusers asks for it, or for none, when it has added an IP-Adapter or saves a LoRA, and
        refuses to convert quantized models.
        """
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in (None, self.dtype) or layout is not None:
            return super().to(*args, **kwargs)
        if device is not None:
            super().to(device, non_blocking=non_blocking)
        return self

    def _load_ip_adapter_weights(self, *args: Any, **kwargs: Any) -> None:
        super()._load_ip_adapter_weights(*args, **kwargs)  # type: ignore[misc]
        processors = [getattr(module, "own_processor", None) for module in self.modules()]
        for added in (self.encoder_hid_proj, *processors):
            if isinstance(added, nn.Module):
                added.to(self.computes_in(torch.float32))

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
    """Takes off again what could not be put on; PEFT's warning of earlier adapters is muted."""
    before, loaded = set(unet.peft_config), unet._hf_peft_config_loaded
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            yield
    except BaseException:
        unet._hf_peft_config_loaded = loaded
        for name in set(unet.peft_config) - before:
            del unet.peft_config[name]
        take_off_(unet, before)
        raise


def take_off_(unet: nn.Module, but: Collection[str]) -> None:
    """Take all adapters off a UNet but those of some names."""
    for name, layer in adapted_layers(unet).items():
        for adapter in {key for group in groups_of(layer) for key in group} - set(but):
            layer.delete_adapter(adapter)
        if not any(len(group) for group in groups_of(layer)):
            unet.set_submodule(name, layer.base_layer)


def adapted_layers(unet: nn.Module) -> dict[str, Any]:
    """PEFT's layers in a UNet, by name."""
    return {name: m for name, m in unet.named_modules() if hasattr(m, "base_layer")}


def groups_of(layer: nn.Module) -> list[nn.ModuleDict]:
    """What one of PEFT's layers holds of its adapters, by their names."""
    return [m for m in layer.children() if isinstance(m, nn.ModuleDict)]


def convert_adapter_(unet: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Let the layers of one adapter compute in a precision."""
    for layer in adapted_layers(unet).values():
        for group in groups_of(layer):
            if name in group:
                group[name].to(dtype)
