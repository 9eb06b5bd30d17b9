"""The ``quantization_config`` of a quantized UNet, as diffusers holds it."""

import copy
from enum import StrEnum
from typing import Any

from diffusers import ModelMixin
from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from dgq.errors import DGQError
from dgq.storage.manifest import METHOD, QUANTIZATION


class Method(StrEnum):
    """The name by which a configuration identifies its loader."""

    DGQ = METHOD


class DGQConfig(QuantizationConfigMixin):
    """The ``quantization_config`` in ``config.json``; see ``dgq.storage.manifest.Manifest``.

    Args:
        quant_method: always ``dgq``.
        described: all other entries.
    """

    def __init__(self, quant_method: str = METHOD, **described: Any) -> None:
        if quant_method != METHOD:
            raise DGQError(f"quant_method is {quant_method!r}: a DGQConfig has {METHOD!r}")
        self.quant_method = Method.DGQ
        self.described = described

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it is stored."""
        return {"quant_method": METHOD, **copy.deepcopy(self.described)}

    def to_diff_dict(self) -> dict[str, Any]:
        """The configuration as it is shown."""
        return self.to_dict()


def config_of(model: ModelMixin) -> dict[str, Any]:
    """The content of the ``config.json`` of a quantized model."""
    config = dict(model.config)
    quantization = config[QUANTIZATION]
    if isinstance(quantization, DGQConfig):
        config[QUANTIZATION] = quantization.to_dict()
    return config
