"""How a quantized UNet runs here: which layers multiply integers, and why others do not."""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from dgq.errors import DGQError, SettingsError
from dgq.inference.build import check_tensors_
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer
from dgq.inference.laying_out import fold_layers_, lay_out_images_, unfold_layers_
from dgq.inference.layout import layout_of
from dgq.inference.products import Products, products_of
from dgq.torch_defaults import torch_defaults
from dgq.unet.attention import QuantizedAttention
from dgq.unet.calls import SamplerCalls
from dgq.unet.context import QuantizationContext

Mode = Literal["auto", "integer", "float"]
MODES = ("auto", "integer", "float")
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that the unquantized parts can have."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How the layers of a UNet run.

    Args:
        mode: the requested mode.
        integer_layers: layers that multiply integers.
        float_layers: layers that compute in floating point, by reason.
        dtype: dtype of the unquantized parts.
        attention: which kernel computes attention.
        features: relevant features of the device.
        device: CPU, GPU, or torch's name of another.
        asked_dtype: the requested dtype; empty for the device's default.
    """

    mode: Mode
    integer_layers: int
    float_layers: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    attention: str = "torch"
    features: tuple[str, ...] = ()
    device: str = "CPU"
    asked_dtype: str = ""

    @property
    def arithmetic(self) -> str:
        """What numerical results depend on, besides the model."""
        return f"{self.integer_layers} integer layers, {self.dtype}, attention by {self.attention}"

    def __str__(self) -> str:
        parts = [f"{self.integer_layers} layers multiply integers"]
        parts += [f"{n} in floating point ({reason})" for reason, n in self.float_layers.items()]
        return (
            f"{', '.join(parts)}; the rest in {self.dtype}, attention by {self.attention}; "
            f"{self.device}: {', '.join(self.features) or 'no fast integer products'}"
        )

    def run_in_float_(self, unet: nn.Module) -> None:
        """Switch a UNet to floating point for good, because its tensors are moved one by one."""
        n_layers = unfold_layers_(unet)
        # Offloading to disk takes contiguous tensors alone.
        lay_out_images_(unet, torch.contiguous_format)
        settle_norms_(unet, getattr(torch, self.dtype))
        reasons = self.float_layers | (
            {"tensors are moved one by one": n_layers} if n_layers else {}
        )
        unet.execution = replace(  # type: ignore[assignment]
            self, mode="float", integer_layers=0, float_layers=reasons, attention="torch"
        )
        unet.layout = layout_of(unet)  # type: ignore[assignment]

    def check(self, unet: nn.Module) -> None:
        """Raise DGQError unless a UNet's tensors, in their stored form, are valid."""
        check_tensors_(unet)

    def cast_(self, unet: nn.Module, dtype: torch.dtype) -> None:
        """Make a UNet compute in another precision, as if it had been loaded in it.

        Raises:
            SettingsError: for one that it cannot compute in.
        """
        check_precision(dtype)
        attention = settle_(unet, dtype, products_of(unet)[0], has_kernels(unet))
        name = name_of(dtype)
        unet.execution = replace(  # type: ignore[assignment]
            self, dtype=name, asked_dtype=name, attention=attention
        )

    def before_move_(self, unet: nn.Module) -> None:
        """Return a UNet to its stored form, before it is moved to another device as a whole."""
        unfold_layers_(unet)

    def after_move_(self, unet: nn.Module) -> None:
        """Make a UNet run as fast as the device it was moved to allows, whatever its mode."""
        if self.mode == "float":
            settle_norms_(unet, norm_dtype(unet, getattr(torch, self.dtype)))
            return
        dtype = getattr(torch, self.asked_dtype) if self.asked_dtype else None
        execution = replace(prepare_(unet, "auto", dtype), mode=self.mode)
        unet.execution = execution  # type: ignore[assignment]
        log.info("moved: %s", execution)


