"""Integer operators of a quantized UNet, as ``torch.ops.dgq``: one reference, one file a device."""

from dgq.ops import cpu
from dgq.ops.library import attention, channel_ranges, int_conv2d, int_linear, quantize

cpu.register()

__all__ = ["attention", "channel_ranges", "int_conv2d", "int_linear", "quantize"]
