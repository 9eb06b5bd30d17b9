"""What a quantized UNet does differently from the stock one it was: it notes each call.

A UNet becomes quantized in place, as a class of its own that derives from the stock class and bears
its name: for diffusers it stays what it was, in pipelines and on disk.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dgq.adapters.adapters import TakesAdapters
from dgq.errors import DGQError
from dgq.storage.files import check_writable, checked_path
from dgq.storage.manifest import QUANTIZATION
from dgq.storage.model_files import written_as_whole
from dgq.unet.calls import SamplerCall, SamplerCalls
from dgq.unet.devices import moves
from dgq.unet.stock_state import HasParts


class Execution(Protocol):
    """How a quantized UNet runs (``dgq.inference.execution``)."""

    integer_layers: int
    """Layers that multiply integers."""

    def run_in_float_(self, unet: nn.Module) -> None:
        """Let it run in floating point from now on, since its tensors are moved one by one."""

    def check(self, unet: nn.Module) -> None:
        """Raise DGQError unless its tensors, in their stored form, can be those of a model."""

    def before_move_(self, unet: nn.Module) -> None:
        """Let it take its stored form, before it is moved to another device as a whole."""

    def after_move_(self, unet: nn.Module) -> None:
        """Let it run as fast as the device can that it was moved to."""


class Quantizer(Protocol):
    """Who loads and saves a quantized UNet (``dgq.storage.diffusers_quantizer``)."""

    def describe(self, unet: nn.Module) -> None:
        """Seal the description that is about to be saved; raise DGQError if it cannot be."""

    def write_card(self, unet: nn.Module, folder: Path, repo_id: str) -> None:
        """Put the model card into a folder that was saved and is about to be uploaded."""


class QuantizedUNet(TakesAdapters, HasParts):
    """Mixed into the class of a stock UNet by ``become_quantized_``."""

    calls: SamplerCalls
    precision: torch.dtype | None = None
    """What it computes in, where the first layer does not tell; that of its inputs by default."""
    execution: Execution | None = None
    """How it runs here; None while it is being calibrated."""
    hf_quantizer: Quantizer | None = None
    """By which diffusers knows that it is quantized; None while it is being calibrated."""

    def forward(self, sample: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any) -> Any:
        """As the stock UNet's; its quantizers read the step of this very call.

        Where the UNet computes in another precision than its inputs have, they are converted, and
        the output is converted back.
        """
        check_not_empty((sample, args, kwargs))
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
        if self.execution is not None and self.execution.integer_layers > 0:
            time = torch.as_tensor(timestep, device=sample.device)
            met = None if call is None else call.spoilt
            output = _spoilt(output, (sample, time, met, args, kwargs))
        return output if given == own else _returned(output, given)

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
        inner = gradient_checkpointing_func or _checkpoint
        outer = partial(_checkpoint_at_step, self, inner)
        super().enable_gradient_checkpointing(outer)  # type: ignore[misc]

    def set_default_attn_processor(self) -> None:
        """As the stock UNet's: quantized attention stays what it is."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        execution = self.execution
        if execution is None or not moves(fn, next(self.parameters())):
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        execution.before_move_(self)
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        execution.after_move_(self)
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        # accelerate's hooks and diffusers' group offloading move tensors one by one.
        if name == "_hf_hook" and self.execution is not None:
            self.execution.run_in_float_(self)
        super().__setattr__(name, value)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As the stock UNet's; in floating point, since tensors are moved one by one."""
        if self.execution is not None:
            self.execution.run_in_float_(self)
        super().enable_group_offload(*args, **kwargs)  # type: ignore[misc]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As the stock UNet's, of what ``state_dict`` returned; laid out anew for the device.

        Raises:
            DGQError: for the tensors of another UNet; this one is then as it was.
        """
        execution = self.execution
        if execution is None or not _holds_stored(self, state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        execution.before_move_(self)
        before = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        try:
            check_whole(self, state_dict)
            found = super().load_state_dict(state_dict, strict, assign)
            execution.check(self)
        except (RuntimeError, DGQError) as error:
            super().load_state_dict(before)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{lines[1 if lines[1:] else 0]:.200}"
            raise DGQError(f"the state dict is not of this quantized UNet: {reason}") from error
        finally:
            execution.after_move_(self)
        return found

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

    @wraps(ModelMixin.save_pretrained)
    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """As the stock UNet's, sealed; files take the place of earlier ones when all are written.

        Raises:
            DGQError: if the calibration has not finished, an adapter is on it, or there is no
                folder of that name and none can be made.
        """
        if self.hf_quantizer is None:
            raise DGQError("this UNet is being calibrated: write it with dgq.save")
        folder = checked_path(save_directory, "save_pretrained")
        check_writable(folder, "the folder")
        self.hf_quantizer.describe(self)
        kwargs.setdefault("repo_id", folder.name)
        with written_as_whole(folder) as beside:
            super().save_pretrained(str(beside), *args, **kwargs)  # type: ignore[misc]

    def _upload_folder(
        self, working_dir: str | os.PathLike[str], repo_id: str, **kwargs: Any
    ) -> Any:
        # Both ways to the hub come by here, with a card that says nothing of this model.
        if self.hf_quantizer is not None and not kwargs.get("subfolder"):
            self.hf_quantizer.write_card(self, Path(working_dir), repo_id)
        return super()._upload_folder(working_dir, repo_id, **kwargs)  # type: ignore[misc]

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
    for name in ("calls", "execution", "precision", "hf_quantizer", "quantization_method"):
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


def _checkpoint(module: nn.Module, *args: Any) -> Any:
    return checkpoint(module.__call__, *args, use_reentrant=False)


def _checkpoint_at_step(
    unet: QuantizedUNet, inner: Callable[..., Any], module: nn.Module, *args: Any
) -> Any:
    return inner(_AtStep(unet.calls, unet.calls.current, module), *args)


class _AtStep:
    """A module that always runs as in the call it was met in."""

    def __init__(self, calls: SamplerCalls, call: SamplerCall | None, module: nn.Module) -> None:
        self._calls, self._call, self._module = calls, call, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = self._calls.current
        self._calls.current = self._call
        try:
            return self._module(*args, **kwargs)
        finally:
            self._calls.current = before


def _holds_stored(unet: nn.Module, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict has tensors of a quantized layer, and not of adapters alone."""
    owners = stored_of(unet)
    return any(name.rpartition(".")[0] in owners for name in state_dict)


