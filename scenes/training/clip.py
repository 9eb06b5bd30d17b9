"""A small CLIP of our own: contrastive, with an auxiliary loss that asks for the attributes.

With the contrastive loss alone, noticing shapes and textures takes far more pictures, and places
and counts are hardly learned at all. So each picture must also tell its caption from one with a
single attribute changed. The attributes are asked for at the end of the text, at a random padding
position (the UNet sees those states too) and at each noun, so that all text states are informative.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from scenes.captions import sample_captions, split_of
from scenes.changes import change, changeable
from scenes.grammar import describe, parse_caption
from scenes.renderer import render
from scenes.training.attributes import ITEM_CLASSES, SCENE_CLASSES, noun_targets, scene_targets
from scenes.training.autoencoder import to_model
from scenes.training.fit import fit
from scenes.training.folders import replaced
from scenes.training.module import Training
from scenes.training.settings import Clip
from scenes.training.tokenizer import CONTEXT_LENGTH, build_tokenizer

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.5, 0.5, 0.5)


class ClipWithAttributes(nn.Module):
    """CLIP plus linear heads that read the attributes; only `clip` is kept after training."""

    def __init__(self, clip: CLIPModel, width: int) -> None:
        super().__init__()
        self.clip = clip
        self.picture_head = nn.Linear(width, sum(SCENE_CLASSES))
        self.text_head = nn.Linear(width, sum(SCENE_CLASSES))
        self.noun_head = nn.Linear(width, sum(ITEM_CLASSES))


def train(settings: Clip, image_size: int, folder: Path, device: str, resume: bool) -> None:
    """Train CLIP and save model, tokenizer and image processor into `folder`/model."""
    if resume and (folder / "model").is_dir():
        return
    torch.manual_seed(settings.fit.seed)
    tokenizer = build_tokenizer(folder / "tokenizer")
    model = ClipWithAttributes(build(settings, image_size, tokenizer), settings.width)
    draw = ClipDraw(settings, image_size, tokenizer)
    fit(ClipTraining(model, settings), draw, folder, device, resume)
    with replaced(folder / "model") as new:
        save(model.clip.eval(), tokenizer, image_size, new)


class ClipBatch(NamedTuple):
    """Pictures, captions, and the attributes that captions state.

    Args:
        pictures: [pictures, 3, side, side] in [0, 1].
        ids: token ids, [captions, length]: the pictures' captions, then the changed ones.
        scenes: classes of whole scenes, [pictures, attributes].
        positions: token positions of the nouns, [pictures, 2].
        nouns: classes of the objects, [pictures, 2, attributes].
    """

    pictures: Tensor
    ids: Tensor
    scenes: Tensor
    positions: Tensor
    nouns: Tensor


class ClipDraw:
    """Draws captions and renders pictures for them."""

    def __init__(self, settings: Clip, image_size: int, tokenizer: CLIPTokenizer) -> None:
        self.settings, self.image_size, self.tokenizer = settings, image_size, tokenizer
        self.captions = sample_captions(settings.n_captions, settings.fit.seed, "train")
        self.ids = tokenize(tokenizer, self.captions)
        self.scenes = scene_targets(self.captions)
        self.positions, self.nouns = noun_targets(self.captions)

    def __call__(self, generator: torch.Generator) -> ClipBatch:
        size = (self.settings.fit.batch_size,)
        chosen = torch.randint(len(self.captions), size, generator=generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        pictures = render([self.captions[i] for i in chosen.tolist()], self.image_size, seed)
        # The text tower is causal: later tokens do not change earlier states, so any length that
        # leaves room for padding will do; now and then the full length trains all positions.
        length = random.Random(seed).choice((28, 28, 28, CONTEXT_LENGTH))
        ids = self.ids[chosen, :length]
        if self.settings.with_changed and length < CONTEXT_LENGTH:
            ids = torch.cat([ids, self._changed(chosen, seed)[:, :length]])
        known = self.scenes[chosen], self.positions[chosen], self.nouns[chosen]
        return ClipBatch(pictures, ids, *known)

    def _changed(self, chosen: Tensor, seed: int) -> Tensor:
        """Token ids of the chosen captions with one attribute changed, from the same split."""
        generator = random.Random(seed)
        captions = [changed_caption(self.captions[i], generator) for i in chosen.tolist()]
        return tokenize(self.tokenizer, captions)


class ClipTraining(Training[ClipWithAttributes]):
    """The contrastive loss, and the auxiliary losses for the attributes."""

    def __init__(self, model: ClipWithAttributes, settings: Clip) -> None:
        super().__init__(model, settings.fit)
        self.attribute_weight = settings.attribute_weight

    def loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the losses, its parts, and how often a picture finds its caption."""
        losses, accuracy = self._losses(batch)
        attributes = losses["picture"] + 2 * losses["text"] + losses["nouns"]
        total = losses["contrast"] + self.attribute_weight * attributes
        numbers = {name: value.item() for name, value in losses.items()}
        return total, {"retrieval": accuracy} | numbers

    def _losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], float]:
        model, n = self.network, len(batch.pictures)
        with self.autocast():
            states, pooled = model.clip.text_model(batch.ids)[:2]
            seen = model.clip.vision_model(to_model(batch.pictures))[1]
            contrast, accuracy = contrastive_loss(model.clip, pooled, seen)
            picture = model.picture_head(seen)
            # Changed captions, if any, come last; only the right ones have attribute targets.
            states, pooled = states[:n], pooled[:n]
            text = model.text_head(torch.cat([pooled, states[:, -1]]))
            at = batch.positions[:, :, None]
            nouns = model.noun_head(states.gather(1, at.expand(-1, -1, states.shape[-1])))
        items = batch.nouns.flatten(0, 1)
        return {
            "contrast": contrast,
            "picture": attribute_loss(picture, batch.scenes, SCENE_CLASSES),
            "text": attribute_loss(text, batch.scenes.repeat(2, 1), SCENE_CLASSES),
            "nouns": attribute_loss(nouns.flatten(0, 1), items, ITEM_CLASSES),
        }, accuracy


