"""Why an adapter cannot be fused into the weight of a quantized layer."""

from dgq.errors import DGQError


def refusal_to_fuse() -> DGQError:
    """What fusing into a quantized layer raises."""
    return DGQError(
        "fuse_lora: the codes of a quantized weight cannot take up a LoRA: leave it on as it is "
        "(set_adapters scales it), or fuse it into the full-precision UNet and calibrate that"
    )
