"""A quantized UNet without tensors: what a description says that its files hold."""

from collections.abc import Mapping

from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.build import build_, fill_
from dgq.storage.manifest import Manifest

REMEDY = (
    "remove what was added since it was loaded (`pipe.unload_ip_adapter()`), or save "
    "dgq.dequantize(unet)"
)


def empty_quantized_unet(manifest: Manifest) -> UNet2DConditionModel:
    """A UNet of inference modules without tensors, on the meta device, to be filled."""
    with init_empty_weights(include_buffers=True):
        unet = UNet2DConditionModel.from_config(manifest.unet_config)
    build_(unet, manifest.quantization, manifest.timesteps, manifest.latent_size)
    return unet


def check_loadable(manifest: Manifest, state: Mapping[str, Tensor]) -> None:
    """Raise DGQError unless tensors that are about to be saved can be loaded again.

    Args:
        manifest: the description that is saved with them.
        state: the tensors.
    """
    away = next((name for name, tensor in state.items() if tensor.is_meta), None)
    if away is not None:
        raise DGQError(
            f"{away} is offloaded, so that it cannot be saved: take the UNet back first "
            "(`pipe.remove_all_hooks()`)"
        )
    unet: nn.Module = empty_quantized_unet(manifest)
    odd = state.keys() ^ unet.state_dict().keys()
    if odd:
        name = min(odd)
        what = "is no part of a quantized model" if name in state else "is missing"
        raise DGQError(f"saved like this, the UNet could not be loaded: {name} {what}: {REMEDY}")
    try:
        fill_(unet, state)
    except DGQError as error:
        reason = " ".join(str(error).split())
        raise DGQError(
            f"saved like this, the UNet could not be loaded: {reason:.240}: {REMEDY}"
        ) from error