def stored_of(unet: nn.Module) -> dict[str, set[str]]:
    """Names of what the modules of a quantized UNet store, by the module's name."""
    return {n: set(m.stored) for n, m in unet.named_modules() if hasattr(m, "stored")}


def check_whole(unet: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Raise DGQError unless modules get all that they store, or none of it.

    Args:
        unet: in its stored form.
        state_dict: to be loaded.
    """
    given: dict[str, set[str]] = {}
    for name in state_dict:
        owner, _, leaf = name.rpartition(".")
        given.setdefault(owner, set()).add(leaf)
    for owner, expected in stored_of(unet).items():
        found = given.get(owner, expected)
        if found != expected:
            odd = min(found ^ expected)
            how = "does not belong there" if odd in found else "is missing"
            raise DGQError(f"{owner}.{odd} {how}")


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Nested arguments with floating-point tensors of a type; sizes stay as exact as they are."""
    if isinstance(value, Mapping):
        return {k: v if k == "time_ids" else converted(v, dtype) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(converted(item, dtype) for item in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value


def _spoilt(output: Any, inputs: Any) -> Any:
    """What a UNet returns, NaN in samples of which one of these is not finite.

    Codes of NaN are numbers like others: without it, a pipeline that has overflowed would draw a
    plausible picture. Nothing waits for the device.

    Args:
        output: of the UNet.
        inputs: of the UNet, and what quantizers have noted of NaNs that arose inside.
    """
    image = output[0] if isinstance(output, tuple) else output.sample
    for x in filter(Tensor.is_floating_point, _tensors(inputs)):
        of_each = x.ndim > 0 and x.shape[0] == image.shape[0]
        by_sample = x.reshape(x.shape[0] if of_each else 1, -1)
        image = image + (by_sample * 0).sum(1).view(-1, 1, 1, 1).to(image.dtype)
    return (image, *output[1:]) if isinstance(output, tuple) else type(output)(sample=image)


def check_not_empty(inputs: Any) -> None:
    """Raise DGQError for a batch of nothing or a text without words, which kernels cannot read."""
    for x in _tensors(inputs):
        if x.numel() == 0:
            raise DGQError(
                f"the UNet is called with an empty tensor, {list(x.shape)}: expected at least one "
                "sample, and at least one token of text"
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _returned(output: Any, dtype: torch.dtype) -> Any:
    """What a UNet returns, a tuple or an output with ``sample``, in the caller's precision."""
    if isinstance(output, tuple):
        return converted(output, dtype)
    return type(output)(sample=output.sample.to(dtype))
