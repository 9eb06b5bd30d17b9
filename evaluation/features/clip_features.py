"""Features of images and texts by any CLIP model that transformers can load."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from data.embedded import DEFAULT
from dgq.errors import DGQError, first_line
from dgq.pipelines.hub import look_up
from evaluation.batching import batched
from evaluation.features.fingerprint import short_hash

TEXT_BATCH = 256


class ClipFeatures:
    """Features of images and texts from a CLIP model.

    Args:
        source: hub id or folder, loadable with ``CLIPModel`` and ``CLIPProcessor``; None is the
            embedded benchmark's model.
        device: where it runs; features are returned on the CPU.

    Raises:
        DGQError: if the model cannot be loaded.
    """

    def __init__(self, source: str | Path | None = None, device: str = "cpu") -> None:
        location = str(source or DEFAULT.clip)
        check_available(location)
        try:
            self.processor = CLIPProcessor.from_pretrained(location)
            model, found = CLIPModel.from_pretrained(
                location, dtype=torch.float32, output_loading_info=True
            )
            self.check_whole(model, found["missing_keys"])
        except Exception as error:  # whatever the libraries raise for what is not as they expect
            raise DGQError(
                f"no CLIP model can be loaded from {location}: {first_line(error)}"
            ) from error
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        name = Path(location).name if Path(location).is_dir() else location
        name = f"the embedded {DEFAULT.name} CLIP" if source is None else name
        self.name = f"{name} (sha256 {short_hash(model)})"

    @staticmethod
    def check_whole(model: CLIPModel, missing: Collection[str]) -> None:
        """Raise ValueError for tensors that are missing, drawn at random then, or not finite."""
        if missing:
            raise ValueError(f"its files do not hold {min(missing)}; download it again")
        odd = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
        if odd:
            raise ValueError(f"{odd[0]} is not finite; download it again")

    @torch.no_grad()
    def images(self, batch: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Features of images, resized and normalised by the model's processor.

        Returns:
            Pooled output of the vision tower, [N, d], with which FID is measured without Inception,
            and embeddings in the space shared with texts, [N, p], of unit length.
        """
        pixels = self.processor(images=list(batch), return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
        return pooled.cpu(), F.normalize(self.model.visual_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, p] of texts, of unit length; truncated to the model's context."""
        return torch.cat([self._embedded(batch) for batch in batched(texts, TEXT_BATCH)]).cpu()

    def n_too_long(self, texts: Sequence[str]) -> int:
        """Number of texts that have more tokens than the model's context."""
        tokens = self.processor(text=list(texts), verbose=False)["input_ids"]
        return sum(len(each) > self._context for each in tokens)

    @property
    def logit_scale(self) -> float:
        """The factor of cosines in zero-shot logits."""
        return float(self.model.logit_scale.exp())

    @property
    def _context(self) -> int:
        """Number of tokens that the model reads."""
        return int(self.model.config.text_config.max_position_embeddings)

    def _embedded(self, batch: list[str]) -> Tensor:
        tokens = self.processor(
            text=batch, return_tensors="pt", padding=True, truncation=True, max_length=self._context
        ).to(self.device)
        features = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(self.model.text_projection(features.pooler_output), dim=-1)


def check_available(source: str) -> None:
    """Fail at once, rather than after minutes of retries, if a hub model is not available.

    Raises:
        DGQError: if it is neither a folder, nor downloaded, nor on a reachable hub.
    """
    if Path(source).is_dir():
        return
    try:
        look_up(source, "config.json")
    except Exception as error:  # no network, no such model, no permission, ...
        raise DGQError(
            f"no CLIP model can be loaded from {source}: it is not a folder and cannot be "
            f"downloaded ({type(error).__name__}); run `hf download {source} --local-dir "
            "models/clip` where there is internet, then give --clip models/clip"
        ) from error
