"""The registered benchmarks: the only module that imports the embedded models.

To add a benchmark, write a file that makes a ``Benchmark`` and add its name to ``BENCHMARKS``; its
pipelines get their names from a ``pipelines.json`` (``dgq.pipelines.embedded``).
"""

from collections.abc import Iterable
from typing import Final

import scenes
from data.benchmark import Benchmark
from dgq.storage.manifest import GenerationSettings

SCENES_GENERATION: Final = GenerationSettings(scenes.NUM_INFERENCE_STEPS, scenes.GUIDANCE_SCALE)

SCENES: Final = Benchmark(
    name="scenes",
    generation={
        "scenes": SCENES_GENERATION,
        "scenes-xl": SCENES_GENERATION,
        "scenes-few-step": GenerationSettings(scenes.FEW_STEPS, guidance_scale=0.0),
    },
    clip=scenes.CLIP_DIR,
    sample_prompts=scenes.sample_captions,
    is_prompt=scenes.is_scene_caption,
    render=scenes.render,
    class_prompts=scenes.class_prompts,
    attributes=scenes.ATTRIBUTES,
    score=scenes.score,
)
"""Captioned scenes, their renderer, and the oracle that reads them."""

BENCHMARKS: Final = (SCENES,)
DEFAULT: Final = BENCHMARKS[0]
"""Benchmark whose prompts are drawn if neither a file nor the pipeline's benchmark is known."""
DEFAULT_PIPELINE: Final = next(iter(DEFAULT.generation))


def benchmark_of_pipeline(source: str) -> Benchmark | None:
    """The benchmark that a pipeline belongs to, by its name."""
    return next((each for each in BENCHMARKS if source in each.generation), None)


def benchmark_of_prompts(prompts: Iterable[str]) -> Benchmark | None:
    """The benchmark that understands all of the prompts, if any."""
    texts = list(prompts)
    return next((each for each in BENCHMARKS if all(map(each.is_prompt, texts))), None)


def default_generation(source: str) -> GenerationSettings:
    """The default sampling of a pipeline."""
    benchmark = benchmark_of_pipeline(source)
    return GenerationSettings() if benchmark is None else benchmark.generation[source]
