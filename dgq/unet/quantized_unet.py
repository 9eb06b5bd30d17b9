"""A quantized UNet: what it does differently from the stock one.

A UNet becomes quantized in place: its class changes to one that derives from the stock class and
has the same name, so that diffusers handles it as before, in pipelines and on disk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from dgq.adapters.adapters import TakesAdapters
from dgq.errors import DGQError
from dgq.storage.manifest import QUANTIZATION
from dgq.unet.arguments import check_not_empty, converted, returned, spoilt
from dgq.unet.calls import SamplerCalls, timestep_tensor
from dgq.unet.checkpointing import checkpoint_at_step, plain_checkpoint
from dgq.unet.compiling import Compiles, check_at_each_call
from dgq.unet.devices import dtype_after, moves
from dgq.unet.own_forward import AtItsStep
from dgq.unet.stock_state import HasParts
from dgq.unet.stored_whole import StoredWhole


class QuantizedUNet(TakesAdapters, StoredWhole, HasParts, Compiles):
    """Mixed into the class of a stock UNet by ``become_quantized_``."""

    calls: SamplerCalls
    precision: torch.dtype | None = None
    """Dtype that it computes in if the first layer does not tell; by default that of its inputs."""

    def forward(self, sample: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any) -> Any:
        """As the stock UNet's; quantizers read the step of this call.

        If the UNet computes in another precision than that of its inputs, these are converted, and
        the output is converted back.
        """
        check_not_empty((sample, args, kwargs))
        if torch.compiler.is_compiling():
            check_at_each_call(self.layout)
        given = sample.dtype
        own = self.computes_in(given)
        if given != own:
            sample = sample.to(own)
            args, kwargs = converted(args, own), converted(kwargs, own)
        before = self.calls.begin(sample, timestep)
        call = self.calls.current
        try:
            output = super().forward(sample, timestep, *args, **kwargs)
            self.calls.end()
        finally:
            self.calls.current = before
        if self.execution is not None:
            time = timestep_tensor(timestep, sample.device)
            met = None if call is None else call.spoilt
            output = spoilt(output, (sample, time, met, args, kwargs))
        return output if given == own else returned(output, given)

    def computes_in(self, given: torch.dtype) -> torch.dtype:
        """The precision of what is not quantized, for inputs of the given one."""
        first = self.conv_in
        dtype = first.weight.dtype if isinstance(first, nn.Conv2d) else None
        # Layerwise casting keeps weights in 8 bits between calls.
        return dtype if dtype is not None and dtype.itemsize > 1 else self.precision or given

    def enable_gradient_checkpointing(
        self, gradient_checkpointing_func: Callable[..., Any] | None = None
    ) -> None:
        """As the stock UNet's; blocks that run again do so at the step of their call."""
        inner = gradient_checkpointing_func or plain_checkpoint
        outer = partial(checkpoint_at_step, self.calls, inner)
        super().enable_gradient_checkpointing(outer)  # type: ignore[misc]

    def set_default_attn_processor(self) -> None:
        """As the stock UNet's: quantized attention computes by itself again."""
        self.set_attn_processor(AttnProcessor())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.execution is None:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        dtype, moved = dtype_after(fn), moves(fn, next(self.parameters()))
        if dtype is not None:
            self.execution.cast_(self, dtype)
        if not moved:
            # Cast already; a second cast would round the norms, which stay in float32 on a CPU.
            return self if dtype else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        execution = self.execution
        execution.before_move_(self)
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        execution.after_move_(self)
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        # accelerate's hooks and diffusers' group offloading move tensors one by one.
        if name == "_hf_hook" and self.execution is not None:
            self.execution.run_in_float_(self)
        if name == "forward" and not isinstance(value, AtItsStep):
            value = AtItsStep(self.calls, value)
        super().__setattr__(name, value)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's; in floating point, since tensors are moved one by one."""
        if self.execution is not None:
            self.execution.run_in_float_(self)
        super().enable_group_offload(*args, **kwargs)  # type: ignore[misc]

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As the stock UNet's while it is calibrated; what is stored is not trained.

        Raises:
            DGQError: if a UNet that runs is to be trained.
        """
        if requires_grad and self.execution is not None:
            raise DGQError(
                "codes and scales are not trained: put an adapter on the UNet and train that "
                "(unet.add_adapter), or dgq.dequantize it first"
            )
        return super().requires_grad_(requires_grad)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and copy by the stock class, which has a name that can be looked up."""
        return (_rebuild, (_stock(type(self)),), self.__getstate__())  # type: ignore[no-untyped-call]


def become_quantized_(unet: nn.Module, calls: SamplerCalls) -> None:
    """Turn a stock UNet into a quantized one whose quantizers share ``calls``."""
    unet.calls = calls  # type: ignore[assignment]
    if isinstance(unet, QuantizedUNet):
        return
    unet.__class__ = _quantized(type(unet))
    functions = {
        getattr(module, "_gradient_checkpointing_func", None)
        for module in unet.modules()
        if getattr(module, "gradient_checkpointing", False)
    }
    for function in functions:  # one, where gradient checkpointing is on
        cast(QuantizedUNet, unet).enable_gradient_checkpointing(function)


def become_stock_(unet: QuantizedUNet) -> None:
    """Turn a quantized UNet, whose layers are stock by now, back into what it was."""
    stock: nn.Module = unet
    adapters = unet.__dict__.pop("_adapters", None)
    stock.__class__ = _stock(type(unet))
    if adapters:
        stock.peft_config = dict(adapters)  # type: ignore[assignment]
    for name in (
        "calls",
        "execution",
        "layout",
        "precision",
        "hf_quantizer",
        "quantization_method",
    ):
        unet.__dict__.pop(name, None)
    unet.is_quantized = False
    config: Any = unet.config
    unet._internal_dict = FrozenDict({k: v for k, v in config.items() if k != QUANTIZATION})


_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {}
"""The quantized class of each stock class: made once, so that copies are of one class."""


def _quantized(stock: type[nn.Module]) -> type[nn.Module]:
    if stock not in _QUANTIZED:
        names = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
        _QUANTIZED[stock] = type(stock.__name__, (QuantizedUNet, stock), names)
    return _QUANTIZED[stock]


def _stock(quantized: type) -> type[nn.Module]:
    """The class that a quantized UNet had before."""
    return quantized.__bases__[-1]


def _rebuild(stock: type[nn.Module]) -> nn.Module:
    quantized = _quantized(stock)
    return quantized.__new__(quantized)
