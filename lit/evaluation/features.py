"""What CLIP sees: features of images and texts, one pass for all metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from dgq.errors import DGQError
from dgq.pipelines import first_line
from lit.evaluation.batching import batched

TEXT_BATCH = 256


@dataclass(frozen=True)
class ImageFeatures:
    """Features of N images.

    Args:
        pooled: [N, d], output of the vision tower, where FID is measured.
        embeddings: [N, p], projected into the space shared with texts, of unit length.
    """

    pooled: Tensor
    embeddings: Tensor


class ClipExtractor:
    """A CLIP model that turns images and texts into features.

    Args:
        source: hub id or folder, loadable with ``CLIPModel`` and ``CLIPProcessor``.
        device: where it runs; features are returned on the CPU.

    Raises:
        DGQError: if the model cannot be loaded.
    """

    def __init__(self, source: str | Path, device: str = "cpu") -> None:
        try:
            self.processor = CLIPProcessor.from_pretrained(str(source))
            model = CLIPModel.from_pretrained(str(source), dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise DGQError(
                f"no CLIP model can be loaded from {source}: {first_line(error)}"
            ) from error
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.no_grad()
    def images(self, image_batches: Iterable[list[Image.Image]]) -> ImageFeatures:
        """Features of all images, resized and normalised as the model's processor says."""
        pooled = [self._pooled(batch) for batch in image_batches]
        embeddings = [F.normalize(self.model.visual_projection(part), dim=-1) for part in pooled]
        return ImageFeatures(torch.cat(pooled).cpu(), torch.cat(embeddings).cpu())

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, p] of texts, of unit length; truncated to the model's context."""
        parts = [self._embedded(batch) for batch in batched(texts, TEXT_BATCH)]
        return torch.cat(parts).cpu()

    def logits(self, embeddings: Tensor, classes: Sequence[str]) -> Tensor:
        """Zero-shot class logits [N, classes] of image embeddings [N, p]."""
        return self.model.logit_scale.exp().cpu() * embeddings @ self.texts(classes).T

    def _pooled(self, batch: list[Image.Image]) -> Tensor:
        pixels = self.processor(images=batch, return_tensors="pt")["pixel_values"]
        return self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output

    def _embedded(self, batch: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.processor(
            text=batch, return_tensors="pt", padding=True, truncation=True, max_length=length
        ).to(self.device)
        features = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(self.model.text_projection(features.pooler_output), dim=-1)
