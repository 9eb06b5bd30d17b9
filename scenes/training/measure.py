"""How well the pipeline follows captions it has not seen, scored by the oracle."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from scenes.captions import sample_captions
from scenes.oracle import ATTRIBUTES, score
from scenes.renderer import render
from scenes.training.autoencoder import reconstruct

_BATCH_SIZE = 64


def measure(
    pipeline_folder: Path,
    output: Path,
    n: int,
    guidance_scales: Sequence[float],
    steps: int,
    device: str,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Score renders, their reconstructions and generated pictures of `n` test captions.

    Writes `measure.json`, and `samples.png` for the last guidance scale, into `output`. Returns
    the oracle's summary of each set of pictures.
    """
    output.mkdir(parents=True, exist_ok=True)
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    captions = sample_captions(n, seed, "test")
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    pictures = render(captions, size, seed)
    decoded = reconstruct(pipeline.vae, pictures.to(device)).cpu()
    results = {
        "renders": score(pictures, captions).summary(),
        "autoencoder": score(decoded, captions).summary(),
    }
    results["autoencoder"]["psnr"] = float(-10 * (decoded - pictures).square().mean().log10())
    for guidance_scale in guidance_scales:
        images = generate(pipeline, captions, guidance_scale, steps, seed)
        results[f"guidance {guidance_scale:g}"] = score(images, captions).summary()
        save_grid(images[:64], output / "samples.png", columns=8)
    protocol = {"n": n, "steps": steps, "seed": seed, "split": "test"}
    text = json.dumps({"protocol": protocol, "results": results}, indent=2)
    (output / "measure.json").write_text(text + "\n")
    return results


def generate(
    pipeline: StableDiffusionPipeline,
    captions: Sequence[str],
    guidance_scale: float,
    steps: int,
    seed: int,
) -> Tensor:
    """Generate a picture of each caption, [captions, 3, side, side] in [0, 1] on the CPU.

    Each picture has a seed of its own, so that batches make no difference.
    """
    parts = []
    for start in range(0, len(captions), _BATCH_SIZE):
        part = list(captions[start : start + _BATCH_SIZE])
        generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))
        ]
        images = pipeline(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="pt",
        ).images
        parts.append(images.float().cpu())
        print(f"guidance {guidance_scale:g}: {start + len(part)} of {len(captions)} pictures")
    return torch.cat(parts)


def table(results: dict[str, dict[str, float]]) -> str:
    """Results as a Markdown table, one column for each set of pictures."""
    lines = [f"| | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for name in (*ATTRIBUTES, "mean", "all"):
        cells = [f"{column[name]:.3f}" if name in column else "" for column in results.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save_grid(images: Tensor, path: Path, columns: int, scale: int = 3) -> None:
    """Write pictures side by side, enlarged, as one PNG."""
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    missing = -len(framed) % columns
    framed = torch.cat([framed, framed.new_full((missing, *framed.shape[1:]), 0.5)])
    rows = framed.unflatten(0, (-1, columns))
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    size = (image.width * scale, image.height * scale)
    image.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)