def build(settings: Clip, image_size: int, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP model with fresh weights."""
    tower = {
        "hidden_size": settings.width,
        "intermediate_size": 4 * settings.width,
        "num_hidden_layers": settings.n_layers,
        "num_attention_heads": settings.n_heads,
        "projection_dim": settings.projection_dim,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": image_size, "patch_size": settings.patch_size}
    return CLIPModel(
        CLIPConfig(
            text_config=tower | text,
            vision_config=tower | vision,
            projection_dim=settings.projection_dim,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids padded to the full context as pipelines do, [captions, CONTEXT_LENGTH]."""
    encoded = tokenizer(
        list(captions), padding="max_length", max_length=CONTEXT_LENGTH, truncation=True
    )
    return torch.tensor(encoded["input_ids"])


def contrastive_loss(clip: CLIPModel, text: Tensor, vision: Tensor) -> tuple[Tensor, float]:
    """CLIP's symmetric loss of pooled states, and how often a picture finds its caption.

    `text` is [captions, width] with at least as many rows as `vision` [pictures, width]; the
    first belong to the pictures, the rest are further negatives.
    """
    texts = F.normalize(clip.text_projection(text).float(), dim=-1)
    pictures = F.normalize(clip.visual_projection(vision).float(), dim=-1)
    logits = pictures @ texts.T * clip.logit_scale.exp().clamp(max=100)
    own = torch.arange(len(logits), device=logits.device)
    to_pictures = logits[:, : len(logits)].T
    value = (F.cross_entropy(logits, own) + F.cross_entropy(to_pictures, own)) / 2
    return value, float((logits.argmax(1) == own).float().mean())


def changed_caption(caption: str, generator: random.Random) -> str:
    """The caption with one attribute changed, from the same split.

    Every other time this is the place, relation or count, which picture embeddings neglect most.
    """
    scene, split = parse_caption(caption), split_of(caption)
    *appearance, layout = changeable(scene)
    while True:
        attribute = generator.choice((layout, generator.choice(appearance)))
        other = describe(change(scene, attribute, generator))
        if split_of(other) == split:
            return other


def attribute_loss(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> Tensor:
    """Mean cross-entropy over attributes; missing ones are ignored."""
    parts = logits.float().split(list(classes), dim=-1)
    losses = [F.cross_entropy(part, targets[:, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).mean()


def save(clip: CLIPModel, tokenizer: CLIPTokenizer, image_size: int, folder: Path) -> None:
    """Write model, processor and tokenizer for `from_pretrained`."""
    clip.save_pretrained(folder)
    processor = CLIPProcessor(image_processor(image_size), tokenizer)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def image_processor(image_size: int) -> CLIPImageProcessor:
    """Resizes, crops and normalises pictures."""
    return CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
