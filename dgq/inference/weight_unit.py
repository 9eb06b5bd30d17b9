"""Weights of a module's layers that are unpacked together when the module starts.

On a GPU, a launch for each layer takes longer than the unpacking. While the module runs, each
weight knows where it was unpacked to; a layer called outside of the module unpacks its own weight.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.joint_product import JointProduct
from dgq.inference.products.gpu_weights import NibbleWeight
from dgq.inference.products.products import ProductWeight
from dgq.ops import unpack_all
from dgq.ops.packed_together import PackedTogether, can_be_together, together
from dgq.unet.compiling import LaidOut
from dgq.unet.geometry import ConvGeometry

MOST_BYTES = 48 * 2**20
"""Largest unit, in unpacked bytes: about what an H200's cache of 50 MiB holds."""

LEAST_WEIGHTS = 2
"""Fewest weights of a unit: a single one gains nothing."""

Parts = Sequence[tuple[NibbleWeight, slice]]
"""Weights that are rows of a joint one."""


class WeightUnit(LaidOut):
    """Weights that are unpacked together; never changed, so copies of a UNet share it.

    Args:
        weights: each with the weights that are its rows; they become views of common memory.
        group_size: group size of all weights that have groups.
    """

    def __init__(self, weights: Sequence[tuple[NibbleWeight, Parts]], group_size: int) -> None:
        self.packed: PackedTogether = together([weight.packed for weight, _ in weights], group_size)
        self.weights = [(weight, tuple(parts)) for weight, parts in weights]
        self.offsets: list[int] = []
        for (weight, parts), (offset, packed) in zip(weights, self.packed.parts(), strict=True):
            self.offsets.append(offset)
            weight.packed = packed
            for part, rows in parts:
                part.packed = packed.rows(rows)

    def begin(self, module: nn.Module, arguments: Any) -> None:
        """Unpack all weights: a forward pre-hook of the module."""
        whole = unpack_all(*self.packed)
        for (weight, parts), offset in zip(self.weights, self.offsets, strict=True):
            unpacked = as_operand(whole, offset, weight)
            weight.unpacked = unpacked
            for part, rows in parts:
                part.unpacked = unpacked[rows]

    def end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Release the unpacked weights: a forward hook of the module."""
        for weight, parts in self.weights:
            weight.unpacked = None
            for part, _ in parts:
                part.unpacked = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightUnit":
        return self


def as_operand(whole: Tensor, offset: int, weight: NibbleWeight) -> Tensor:
    """View of the int8 weight at an offset, as the operators of byte weights read it."""
    rows, channels, *kernel = weight.geometry.weight_shape
    taps = weight.packed.codes.shape[1]
    lines = whole[offset : offset + rows * taps * channels]
    if not isinstance(weight.geometry, ConvGeometry):
        return lines.view(rows, channels)
    return lines.view(rows, *kernel, channels).permute(0, 3, 1, 2)


def unite_(unet: nn.Module) -> None:
    """Make the layers of each part of a UNet unpack their weights together, where kernels can.

    A part is the largest module that fits: a block, or else a residual block or a transformer.
    """
    packed = [weight.packed for weight, _ in weights_of(unet)]
    sizes = Counter(weight.group_size for weight in packed if weight.shift is not None)
    del packed
    group_size = sizes.most_common(1)[0][0] if sizes else 0
    for module, weights in [*parts_of(unet, group_size)]:
        unit = WeightUnit(weights, group_size)
        module.register_forward_pre_hook(unit.begin)
        module.register_forward_hook(unit.end, always_call=True)


def separate_(unet: nn.Module) -> None:
    """Undo ``unite_``: each layer unpacks its weight alone."""
    for module in unet.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if unit_behind(hook) is not None]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def unit_of(module: nn.Module) -> WeightUnit | None:
    """The unit whose weights are unpacked when a module starts, if any."""
    return next(filter(None, map(unit_behind, module._forward_pre_hooks.values())), None)


def unit_behind(hook: Any) -> WeightUnit | None:
    """The unit that a hook belongs to, if any."""
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, WeightUnit) else None


def parts_of(
    module: nn.Module, group_size: int
) -> Iterator[tuple[nn.Module, list[tuple[NibbleWeight, Parts]]]]:
    """The largest submodules whose weights fit into a unit, with those weights."""
    for child in module.children():
        weights = [
            (weight, parts) for weight, parts in weights_of(child) if suits(weight, group_size)
        ]
        if len(weights) < LEAST_WEIGHTS:
            continue
        n_bytes = sum(2 * weight.packed.codes.numel() for weight, _ in weights)
        if n_bytes <= MOST_BYTES and not isinstance(child, nn.ModuleList):  # lists are never called
            yield child, weights
        else:
            yield from parts_of(child, group_size)


def weights_of(module: nn.Module) -> list[tuple[NibbleWeight, Parts]]:
    """Packed weights of a module's integer layers; joint ones once."""
    found: dict[int, tuple[NibbleWeight, Parts]] = {}
    for layer in module.modules():
        if not isinstance(layer, IntegerLayer):
            continue
        weight, joint = layer.kernel_weight, layer.joint
        parts: list[tuple[ProductWeight, slice]] = []
        if isinstance(joint, JointProduct):
            weight, parts = joint.weight, [*zip(joint.parts, joint.places, strict=True)]
        if isinstance(weight, NibbleWeight):
            of_rows = [(part, rows) for part, rows in parts if isinstance(part, NibbleWeight)]
            found[id(weight)] = (weight, of_rows)
    return [*found.values()]


def suits(weight: NibbleWeight, group_size: int) -> bool:
    """Whether a weight is multiplied as bytes, and can be unpacked with others."""
    whole = weight.copies_boxes and weight.window[-1] == 1
    return whole and can_be_together(weight.packed, weight.channels, group_size)
