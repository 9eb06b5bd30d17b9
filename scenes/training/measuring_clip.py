"""CLIP as a judge of pictures: vision tower and projections learn on, the text tower stays.

Locked-text tuning, the mirror image of LiT (Zhai et al. 2022): the text tower conditions the UNets
and must not change any more, while what pictures are measured by should notice every attribute.
Counts are what a vision tower learns last, so captions of all kinds are drawn equally often.
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
from scenes.training.folders import replaced
from scenes.training.loop import autocast, fit
from scenes.training.settings import Tuning

_LONGEST_CAPTION = 28  # tokens, with some padding; the text tower is causal


def train(
    settings: Tuning, image_size: int, source: Path, folder: Path, device: str, resume: bool
) -> None:
    """Tune the CLIP in `source` and save it into `folder`/model."""
    if resume and (folder / "model").is_dir():
        return
    clip = CLIPModel.from_pretrained(source).to(device)
    tokenizer = CLIPTokenizer.from_pretrained(source)
    clip.text_model.requires_grad_(False)
    fit(clip, Objective(clip, settings, image_size, tokenizer), settings.fit, folder, resume)
    with replaced(folder / "model") as new:
        save(clip.eval(), tokenizer, image_size, new)


class Objective:
    """The contrastive loss of fresh pictures, their captions, and captions changed."""

    def __init__(
        self, clip: CLIPModel, settings: Tuning, image_size: int, tokenizer: CLIPTokenizer
    ) -> None:
        self.clip, self.settings, self.image_size = clip, settings, image_size
        self.tokenizer = tokenizer
        self.captions = sample_captions(settings.n_captions, settings.fit.seed, "train")
        self.weights = even_weights(self.captions)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        n = self.settings.fit.batch_size
        chosen = torch.multinomial(self.weights, n, generator=generator).tolist()
        seed = int(torch.randint(2**31, (), generator=generator))
        draws = random.Random(seed)
        own = [self.captions[i] for i in chosen]
        changed = [changed_caption(caption, draws) for caption in own]
        ids = tokenize(self.tokenizer, [*own, *changed])[:, :_LONGEST_CAPTION]
        pictures = to_model(render(own, self.image_size, seed))
        device = self.clip.device
        with autocast(device):
            with torch.no_grad():
                texts = self.clip.text_model(ids.to(device))[1]
            seen = self.clip.vision_model(pictures.to(device))[1]
            loss, accuracy = contrastive_loss(self.clip, texts, seen)
        return loss, {"retrieval": accuracy}


def even_weights(captions: Sequence[str]) -> Tensor:
    """Weights of captions such that those of places, relations and counts are equally likely."""
    kinds = [changeable(parse_caption(caption))[-1] for caption in captions]
    frequency = Counter(kinds)
    return torch.tensor([1 / frequency[kind] for kind in kinds])
