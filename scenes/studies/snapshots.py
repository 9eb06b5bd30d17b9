"""FID, CLIP score and oracle over a training, on pictures from the UNet's snapshots."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import scenes
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from evaluation.batching import batched
from evaluation.features.clip_features import ClipFeatures
from evaluation.features.gaussian import fit_gaussian
from evaluation.images.files import to_images, to_tensor
from evaluation.metrics.fid import frechet_distance
from scenes.studies.unet_weights import load_weights_
from scenes.training.measure import generate

BATCH = 64
N_REFERENCES = 1024
REFERENCE_SEED = 1_000_003
HEADER = ("UNet", "FID", "CLIP score", "oracle mean", "oracle all")


def find_snapshots(folder: Path) -> list[Path]:
    """Files of snapshots in the order of their steps."""
    paths = folder.glob("step-*[0-9].safetensors")
    found = sorted(paths, key=lambda path: (len(path.name), path.name))
    if not found:
        raise DGQError(
            f"--snapshots {folder} holds no step-*.safetensors, as "
            "`python -m scenes.training diffusion` writes them into its folder"
        )
    return found


def training_rows(
    clip: ClipFeatures, place: Path, snapshots: Sequence[Path], n: int
) -> Iterator[list[str]]:
    """Yield the row of the renders of n captions, then those of each snapshot and the pipeline."""
    pipeline = load_pipeline(str(place))
    own = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    captions = scenes.sample_captions(n, 0, "test")
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    others = scenes.sample_captions(max(n, N_REFERENCES), REFERENCE_SEED, "test")
    rendered = [scenes.render(part, size, i) for i, part in enumerate(batched(others, BATCH))]
    references = features(clip, torch.cat(rendered))[0]
    yield training_row("renders", clip, scenes.render(captions, size, 0), captions, references)
    for path in snapshots:
        load_weights_(pipeline.unet, path)
        yield training_row(path.stem, clip, draw(pipeline, captions), captions, references)
    pipeline.unet.load_state_dict(own)
    yield training_row("pipeline", clip, draw(pipeline, captions), captions, references)


def training_row(
    name: str, clip: ClipFeatures, pictures: Tensor, captions: Sequence[str], references: Tensor
) -> list[str]:
    """FID to the references' features, CLIP score and oracle of pictures."""
    pooled, embedded = features(clip, pictures)
    fid = frechet_distance(fit_gaussian(references), fit_gaussian(pooled))
    score = 100 * (embedded * clip.texts(captions)).sum(1).clamp(min=0).mean()
    right = scenes.score(to_tensor(to_images(pictures)), captions).summary()
    shares = (f"{right[part]:.3f}" for part in ("mean", "all"))
    return [name, f"{fid:.2f}", f"{float(score):.1f}", *shares]


def features(clip: ClipFeatures, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features and embeddings of pictures, as evaluation computes them."""
    pairs = [clip.images(to_images(part)) for part in pictures.split(BATCH)]
    pooled, embedded = zip(*pairs, strict=True)
    return torch.cat(pooled), torch.cat(embedded)


def draw(pipeline: DiffusionPipeline, captions: Sequence[str]) -> Tensor:
    """Pictures of captions with the embedded model's usual sampling."""
    sampling = scenes.GUIDANCE_SCALE, scenes.NUM_INFERENCE_STEPS
    parts = enumerate(batched(captions, BATCH))
    return torch.cat([generate(pipeline, part, *sampling, seed=i) for i, part in parts])