@torch_defaults()
def prepare_(unet: nn.Module, mode: Mode = "auto", dtype: torch.dtype | None = None) -> Execution:
    """Choose how a quantized UNet runs on its device, and lay its weights out, layer by layer.

    The result is also kept as ``unet.execution``.

    Args:
        unet: a loaded or frozen UNet, on the device where it will run.
        mode: ``integer``, ``float``, or ``auto``: integers where the device multiplies them
            exactly and fast.
        dtype: dtype of the unquantized parts; by default bfloat16 with integers where the
            device supports it, else float32. Norms stay in float32 on a CPU.

    Returns:
        How it runs.

    Raises:
        DGQError: if integers were requested and no layer can use them, or the UNet is stock or
            being calibrated.
    """
    check_mode(mode)
    check_precision(dtype)
    calls = getattr(unet, "calls", None)
    if not isinstance(calls, SamplerCalls) or isinstance(calls, QuantizationContext):
        raise DGQError(
            f"prepare_ takes a quantized UNet that was loaded, not a {type(unet).__name__} that is "
            "stock or being calibrated: save it with dgq.save, then dgq.load_quantized_unet"
        )
    products, obstacle = products_of(unet)
    obstacle = "asked for" if mode == "float" else obstacle
    if mode == "integer" and obstacle is not None:
        raise DGQError(f"execution integer: {obstacle}: use execution auto or float")
    unfold_layers_(unet)
    if obstacle is None:
        reasons = fold_layers_(unet, products)
    else:
        reasons = Counter({obstacle: sum(isinstance(m, FrozenLayer) for m in unet.modules())})
    n_integer = sum(isinstance(m, IntegerLayer) for m in unet.modules())
    if mode == "integer" and n_integer == 0:
        raise DGQError(f"execution integer: no layer can use integers ({', '.join(reasons)})")
    asked = "" if dtype is None else name_of(dtype)
    uses_kernels = has_kernels(unet)
    if dtype is None:
        dtype = products.best_dtype() if uses_kernels else torch.float32
    attention = settle_(unet, dtype, products, channels_last=uses_kernels)
    # Here rather than in the first call, or each compiled call would copy it from the host.
    calls.known_on(next(unet.parameters()).device)
    execution = Execution(
        *(mode, n_integer, dict(reasons), name_of(dtype), attention),
        *(products.features(), products.device, asked),
    )
    unet.execution, unet.layout = execution, layout_of(unet)  # type: ignore[assignment]
    return execution


def has_kernels(unet: nn.Module) -> bool:
    """Whether the weight of some layer is laid out for the kernels of a device."""
    return any(isinstance(module, KernelLayer) for module in unet.modules())


def check_mode(mode: Any) -> None:
    """Raise SettingsError unless ``mode`` is a mode of execution."""
    if mode not in MODES:
        raise SettingsError(f"execution must be one of {', '.join(MODES)}, got {mode!r}")


def check_precision(dtype: Any) -> None:
    """Raise SettingsError for a dtype that the unquantized parts cannot compute in."""
    if dtype is not None and dtype not in PRECISIONS:
        names = ", ".join(map(str, PRECISIONS))
        raise SettingsError(f"dtype must be one of {names}, got {dtype!r}")


def name_of(dtype: torch.dtype) -> str:
    """Torch's name of a dtype, without the module."""
    return str(dtype).removeprefix("torch.")


def settle_(unet: nn.Module, dtype: torch.dtype, products: Products, channels_last: bool) -> str:
    """Convert the unquantized parts (on a CPU all but the norms); lay images out channels last.

    Returns:
        Which kernel computes attention.
    """
    if channels_last:
        lay_out_images_(unet, torch.channels_last)
    name, attend = products.attention(dtype)
    if dtype == torch.float32 and unet.precision is None:
        return name
    unet.precision = dtype  # type: ignore[assignment]
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
        if isinstance(module, QuantizedAttention):
            module.attend = attend
    settle_norms_(unet, norm_dtype(unet, dtype))
    return name


def norm_dtype(unet: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Dtype of the norms' weights where the rest is in ``dtype``: float32 on a CPU."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in unet.parameters())
    return torch.float32 if on_cpu else dtype


def settle_norms_(unet: nn.Module, dtype: torch.dtype) -> None:
    """Convert the norms' weights: only a CPU can multiply them with inputs of another dtype.

    Norms accumulate in float32 everywhere.
    """
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.to(dtype)
