"""CLIP for measuring: vision tower and projections are trained further, the text tower stays.

This is locked-text tuning, the mirror image of LiT (Zhai et al. 2022): the text tower conditions
the UNets and must not change any more, but the measure of pictures should notice every attribute.
Vision towers learn counts last, so captions of all kinds are drawn equally often.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from scenes.captions import sample_captions
from scenes.changes import changeable
from scenes.grammar import parse_caption
from scenes.renderer import render
from scenes.training.autoencoder import to_model
from scenes.training.clip import changed_caption, contrastive_loss, save, tokenize
from scenes.training.fit import fit
from scenes.training.folders import replaced
from scenes.training.module import Training
from scenes.training.settings import Tuning

_LONGEST_CAPTION = 28  # tokens, with some padding; the text tower is causal


def train(
    settings: Tuning, image_size: int, source: Path, folder: Path, device: str, resume: bool
) -> None:
    """Tune the CLIP in `source` and save it into `folder`/model."""
    if resume and (folder / "model").is_dir():
        return
    clip = CLIPModel.from_pretrained(source)
    tokenizer = CLIPTokenizer.from_pretrained(source)
    clip.text_model.requires_grad_(False)
    draw = CaptionDraw(settings, image_size, tokenizer)
    fit(Tuned(clip, settings.fit), draw, folder, device, resume)
    with replaced(folder / "model") as new:
        save(clip.eval(), tokenizer, image_size, new)


class CaptionDraw:
    """Draws captions of all kinds with fresh pictures, and changed versions of them."""

    def __init__(self, settings: Tuning, image_size: int, tokenizer: CLIPTokenizer) -> None:
        self.settings, self.image_size, self.tokenizer = settings, image_size, tokenizer
        self.captions = sample_captions(settings.n_captions, settings.fit.seed, "train")
        self.weights = even_weights(self.captions)

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n = self.settings.fit.batch_size
        chosen = torch.multinomial(self.weights, n, generator=generator).tolist()
        seed = int(torch.randint(2**31, (), generator=generator))
        draws = random.Random(seed)
        own = [self.captions[i] for i in chosen]
        changed = [changed_caption(caption, draws) for caption in own]
        ids = tokenize(self.tokenizer, [*own, *changed])[:, :_LONGEST_CAPTION]
        return ids, to_model(render(own, self.image_size, seed))


class Tuned(Training[CLIPModel]):
    """The contrastive loss of a CLIP model whose text tower is frozen."""

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss for token ids and pictures in [-1, 1]."""
        ids, pictures = batch
        with self.autocast():
            with torch.no_grad():
                texts = self.network.text_model(ids)[1]
            seen = self.network.vision_model(pictures)[1]
            loss, accuracy = contrastive_loss(self.network, texts, seen)
        return loss, {"retrieval": accuracy}


def even_weights(captions: Sequence[str]) -> Tensor:
    """Weights that make captions with places, relations and counts equally likely."""
    kinds = [changeable(parse_caption(caption))[-1] for caption in captions]
    frequency = Counter(kinds)
    return torch.tensor([1 / frequency[kind] for kind in kinds])
