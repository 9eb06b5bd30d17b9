"""Features by a CLIP model of open_clip, such as the ViT-g-14 used in papers."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dgq.errors import DGQError, first_line
from evaluation.batching import batched
from evaluation.extras import Package
from evaluation.features.clip_features import TEXT_BATCH
from evaluation.features.fingerprint import short_hash

PACKAGE = Package("open_clip", extra="open_clip")
PREFIX = "open_clip:"


class OpenClipFeatures:
    """Features of images and texts, with the methods of ``ClipFeatures``.

    Args:
        source: ``open_clip:ARCHITECTURE:WEIGHTS``, such as
            ``open_clip:ViT-g-14:laion2b_s34b_b88k``; weights are a tag or a file.
        device: where it runs; features are returned on the CPU.

    Raises:
        DGQError: if open_clip or the weights are missing.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        architecture, separator, weights = source.removeprefix(PREFIX).partition(":")
        if not (separator and weights):
            raise DGQError(f"--clip {source}: expected {PREFIX}ARCHITECTURE:WEIGHTS")
        open_clip = PACKAGE.load()
        try:
            model, _, self.preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=weights, device=device
            )
            self.tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # no network, no such model, a damaged file, ...
            raise DGQError(
                f"open_clip cannot load {architecture} with {weights}: {first_line(error)}"
            ) from error
        self.model = model.eval().requires_grad_(False)
        self.device = device
        self.name = f"{architecture} {weights} (open_clip, sha256 {short_hash(model)})"

    @torch.no_grad()
    def images(self, batch: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Embeddings [N, p], unnormalised and of unit length."""
        pixels = torch.stack([self.preprocess(image) for image in batch]).to(self.device)
        features = self.model.encode_image(pixels).float()
        return features.cpu(), F.normalize(features, dim=-1).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, p] of texts, of unit length."""
        parts = [
            self.model.encode_text(self.tokenizer(batch).to(self.device)).float()
            for batch in batched(texts, TEXT_BATCH)
        ]
        return F.normalize(torch.cat(parts), dim=-1).cpu()

    def n_too_long(self, texts: Sequence[str]) -> int:
        """Number of texts that have more tokens than the model's context."""
        context = int(self.tokenizer.context_length)
        (*_, padding), *tokens = self.tokenizer(["", *texts], context_length=context + 1).tolist()
        return sum(each[context] != padding for each in tokens)

    @property
    def logit_scale(self) -> float:
        """The factor of cosines in zero-shot logits."""
        return float(self.model.logit_scale.exp())
