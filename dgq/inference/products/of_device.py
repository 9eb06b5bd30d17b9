"""Which integer products a UNet can use on its device."""

from torch import nn

from dgq.inference.products.cpu import CpuProducts
from dgq.inference.products.gpu import GpuProducts
from dgq.inference.products.none import NoProducts
from dgq.inference.products.products import Products


def products_of(unet: nn.Module) -> tuple[Products, str | None]:
    """The products of a UNet's device, and why none of its layers can use them, if so."""
    devices = {tensor.device for tensor in (*unet.parameters(), *unet.buffers())}
    kinds = {device.type for device in devices}
    if hasattr(unet, "_hf_hook"):
        return CpuProducts(), "accelerate moves its tensors"
    if kinds == {"cpu"}:
        products: Products = CpuProducts()
        return products, products.obstacle()
    if kinds == {"cuda"} and len(devices) == 1:
        products = GpuProducts(devices.pop())
        return products, products.obstacle()
    names = ", ".join(sorted(kinds - {"cpu"}))
    if len(devices) > 1:
        return NoProducts(names), "its tensors are on several devices"
    return NoProducts(names), f"no integer kernels for {names} yet"
