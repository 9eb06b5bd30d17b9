"""Notes on prompts of which a text encoder reads only the beginning."""

from pathlib import Path

from diffusers import DiffusionPipeline

from evaluation.cut_prompts import cut_prompts, n_too_long
from evaluation.features.extractors import Extractors
from evaluation.features.features import Feature
from evaluation.protocol import Protocol

FITS = " ".join(["red"] * 75)
LONG = f"{FITS} circle"


def test_the_context_includes_start_and_end(pipeline: DiffusionPipeline, clip_folder: Path) -> None:
    extractors = Extractors(Protocol(clip=str(clip_folder)), benchmark=None, device="cpu")
    assert n_too_long(pipeline.tokenizer, [FITS, LONG, LONG]) == 2
    assert extractors.clip is not None
    assert extractors.clip.n_too_long([FITS, LONG, LONG]) == 2


def test_prompts_that_are_cut_are_counted(pipeline: DiffusionPipeline, clip_folder: Path) -> None:
    extractors = Extractors(Protocol(clip=str(clip_folder)), benchmark=None, device="cpu")
    assert list(cut_prompts(pipeline, extractors, [FITS, FITS], 2)) == []
    drawn, compared = cut_prompts(pipeline, extractors, [LONG, FITS, LONG], 2)
    assert drawn.startswith("prompts: 2 of 3 are longer than the pipeline reads")
    assert compared.startswith("CLIP score: 1 of 2 prompts are longer")
    assert len(list(cut_prompts(pipeline, extractors, [FITS, LONG], 1))) == 1
    for_fid = Extractors(Protocol(clip=str(clip_folder)), None, "cpu", {Feature.POOLED})
    assert len(list(cut_prompts(pipeline, for_fid, [LONG, FITS], 2))) == 1
