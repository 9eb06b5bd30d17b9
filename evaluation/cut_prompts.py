"""Prompts too long for a text encoder, which reads only their beginning."""

from collections.abc import Iterator, Sequence
from typing import Any

from diffusers import DiffusionPipeline

from evaluation.features.extractors import Extractors
from evaluation.features.features import Feature


def cut_prompts(
    pipeline: DiffusionPipeline, extractors: Extractors, captions: Sequence[str], n_embedded: int
) -> Iterator[str]:
    """Notes on prompts of which the pipeline or the CLIP model reads only the beginning.

    Args:
        pipeline: draws them.
        extractors: may hold a CLIP model.
        captions: all prompts.
        n_embedded: number of prompts, from the first, that the CLIP score uses.
    """
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    tokenizers = [part for name, part in parts.items() if name.startswith("tokenizer")]
    n_cut = max((n_too_long(tokenizer, captions) for tokenizer in tokenizers), default=0)
    if n_cut:
        yield (
            f"prompts: {n_cut} of {len(captions)} are longer than the pipeline reads: images show "
            "only their beginning"
        )
    clip = extractors.clip if Feature.EMBEDDINGS in extractors.needed else None
    n_cut = 0 if clip is None else clip.n_too_long(captions[:n_embedded])
    if n_cut:
        yield (
            f"CLIP score: {n_cut} of {n_embedded} prompts are longer than its CLIP model reads: "
            "they are compared by their beginning"
        )


def n_too_long(tokenizer: Any, captions: Sequence[str]) -> int:
    """Number of captions with more tokens than a tokenizer's text encoder reads."""
    tokens = tokenizer(list(captions), verbose=False).input_ids
    return sum(len(each) > tokenizer.model_max_length for each in tokens)
