"""Which cells there are, the most telling first; a new recipe or option is a line here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ablation.cells import Calibration, Cell, serves
from dgq.recipes import DGQ, RECIPES, Recipe
from dgq.settings import LearningSettings

MODELS = ("scenes", "scenes-xl")
SEEDS = (0, 1, 2)
BITS = ("w4a8", "w4a6", "w4a4")

FAMILIES = {
    "rtn_": "RTN",
    "qdiffusion_": "Q-Diffusion",
    "tfmq_": "TFMQ-DM",
    "mixdq_": "MixDQ",
    "dgq_": "DGQ, weights learned our way",
    "": "ours",
}
"""What names in ``dgq.RECIPES`` begin with, and their rows; what is not there is left out."""

REPEATED = ("dgq_", "")
"""Families with three seeds by default."""

PUBLISHED = LearningSettings(
    iterations=20000,
    polish_iterations=0,
    activation_lr=0,
    rounding_lr=1e-3,
    scale_lr=0,
    decay="constant",
    penalty=0.01,
    warmup=0.2,
)
"""As in configs/published.yaml, but for the batches of 16."""

NEAREST = LearningSettings(iterations=0, polish_iterations=0)
SET_SIZES = (8, 32)
"""Prompts to learn on, beside the default of 128."""

GROUPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Choice:
    """What is asked for.

    Args:
        stages: of the ablation.
        models: embedded ones.
        seeds: of the calibrations.
        families: of recipes, as in FAMILIES.
        full: every recipe with every seed, and bits and models that the default leaves out.
        published_iterations: of the published learning.
    """

    stages: Sequence[str]
    models: Sequence[str] = MODELS
    seeds: Sequence[int] = SEEDS
    families: Sequence[str] = tuple(FAMILIES)
    full: bool = False
    published_iterations: int = 2000


def cells_of(choice: Choice) -> list[Cell]:
    """All cells, each calibration used wherever it serves."""
    made: list[Cell] = []
    for stage, row, bits, wanted in wanted_cells(choice):
        shared = (c.calibration for c in made)
        found = next((c for c in shared if same_samples(c, wanted)), wanted)
        made.append(Cell(stage, row, bits, wanted.recipe, found))
    return made


def same_samples(calibration: Calibration, wanted: Calibration) -> bool:
    """Whether a calibration serves what is wanted."""
    samples = (calibration.model, calibration.seed, calibration.n_prompts)
    if samples != (wanted.model, wanted.seed, wanted.n_prompts):
        return False
    return calibration.recipe == wanted.recipe or serves(calibration.recipe, wanted.recipe)


def wanted_cells(choice: Choice) -> Iterator[tuple[str, str, str, Calibration]]:
    """Stage, row and bits of each cell, and the calibration it would have of its own."""
    stages = {"main": main, "components": components, "scores": scores, "samples": samples}
    # The first seed of everything comes before the others of anything.
    first = replace(choice, seeds=choice.seeds[:1])
    for name, stage in stages.items():
        if name in choice.stages:
            yield from ((name, *cell) for cell in stage(first))
    for seed in choice.seeds[1:]:
        for name, stage in stages.items():
            if name in choice.stages and (name == "main" or choice.full):
                again = replace(choice, seeds=(seed,))
                if not choice.full:
                    again = replace(again, families=[f for f in choice.families if f in REPEATED])
                yield from ((name, *cell) for cell in stage(again))


Found = Iterator[tuple[str, str, Calibration]]


def main(choice: Choice) -> Found:
    """Every recipe at every number of bits."""
    bits = ("w8a8", *BITS) if choice.full else BITS
    for model in choice.models:
        for family in choice.families:
            for each in bits:
                recipe = RECIPES.get(family + each)
                if recipe is not None:
                    row = FAMILIES[family]
                    label = family + each
                    yield row, each, Calibration(model, label, recipe, choice.seeds[0])
    if "dgq_" in choice.families and choice.published_iterations:
        yield from published(choice)


def published(choice: Choice) -> Found:
    """DGQ with weights learned as published; few iterations by default, of the first model."""
    n = choice.published_iterations
    learning = replace(PUBLISHED, iterations=n)
    for model in choice.models if choice.full else choice.models[:1]:
        if choice.seeds[0] and not choice.full:
            return
        for each in ("w4a8", "w4a6"):
            recipe = replace(RECIPES["dgq_" + each], learning=learning)  # type: ignore[type-var]
            label = f"dgq_{each}-published-{n}"
            row = f"DGQ, weights learned as published, {n:,} iterations"
            yield row, each, Calibration(model, label, recipe, choice.seeds[0])


def components(choice: Choice) -> Found:
    """The parts of DGQ in the paper's order, with weights to nearest and learned."""
    for model in choice.models if choice.full else choice.models[:1]:
        for weights, learning in (("nearest", NEAREST), ("learned", LearningSettings())):
            for bits in (8, 6):
                for row, recipe in component_recipes(bits, learning):
                    label = f"dgq_w4a{bits}" + ("-nearest" if weights == "nearest" else "")
                    calibration = Calibration(model, label, recipe, choice.seeds[0])
                    yield row, f"W4A{bits}, {weights}", calibration


def component_recipes(bits: int, learning: LearningSettings) -> Iterator[tuple[str, Recipe]]:
    """One thing is added at a time; the whole of DGQ comes first, since its ranges serve all."""
    whole = DGQ(4, bits, learning=learning)
    without_start = replace(whole, keep_start_token=False)
    affine = replace(without_start, cross_attention="affine")
    yield "+ `<start>` kept (DGQ)", whole
    yield "per-tensor, static", replace(affine, n_groups=1, per_step=False)
    yield "+ per step", replace(affine, n_groups=1)
    yield "+ 8 groups", affine
    yield "+ log scores in cross-attention", without_start
    for n in GROUPS:
        if n not in (1, 8):
            yield f"DGQ with {n} groups", replace(whole, n_groups=n)


def scores(choice: Choice) -> Found:
    """Scores at the activations' bits, and in floating point."""
    for model in choice.models:
        for family in ("rtn_", "dgq_"):
            for each in ("w4a8", "w4a6"):
                recipe = RECIPES.get(family + each)
                if family in choice.families and recipe is not None:
                    for name, n_bits in (("activations' bits", None), ("16 bits", 16)):
                        wanted = replace(recipe, score_bits=n_bits)  # type: ignore[type-var]
                        label = family + each
                        calibration = Calibration(model, label, wanted, choice.seeds[0])
                        yield f"{FAMILIES[family]}, scores at {name}", each, calibration


def samples(choice: Choice) -> Found:
    """How many prompts a calibration needs."""
    for model in choice.models if choice.full else choice.models[:1]:
        for family in [f for f in (REPEATED if choice.full else ("",)) if f in choice.families]:
            for n in (*SET_SIZES, 128):
                label, recipe = family + "w4a8", RECIPES[family + "w4a8"]
                calibration = Calibration(model, label, recipe, choice.seeds[0], n)
                yield f"{FAMILIES[family]}, {n} prompts", "w4a8", calibration
