"""A random pipeline, a random CLIP model and a quantized run, all small enough to be made here."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from dgq.pipelines.loading import load_pipeline
from dgq.settings import ActivationSettings, QuantizationSettings
from dgq.storage.checkpoint import FOLDER, GenerationSettings, Manifest, save_quantized
from dgq.storage.fingerprint import network_sha256
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.unet.context import quantization
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import activation_quantizers, fit_activations_, quantize_
from scenes.training.tokenizer import build_tokenizer

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 77,
}
VISION = {
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """The tokenizer of the embedded model."""
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def text_settings(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """Settings of a text tower that goes with the tokenizer."""
    return TEXT | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture(scope="session")
def clip_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: CLIPTokenizer,
    text_settings: dict[str, int],
) -> Path:
    """A CLIP model with 12 pooled features."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPConfig(text_config=text_settings, vision_config=VISION, projection_dim=8)
    CLIPModel(config).eval().save_pretrained(folder)
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pipeline_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: CLIPTokenizer,
    text_settings: dict[str, int],
) -> Path:
    """A Stable Diffusion pipeline of 32 x 32 pixels."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("pipeline")
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            sample_size=32,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_settings)),
        tokenizer=tokenizer,
        unet=tiny_unet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_unet() -> UNet2DConditionModel:
    """Two levels, two heads, random weights."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Path:
    """A run folder with the pipeline's UNet at W4A8, rounded to nearest, for one prompt."""
    folder = tmp_path_factory.mktemp("outputs") / "w4a8"
    pipeline = load_pipeline(str(pipeline_folder))
    unet, config = pipeline.unet, dict(pipeline.unet.config)
    unet_sha256 = network_sha256(unet)
    generation = GenerationSettings(num_inference_steps=2, guidance_scale=3.0)
    pipeline.scheduler.set_timesteps(2)
    timesteps = tuple(float(t) for t in pipeline.scheduler.timesteps.unique())
    settings = QuantizationSettings(activations=ActivationSettings(n_bits=8, n_groups=4))
    quantize_(unet, settings, timesteps, (8, 8))
    _calibrate(unet, timesteps)
    described = (str(pipeline_folder), config, settings, generation, timesteps, (8, 8))
    manifest = Manifest(*described, unet_sha256, prompt_hashes(["a dog on a beach"]))
    save_quantized(unet, folder / FOLDER, manifest)
    return folder


@torch.no_grad()
def _calibrate(unet: UNet2DConditionModel, timesteps: tuple[float, ...]) -> None:
    """Ranges from random inputs, weights rounded to nearest."""
    for quantizer in activation_quantizers(unet).values():
        quantizer.start_observing_()
    with quantization(unet, weights=False, activations=False, observing=True):
        for timestep in timesteps:
            unet(torch.randn(8, 4, 8, 8), timestep, torch.randn(8, 77, 16))
    fit_activations_(unet)
    for layer in quantized_layers(unet).values():
        assert layer.weight_quantizer is not None
        layer.weight_quantizer.start_learning_(layer.weight)
        layer.weight_quantizer.harden_(layer.bias)


@pytest.fixture
def pipeline(pipeline_folder: Path) -> DiffusionPipeline:
    """The full-precision pipeline."""
    return load_pipeline(str(pipeline_folder))


@pytest.fixture
def generation() -> GenerationSettings:
    """Two guided steps."""
    return GenerationSettings(num_inference_steps=2, guidance_scale=3.0)
