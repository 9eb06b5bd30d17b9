"""Memory that a quantized UNet holds on a GPU, counted on a CPU.

    python benchmarks/gpu_memory.py [--model sd14] [--steps 25] [--flat] [--json PATH]

Random codes are laid out as for a GPU, and each storage is counted once, rounded up as by CUDA's
allocator. Other memory of the allocator, for other libraries or between tensors, is not counted:
only a GPU can measure it. Takes half a minute and 2 GiB for SD 1.4's size.

Biases and zero points have a row for each sampler step (``--steps``): SDXL-turbo takes 4.

``--flat`` counts a UNet in which all groups of weights have the same range, so that their exponents
are 0 and kernels get none. Such a UNet was measured on an H200 on 2026-11-27.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.inference.full_size import SETTINGS, TIMESTEPS
from benchmarks.unet_configs import SD14, SDXL_TURBO, TINY
from dgq.inference.build import build_, check_tensors_
from dgq.inference.channel_input import ChannelInput
from dgq.inference.execution import settle_, settle_norms_
from dgq.inference.layers import PackedLayer
from dgq.inference.laying_out import fold_layers_
from dgq.inference.products.gpu import GpuProducts
from dgq.inspection.memory import Held, held_by
from dgq.settings import QuantizationSettings
from dgq.storage.files import write_json

CONFIGS: dict[str, dict[str, Any]] = {"sd14": SD14, "sdxl": SDXL_TURBO, "tiny": TINY}
ROUNDED = 512
"""CUDA's allocator rounds up to multiples of this number of bytes."""


class Hopper(GpuProducts):
    """Products of a GPU with a copy engine, on CPU tensors."""

    copies_boxes = True


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=list(CONFIGS), default="sd14", help="size and structure")
    parser.add_argument(
        "--steps",
        type=int,
        choices=range(1, len(TIMESTEPS) + 1),
        default=len(TIMESTEPS),
        metavar="N",
        help=f"sampler steps, 1 to {len(TIMESTEPS)} (default: {len(TIMESTEPS)})",
    )
    parser.add_argument("--flat", action="store_true", help="set all exponents of weights to 0")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(argv)
    figures = count(CONFIGS[options.model], options.flat, options.steps)
    if options.json:
        write_json(options.json, figures)
    show(figures, Console())


@torch.no_grad()
def count(
    config: dict[str, Any], flat: bool = False, steps: int = len(TIMESTEPS)
) -> dict[str, Any]:
    """Bytes of a ``w4a8`` UNet by kinds of tensors, and of a stock one in bfloat16.

    Args:
        config: configuration of the UNet.
        flat: whether all exponents of weights are 0.
        steps: number of sampler steps.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).requires_grad_(False).eval()
    stock = sum(rounded(2 * parameter.numel()) for parameter in unet.parameters())
    size = config["sample_size"]
    fill_randomly_(unet, SETTINGS, TIMESTEPS[:steps], (size, size), flat)
    prepare_for_gpu_(unet)
    kinds = by_kind(held_by(unet))
    total = sum(kind["bytes"] for kind in kinds)
    return {"kinds": kinds, "bytes": total, "bytes_of_bf16": stock, "ratio": total / stock}


def fill_randomly_(
    unet: nn.Module,
    settings: QuantizationSettings,
    timesteps: Sequence[float],
    latent_size: tuple[int, int],
    flat: bool,
) -> None:
    """Quantize a UNet on the meta device, with random codes, zero points and exponents.

    Args:
        unet: stock UNet.
        settings: what is quantized and how.
        timesteps: the scheduler's values that scales exist for.
        latent_size: height and width of the latents.
        flat: whether all exponents are 0.
    """
    build_(unet, settings, timesteps, latent_size)
    generator = torch.Generator().manual_seed(0)
    for module in unet.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            drawn = torch.zeros(shape_of(module, name, len(timesteps)) or tensor.shape)
            if isinstance(module, ChannelInput | PackedLayer):
                low, high = (0, 0) if flat and name == "exponent" else limits_of(module, name)
                drawn.random_(low, high + 1, generator=generator)
            setattr(module, name, nn.Parameter(drawn.to(tensor.dtype), requires_grad=False))
    check_tensors_(unet)


def shape_of(module: nn.Module, name: str, steps: int) -> tuple[int, ...] | None:
    """Shape of a table whose size comes from a file; None for other tensors."""
    if not isinstance(module, ChannelInput):
        return None
    channels = module.channels
    return {"scale": (steps,), "zero_point": (steps, channels), "multiple": (channels,)}[name]


def limits_of(module: ChannelInput | PackedLayer, name: str) -> tuple[int, int]:
    """The smallest and the largest random value of a tensor."""
    if isinstance(module, ChannelInput):
        return {"scale": (1, 1), "zero_point": (0, module.largest), "multiple": (1, 2)}[name]
    largest = 2**module.weight_bits - 1
    exponent = (0, module.settings.max_exponent)
    limits = {"codes": (0, 255), "exponent": exponent, "zero_point": (0, largest)}
    return limits.get(name, (1, 1))


def prepare_for_gpu_(unet: nn.Module) -> None:
    """Lay a UNet out as on a GPU, with the unquantized parts in bfloat16."""
    products = Hopper(torch.device("cpu"))
    fold_layers_(unet, products)
    settle_(unet, torch.bfloat16, products, channels_last=True)
    settle_norms_(unet, torch.bfloat16)


def by_kind(held: Iterable[Held]) -> list[dict[str, Any]]:
    """Add up storages of the same name in modules of the same class, largest first."""
    kinds: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in held:
        kind = kinds.setdefault(one[:3], {**one._asdict(), "storages": 0, "bytes": 0})
        kind.pop("n_bytes", None)
        kind["storages"] += 1
        kind["bytes"] += rounded(one.n_bytes)
    return sorted(kinds.values(), key=lambda kind: -kind["bytes"])


def rounded(n_bytes: int) -> int:
    """Bytes, rounded up as CUDA's allocator does."""
    return -(-n_bytes // ROUNDED) * ROUNDED


def show(figures: dict[str, Any], console: Console) -> None:
    """Print a table."""
    table = Table("of", "tensor", "type")
    for header in ("storages", "MB", "% of bf16"):
        table.add_column(header, justify="right", no_wrap=True)
    stock = figures["bytes_of_bf16"]
    for kind in figures["kinds"]:
        size = f"{kind['bytes'] / 1e6:.2f}", f"{100 * kind['bytes'] / stock:.2f}"
        table.add_row(kind["owner"], kind["name"], kind["dtype"], str(kind["storages"]), *size)
    console.print(table)
    total, whole = figures["bytes"], f"{stock / 2**30:.3f} GiB in bfloat16"
    console.print(f"{total / 2**30:.3f} GiB, {figures['ratio']:.3f} times {whole}")


if __name__ == "__main__":
    main()
