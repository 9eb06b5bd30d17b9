"""Buffers whose shape is known only from data or from a checkpoint."""

from typing import Any

import torch
from torch import Tensor, nn


class SizedByCheckpoint(nn.Module):
    """A module whose buffers take shape and dtype from the loaded state dict.

    The numbers of channels, pixels and groups follow from the calibration data. This way a
    checkpoint loads strictly, without a forward pass that sizes the buffers first.
    """

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if saved is not None and buffer is not None:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
