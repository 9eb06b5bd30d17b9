"""LoRA on a quantized UNet: PEFT layers around ours, through the same methods as stock UNets."""

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

    PEFT adds a new configuration before it looks at the layers, so it is checked here, and told
    which PEFT layers wrap quantized ones.
    """

    def __setitem__(self, name: str, config: Any) -> None:
        super().__setitem__(name, config)  # whoever fails takes it out again
        check_config(config)
        if is_lora(config):
            from dgq.adapters.layers import lora_layer

            config._register_custom_module({Reader: lora_layer})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As ``dict.update``, one entry at a time."""
        for name, config in dict(*args, **kwargs).items():
            self[name] = config


class TakesAdapters(nn.Module):
    """Mixed into quantized UNets: adapters work as on stock ones, or are refused with one line."""

    precision: torch.dtype | None

    @property
    def peft_config(self) -> Adapters:
        """Configurations of the adapters, by name; empty if there are none."""
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
        """As the stock UNet's: adds a new adapter, to be trained.

        Raises:
            DGQError: for an adapter other than a plain LoRA.
        """
        check_config(adapter_config)
        with putting_on(self):
            super().add_adapter(adapter_config, adapter_name)  # type: ignore[misc]

    def load_lora_adapter(self, source: Any, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's; the adapter computes in the precision of the unquantized parts.

        Raises:
            DGQError: for an adapter other than a plain LoRA, or one of another model.
        """
        before = set(self.peft_config)
        with putting_on(self):
            try:
                super().load_lora_adapter(source, *args, **kwargs)  # type: ignore[misc]
            except RuntimeError as error:
                if "size mismatch" not in str(error):
                    raise
                first = next(line for line in str(error).splitlines() if "size mismatch" in line)
                raise DGQError(f"this LoRA was made for another model: {first.strip()}") from error
        for name in set(self.peft_config) - before:
            convert_adapter_(self, name, self.computes_in(torch.float32))

    def computes_in(self, given: torch.dtype) -> torch.dtype:
        """The precision of the unquantized parts, for inputs of a given precision."""
        raise NotImplementedError

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's, if adapters are only on unquantized layers.

        Raises:
            DGQError: if an adapter is on a quantized layer.
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
        """As the stock UNet's; casts the unquantized parts."""
        compute_dtype = compute_dtype or self.computes_in(torch.float32)
        super().enable_layerwise_casting(  # type: ignore[misc]
            storage_dtype, compute_dtype, *args, **kwargs
        )
        self.precision = compute_dtype

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock UNet's; converting it to its own precision does nothing.

        diffusers asks for this precision, or for none, after adding an IP-Adapter or when saving a
        LoRA, but refuses to convert quantized models.
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
        """As the stock UNet's; changes all processors or none.

        Raises:
            DGQError: for processors that would skip the quantization of scores.
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
    """Remove adapters again if adding them fails; mutes PEFT's warning of earlier ones."""
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
    """Remove all adapters from a UNet except those with these names."""
    for name, layer in adapted_layers(unet).items():
        for adapter in {key for group in groups_of(layer) for key in group} - set(but):
            layer.delete_adapter(adapter)
        if not any(len(group) for group in groups_of(layer)):
            unet.set_submodule(name, layer.base_layer)


def adapted_layers(unet: nn.Module) -> dict[str, Any]:
    """PEFT's layers in a UNet, by name."""
    return {name: m for name, m in unet.named_modules() if hasattr(m, "base_layer")}


def groups_of(layer: nn.Module) -> list[nn.ModuleDict]:
    """The modules of a PEFT layer that hold its adapters, each by adapter name."""
    return [m for m in layer.children() if isinstance(m, nn.ModuleDict)]


def convert_adapter_(unet: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Make the layers of one adapter compute in this precision."""
    for layer in adapted_layers(unet).values():
        for group in groups_of(layer):
            if name in group:
                group[name].to(dtype)
