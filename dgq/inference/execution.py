"""How a quantized UNet runs here: which layers multiply integers, and why others do not."""

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn

from dgq.attention import QuantizedAttention
from dgq.errors import DGQError, SettingsError
from dgq.inference.input_quantizers import ChannelInput
from dgq.inference.integer_layer import IntegerLayer, fold
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.inference.live_input import LiveInput
from dgq.inference.live_layer import LiveLayer
from dgq.inference.products import Products, products_of
from dgq.inference.products.cpu import CpuProducts
from dgq.inference.residual_input import ResidualInput
from dgq.inference.residual_layer import ResidualLayer
from dgq.inference.weight_only_layer import WeightOnlyLayer
from dgq.ops.reference import attention as reference_attention
from dgq.shared_inputs import SHARED_INPUTS

Mode = Literal["auto", "integer", "float"]
MODES = ("auto", "integer", "float")
UNQUANTIZED = "activations in floating point"
CPU = CpuProducts()

log = logging.getLogger(__name__)

ADAPTED = ".base_layer"
"""What follows on the name of a layer that adapters are around."""


@dataclass(frozen=True)
class Execution:
    """What runs.

    Args:
        mode: that was asked for.
        integer_layers: layers that multiply integers.
        float_layers: by reason, layers that compute in floating point.
        dtype: of everything that is not quantized.
        attention: which kernel computes it.
        features: of the device, that matter.
        device: CPU or GPU.
        asked_dtype: that was asked for; empty for the device's choice.
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
        """What results depend on, beside the model."""
        return f"{self.integer_layers} integer layers, {self.dtype}, attention by {self.attention}"

    def __str__(self) -> str:
        parts = [f"{self.integer_layers} layers multiply integers"]
        parts += [f"{n} in floating point ({reason})" for reason, n in self.float_layers.items()]
        return (
            f"{', '.join(parts)}; the rest in {self.dtype}, attention by {self.attention}; "
            f"{self.device}: {', '.join(self.features) or 'no fast integer products'}"
        )

    def leave_(self, unet: nn.Module) -> None:
        """Let a UNet run in floating point from now on, since its tensors are moved one by one."""
        n_layers = unfold_layers_(unet)
        reasons = self.float_layers | (
            {"tensors are moved one by one": n_layers} if n_layers else {}
        )
        unet.execution = replace(  # type: ignore[assignment]
            self, mode="float", integer_layers=0, float_layers=reasons, attention="torch"
        )

    def depart_(self, unet: nn.Module) -> None:
        """Let a UNet take its stored form, before it is moved to another device as a whole."""
        unfold_layers_(unet)

    def arrive_(self, unet: nn.Module) -> None:
        """Let a UNet run as fast as the device can that it was moved to; nothing is refused."""
        if self.mode == "float":
            return
        dtype = getattr(torch, self.asked_dtype) if self.asked_dtype else None
        execution = replace(prepare_(unet, "auto", dtype), mode=self.mode)
        unet.execution = execution  # type: ignore[assignment]
        log.info("moved: %s", execution)


def prepare_(unet: nn.Module, mode: Mode = "auto", dtype: torch.dtype | None = None) -> Execution:
    """Let a quantized UNet run as fast as its device can; weights are laid out layer by layer.

    Args:
        unet: of inference modules, where it will run.
        mode: ``integer``, ``float``, or ``auto``: integers where the device multiplies them
            exactly and fast.
        dtype: of everything that is not quantized; by default bfloat16 with integers where the
            device computes in it, else float32. Norms stay in float32.

    Raises:
        DGQError: if integers are asked for and no layer can use them.
    """
    if mode not in MODES:
        raise SettingsError(f"execution must be one of {', '.join(MODES)}, got {mode!r}")
    unfold_layers_(unet)
    products, obstacle = products_of(unet)
    obstacle = "asked for" if mode == "float" else obstacle
    if mode == "integer" and obstacle is not None:
        raise DGQError(f"execution integer: {obstacle}: use execution auto or float")
    if obstacle is None:
        reasons = fold_layers_(unet, products)
    else:
        reasons = Counter({obstacle: sum(isinstance(m, FrozenLayer) for m in unet.modules())})
    n_integer = sum(isinstance(m, IntegerLayer) for m in unet.modules())
    if mode == "integer" and n_integer == 0:
        raise DGQError(f"execution integer: no layer can use integers ({', '.join(reasons)})")
    asked = "" if dtype is None else name_of(dtype)
    uses_kernels = any(isinstance(m, KernelLayer) for m in unet.modules())
    if dtype is None:
        dtype = products.best_dtype() if uses_kernels else torch.float32
    attention = settle_(unet, dtype, products, channels_last=uses_kernels)
    # Copied there by the first call, it would be a copy from the host in every compiled one.
    unet.calls.known_on(next(unet.parameters()).device)  # type: ignore[union-attr,operator]
    return Execution(
        *(mode, n_integer, dict(reasons), name_of(dtype), attention),
        *(products.features() if obstacle is None else CPU.features(), products.device, asked),
    )


def name_of(dtype: torch.dtype) -> str:
    """As torch calls it, without the module."""
    return str(dtype).removeprefix("torch.")


def fold_layers_(unet: nn.Module, products: Products) -> Counter[str]:
    """Replace every layer that can be one integer product; the reasons of the others, counted."""
    reasons: Counter[str] = Counter()
    owners = {n: m for n, m in unet.named_modules() if isinstance(m, QuantizedAttention)}
    for name, owner in owners.items():
        for quantizer, leaves in readers_of(owner).items():
            if quantizer is owner.context_quantizer and owner.keep_start_text:
                reasons["the start token in floating point"] += len(leaves)
                continue
            names = [under_adapters(unet, f"{name}.{leaf}") for leaf in leaves]
            reasons.update(fold_readers_(unet, products, quantizer, names))
    # By name: a list of modules would keep their codes in memory.
    names = [n for n, module in unet.named_modules() if isinstance(module, FrozenLayer)]
    for name in names:
        if name.removesuffix(ADAPTED).rpartition(".")[2] not in SHARED_INPUTS:
            layer = unet.get_submodule(name)
            assert isinstance(layer, FrozenLayer)
            reasons.update(fold_readers_(unet, products, layer.input_quantizer, [name]))
            del layer
    return reasons


def under_adapters(unet: nn.Module, name: str) -> str:
    """The name of a layer, which may have adapters around it."""
    return name + ADAPTED if hasattr(unet.get_submodule(name), "base_layer") else name


def unfold_layers_(unet: nn.Module) -> int:
    """Undo ``fold_layers_``: every layer takes back its stored form.

    Returns:
        How many layers multiplied integers.
    """
    names = [n for n, module in unet.named_modules() if isinstance(module, KernelLayer)]
    n_integer = 0
    for name in names:
        layer = unet.get_submodule(name)
        assert isinstance(layer, KernelLayer)
        n_integer += isinstance(layer, IntegerLayer)
        unet.set_submodule(name, layer.unfolded())
        del layer
    for module in unet.modules():
        if isinstance(module, ChannelInput):
            module.release_()
        if isinstance(module, QuantizedAttention):
            module.attend = reference_attention
    return n_integer


def readers_of(owner: QuantizedAttention) -> dict[nn.Module, tuple[str, ...]]:
    """The layers of an attention that read each of its quantized inputs."""
    if owner.context_quantizer is None:
        return {owner.input_quantizer: SHARED_INPUTS}
    return {owner.input_quantizer: SHARED_INPUTS[:1], owner.context_quantizer: SHARED_INPUTS[1:]}


def fold_readers_(
    unet: nn.Module, products: Products, quantizer: nn.Module | None, names: list[str]
) -> Counter[str]:
    """Replace the layers that read one quantized tensor, all or none; the reasons if not."""
    layers = [unet.get_submodule(name) for name in names]
    frozen = [layer for layer in layers if isinstance(layer, FrozenLayer)]
    if len(frozen) < len(layers):
        return Counter({"reads the same tensor as a kept layer": len(frozen)})
    obstacle = obstacle_of(quantizer, frozen)
    if obstacle == UNQUANTIZED:
        return Counter(lay_out_alone_(unet, products, name) for name in names)
    if obstacle is not None:
        return Counter({obstacle: len(frozen)})
    assert isinstance(quantizer, ChannelInput)
    channels = frozen[0].geometry.in_channels
    packed = [layer for layer in frozen if isinstance(layer, PackedLayer)]
    _, factor = quantizer.factors(channels)
    folded = [fold(layer, factor) for layer in packed]
    if any(weight is None for weight in folded):
        return Counter({"multiplied weights do not fit into 8 bits": len(frozen)})
    quantizer.prepare_(channels, products)
    quantizer.emits_codes = packed[0].input_quantizer is None
    for name, layer, weight in zip(names, packed, folded, strict=True):
        assert weight is not None
        kind = integer_kind(quantizer)
        unet.set_submodule(name, kind(layer, quantizer, weight, products).eval())
    return Counter()


def integer_kind(quantizer: ChannelInput) -> type[IntegerLayer]:
    """The layer that reads what a quantizer emits."""
    if isinstance(quantizer, ResidualInput):
        return ResidualLayer
    return LiveLayer if isinstance(quantizer, LiveInput) else IntegerLayer


def lay_out_alone_(unet: nn.Module, products: Products, name: str) -> str:
    """Lay out the weight of a layer whose activations are not quantized; what it does then."""
    layer = unet.get_submodule(name)
    assert isinstance(layer, PackedLayer)
    weight = products.weight_alone(layer)
    if weight is None:
        return UNQUANTIZED
    unet.set_submodule(name, WeightOnlyLayer(layer, weight).eval())
    return f"{UNQUANTIZED}, weights unpacked as they are multiplied"


def obstacle_of(quantizer: nn.Module | None, layers: list[FrozenLayer]) -> str | None:
    """Why layers that read one quantized tensor cannot multiply integers, if so."""
    if not all(isinstance(layer, PackedLayer) for layer in layers):
        return "weights in floating point"
    if quantizer is None or isinstance(quantizer, nn.Identity):
        return UNQUANTIZED
    if not isinstance(quantizer, ChannelInput):
        return "k-means groups need an integer product each, which is slower"
    if any(layer.geometry.pads for layer in layers) and not quantizer.has_code_of_zero():
        return "zeros around the image have no code"
    return None


def settle_(unet: nn.Module, dtype: torch.dtype, products: Products, channels_last: bool) -> str:
    """Convert what is not quantized, but for the norms; lay images out by pixels.

    Returns:
        Who computes attention.
    """
    if channels_last:
        nn.Module.to(unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
    name, attend = products.attention(dtype)
    if dtype == torch.float32 and unet.precision is None:
        return name
    unet.precision = dtype  # type: ignore[assignment]
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
        if isinstance(module, QuantizedAttention):
            module.attend = attend
    return name
