"""How much memory the samples waiting at a target take, computed before any work."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.calibration.host_memory import free_host_bytes
from dgq.calibration.samples import Amount
from dgq.errors import DGQError
from dgq.recipes.recipe import Recipe
from dgq.settings import WaitingSettings
from dgq.streams.streaming import Stream
from dgq.streams.waiting import StayingPut
from dgq.targets import execution_order
from dgq.unet.call_rows import to_device
from dgq.unet.configuration import building
from dgq.unet.context import QuantizationContext
from dgq.unet.quantized_unet import become_quantized_

USABLE = 0.9
"""Fraction of the free memory that samples may take."""

STREAMS = 2
"""Streams that each sample waits in: full precision, and as quantized so far."""


class WaitingBytes(StayingPut):
    """Counts the bytes of the tensors that wait, and keeps the largest total.

    Args:
        owner: module whose parameters and buffers do not wait.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        own = [*owner.parameters(), *owner.buffers()]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self.n_bytes = 0

    def park(self, tensors: Iterable[Tensor]) -> None:
        """Add up the tensors waiting at one moment, each storage once."""
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
        now = sum(n for place, n in storages.items() if place not in self._own)
        self.n_bytes = max(self.n_bytes, now)


@torch.no_grad()
def waiting_bytes(
    unet: UNet2DConditionModel,
    recipe: Recipe,
    call: Mapping[str, Any],
    latent_size: tuple[int, int],
) -> int:
    """The most bytes that the tensors of one call hold at any target, in one stream.

    Computed on a copy without values, on the meta device.

    Args:
        unet: a stock UNet.
        recipe: recipe of the calibration.
        call: call of one row.
        latent_size: size of its latents.
    """
    with init_empty_weights(include_buffers=True):
        empty = UNet2DConditionModel.from_config(building(unet.config)).eval()
    # Streams need the context of a quantized UNet; its layers may stay as they are.
    # Timesteps have no values on the meta device, so that none can be compared.
    context = QuantizationContext((0.0,), latent_size, warns=False)
    become_quantized_(empty, context)
    arguments = to_device(dict(call), torch.device("meta"))
    targets = recipe.targets(empty)
    order = execution_order(empty, targets, arguments)
    counter = WaitingBytes(empty)
    with Stream(empty, {n: targets[n] for n in order}, [arguments], iter([counter])) as stream:
        while stream.advance() is not None:
            pass
    return counter.n_bytes


def check_waiting_memory(
    unet: UNet2DConditionModel,
    recipe: Recipe,
    call: Mapping[str, Any],
    amount: Amount,
    waiting: WaitingSettings,
) -> None:
    """Raise DGQError if the samples do not fit where they will wait.

    Args:
        unet: a stock UNet, on its device.
        recipe: recipe of the calibration.
        call: call of one row.
        amount: numbers of all samples that wait.
        waiting: where they wait.
    """
    n_rows = (amount.n_samples + amount.n_held_out) * amount.n_rows
    height, width = call["sample"].shape[-2:]
    each = STREAMS * waiting_bytes(unet, recipe, call, (height, width))
    each = each if waiting.dtype == "same" else each // 2
    free = USABLE * free_bytes(waiting, unet.device)
    if n_rows * each <= free:
        return
    fitting = max(1, int(free / each / amount.n_rows) - amount.n_held_out)
    raise DGQError(
        f"the samples that wait at a target would take {n_rows * each / 2**30:.1f} GiB of "
        f"{free / 2**30:.1f} ({n_rows} rows of {each / 2**20:.1f} MiB): set n_samples to {fitting} "
        'or fewer, or waiting=dgq.WaitingSettings("disk", "float16")'
    )


def free_bytes(waiting: WaitingSettings, device: torch.device) -> int:
    """Free bytes where samples wait."""
    if waiting.place == "disk":
        return shutil.disk_usage(waiting.folder or Path(tempfile.gettempdir())).free
    if waiting.place == "device" and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_bytes()
