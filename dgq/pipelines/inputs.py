"""Arguments of a pipeline call: prompts, settings, and the images that some kinds need.

Calibration has no images to start from, so pipelines that need one get a grey image: what they draw
comes from the prompt. An initial image is replaced completely (``strength`` 1), which visits each
sampler step, and an image for inpainting is masked everywhere. To calibrate on real inputs of such
a pipeline, record the calls of its UNet in use.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from dgq.errors import DGQError
from dgq.pipelines.kinds import KINDS
from dgq.storage.checkpoint import GenerationSettings

GREY, WHITE = (128, 128, 128), (255, 255, 255)


def call_arguments(
    pipeline: DiffusionPipeline, prompts: Sequence[str], generation: GenerationSettings
) -> dict[str, Any]:
    """Keyword arguments of a call that draws each prompt once, except generators and output type.

    Args:
        pipeline: a pipeline of one of ``KINDS``.
        prompts: at least one.
        generation: steps, guidance and size.

    Raises:
        DGQError: for another kind of pipeline.
    """
    name = type(pipeline).__name__
    if name not in KINDS:
        raise DGQError(f"the inputs of a {name} are unknown: expected one of {', '.join(KINDS)}")
    arguments: dict[str, Any] = {"prompt": list(prompts), **vars(generation)}
    needs = KINDS[name].needs
    if needs == "prompt":
        return arguments
    height, width = _image_size(pipeline, generation)
    arguments["image"] = [Image.new("RGB", (width, height), GREY)] * len(prompts)
    if needs == "masked image":
        arguments["mask_image"] = [Image.new("RGB", (width, height), WHITE)] * len(prompts)
    if needs in ("start image", "masked image"):
        arguments["strength"] = 1.0
    # A pipeline uses the image's size, unless it asks for one.
    asked = inspect.signature(pipeline.__call__).parameters
    for side, pixels in (("height", height), ("width", width)):
        del arguments[side]
        if side in asked:
            arguments[side] = pixels
    return arguments


def _image_size(pipeline: DiffusionPipeline, generation: GenerationSettings) -> tuple[int, int]:
    """Height and width in pixels of the image that a pipeline is given."""
    scale = pipeline.vae_scale_factor
    own = pipeline.unet.config["sample_size"]
    if own is None and generation.height is None:
        raise DGQError("the UNet has no sample_size: set the height and width of the images")
    own = own or 0
    own_height, own_width = (own, own) if isinstance(own, int) else own
    height = generation.height or own_height * scale
    width = generation.width or own_width * scale
    if KINDS[type(pipeline).__name__].needs == "small image":  # it has a pixel for each latent
        return height // scale, width // scale
    return height, width
