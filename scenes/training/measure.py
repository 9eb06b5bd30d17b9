"""How well the pipelines follow held-out captions, scored by the oracle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from rich.progress import track
from torch import Tensor

from scenes import FEW_STEPS, GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from scenes.captions import sample_captions
from scenes.intervals import wilson_interval
from scenes.oracle import ATTRIBUTES, OracleScore, score
from scenes.renderer import render
from scenes.training.autoencoder import reconstruct

_BATCH_SIZE = 64
_SEED = 0


@dataclass(frozen=True)
class Case:
    """A pipeline to measure, by its folder's name, and how it is sampled."""

    folder: str
    steps: int
    guidance_scale: float

    @property
    def name(self) -> str:
        """The heading of its column."""
        return f"{self.folder}, {self.steps} steps, guidance {self.guidance_scale:g}"


def measure(assets: Path, n: int, guidance_scales: Sequence[float], device: str) -> str:
    """Score renders of `n` test captions, their reconstructions and each pipeline's pictures.

    Writes `measured.json`, `measured.md` and a grid of samples of each pipeline into `assets`;
    returns the table.
    """
    captions = sample_captions(n, _SEED, "test")
    base = load(assets / "pipeline", device)
    size = base.unet.config.sample_size * base.vae_scale_factor
    pictures = render(captions, size, _SEED)
    decoded = reconstruct(base.vae, pictures.to(device)).cpu()
    scores = {"renders": score(pictures, captions), "autoencoder": score(decoded, captions)}
    for case in _cases(assets, guidance_scales):
        pipeline = load(assets / case.folder, device)
        images = generate(pipeline, captions, case.guidance_scale, case.steps, _SEED)
        scores[case.name] = score(images, captions)
        save_grid(images[:64], assets / f"samples-{case.folder}.png", columns=16)
    protocol = {"n": n, "seed": _SEED, "split": "test"}
    psnr = float(-10 * (decoded - pictures).square().mean().log10())
    results = {name: shares(one) for name, one in scores.items()}
    report = {"protocol": protocol, "autoencoder_psnr_db": psnr, "results": results}
    (assets / "measured.json").write_text(json.dumps(report, indent=2) + "\n")
    text = table(results)
    (assets / "measured.md").write_text(text + "\n")
    return text


def _cases(assets: Path, guidance_scales: Sequence[float]) -> list[Case]:
    cases = [Case("pipeline", NUM_INFERENCE_STEPS, scale) for scale in guidance_scales]
    if (assets / "xl").is_dir():
        cases.append(Case("xl", NUM_INFERENCE_STEPS, GUIDANCE_SCALE))
    if (assets / "few-step").is_dir():
        cases.append(Case("few-step", FEW_STEPS, 0.0))
    return cases


def load(folder: Path, device: str) -> DiffusionPipeline:
    """A pipeline without progress bars."""
    pipeline = DiffusionPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    guidance_scale: float,
    steps: int,
    seed: int,
    show_progress: bool = True,
) -> Tensor:
    """Generate a picture of each caption, [captions, 3, side, side] in [0, 1] on the CPU.

    Each picture has its own seed, so the batch size makes no difference.
    """
    parts = []
    starts = range(0, len(captions), _BATCH_SIZE)
    title = f"{steps} steps, guidance {guidance_scale:g}"
    for start in track(starts, title, transient=True, disable=not show_progress):
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
    return torch.cat(parts)


def shares(scored: OracleScore) -> dict[str, dict[str, float]]:
    """Each attribute's share with its 95 % interval, then the mean and the share of `all` right.

    Objects in one picture are not independent, so the intervals count pictures.
    """
    summary = scored.summary()
    cases = {name: int(scored.applies[name].sum()) for name in ATTRIBUTES}
    n = len(scored.asked[ATTRIBUTES[0]])
    result = {
        name: _with_interval(summary[name], cases[name]) for name in ATTRIBUTES if name in summary
    }
    return result | {
        "mean": {"share": summary["mean"]},
        "all": _with_interval(summary["all"], n),
    }


def _with_interval(share: float, n: int) -> dict[str, float]:
    low, high = wilson_interval(share, n)
    return {"share": share, "low": low, "high": high, "pictures": n}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Results as a Markdown table, one column for each set of pictures."""
    lines = [f"| share right | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for name in (*ATTRIBUTES, "mean", "all"):
        cells = [_cell(column[name]) if name in column else "" for column in results.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(numbers: dict[str, float]) -> str:
    interval = f" ({numbers['low']:.3f} to {numbers['high']:.3f})" if "low" in numbers else ""
    return f"{numbers['share']:.3f}{interval}"


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write pictures side by side, enlarged twice, as one PNG."""
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    missing = -len(framed) % columns
    framed = torch.cat([framed, framed.new_full((missing, *framed.shape[1:]), 0.5)])
    rows = framed.unflatten(0, (-1, columns))
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    size = (2 * image.width, 2 * image.height)
    image.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)
