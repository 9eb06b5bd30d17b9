"""The cells of the ablation, most informative first; a new recipe or option is one line here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.ablation.cells import Calibration, Cell, serves
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
    "dgq_": "DGQ, our weight learning",
    "": "ours",
}
"""Prefixes of names in ``dgq.RECIPES``, with their rows; other recipes are left out."""

REPEATED = ("dgq_", "")
"""Families that use all seeds by default."""

ON_ALL_MODELS = ("rtn_", *REPEATED)
"""Families that are calibrated for every model by default."""

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
"""As in configs/published.yaml."""

PUBLISHED_BATCH = 8

NEAREST = LearningSettings(iterations=0, polish_iterations=0)
SET_SIZES = (8, 32)
"""Numbers of prompts to learn on, besides the default of 128."""

GROUPS = (1, 2, 4, 16)
"""Numbers of groups besides the default of 8."""

COMPONENT_BITS = (8, 6)


@dataclass(frozen=True)
class Choice:
    """The requested part of the ablation.

    Args:
        stages: stages of the ablation.
        models: embedded models.
        seeds: seeds of the calibrations.
        families: families of recipes, as in FAMILIES.
        full: every recipe with every seed, and bits and models that the default leaves out.
        published_iterations: iterations of the published learning.
        n_prompts: prompts to calibrate on.
    """

    stages: Sequence[str]
    models: Sequence[str] = MODELS
    seeds: Sequence[int] = SEEDS
    families: Sequence[str] = tuple(FAMILIES)
    full: bool = False
    published_iterations: int = 1000
    n_prompts: int = 128


def cells_of(choice: Choice) -> list[Cell]:
    """All cells, with each calibration shared by all cells that it serves."""
    made: list[Cell] = []
    for stage, row, bits, wanted in wanted_cells(choice):
        shared = (c.calibration for c in made)
        found = next((c for c in shared if same_samples(c, wanted)), wanted)
        made.append(Cell(stage, row, bits, wanted.recipe, found))
    return made


def same_samples(calibration: Calibration, wanted: Calibration) -> bool:
    """Whether an existing calibration serves a wanted one."""
    alike = replace(calibration, label=wanted.label, recipe=wanted.recipe)
    if alike != wanted:
        return False
    return calibration.recipe == wanted.recipe or serves(calibration.recipe, wanted.recipe)


def wanted_cells(choice: Choice) -> Iterator[tuple[str, str, str, Calibration]]:
    """Stage, row and bits of each cell, and the calibration that it would need on its own."""
    stages = {"main": main, "components": components, "scores": scores, "samples": samples}
    # The first seed of every cell comes before further seeds of any.
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
            if not (choice.full or family in ON_ALL_MODELS or model == choice.models[0]):
                continue
            for each in bits:
                label = family + each
                if label in RECIPES:
                    drawn = (choice.seeds[0], choice.n_prompts)
                    calibration = Calibration(model, label, RECIPES[label], *drawn)
                    yield FAMILIES[family], each, calibration
    if "dgq_" in choice.families and choice.published_iterations:
        yield from published(choice)


def published(choice: Choice) -> Found:
    """DGQ with weights learned as published; by default few iterations, first model only."""
    n = choice.published_iterations
    learning = replace(PUBLISHED, iterations=n)
    for model in choice.models if choice.full else choice.models[:1]:
        if choice.seeds[0] and not choice.full:
            return
        for each in ("w4a8", "w4a6"):
            recipe = replace(RECIPES["dgq_" + each], learning=learning)  # type: ignore[type-var]
            label = f"dgq_{each}-published-{n}"
            row = f"DGQ, published weight learning, {n:,} iterations"
            calibration = Calibration(
                model, label, recipe, choice.seeds[0], batch_size=PUBLISHED_BATCH
            )
            yield row, each, calibration


def components(choice: Choice) -> Found:
    """DGQ's parts in the paper's order, each row adding one; then other numbers of groups."""
    for model in choice.models if choice.full else choice.models[:1]:
        for bits in COMPONENT_BITS:
            for label, row, recipe in component_recipes(bits):
                yield row, f"w4a{bits}", Calibration(model, label, recipe, choice.seeds[0])


def component_recipes(bits: int) -> Iterator[tuple[str, str, Recipe]]:
    """Label of the calibration, row, and recipe."""
    nearest = f"dgq_w4a{bits}-nearest"
    learned = DGQ(4, bits)
    live = replace(learned, learning=NEAREST)
    kept = replace(live, maximum="calibrated")
    log = replace(kept, keep_start_token=False)
    groups = replace(log, cross_attention="affine", maximum="live")
    yield f"{nearest}-affine", "8 groups", groups
    yield f"{nearest}-affine", "per-tensor, static", replace(groups, n_groups=1, per_step=False)
    yield f"{nearest}-affine", "per step", replace(groups, n_groups=1)
    yield f"{nearest}-log", "log scores in cross-attention", log
    yield f"{nearest}-start", "`<start>` kept", kept
    yield nearest, "live maximum", live
    yield f"dgq_w4a{bits}", "learned rounding", learned
    for n in GROUPS:
        yield f"dgq_w4a{bits}", f"DGQ, {n} group{'s' * (n > 1)}", replace(learned, n_groups=n)


def scores(choice: Choice) -> Found:
    """Attention scores at the activations' bits, and in floating point."""
    for model in choice.models:
        for family, each in product(("rtn_", "dgq_"), ("w4a8", "w4a6")):
            label = family + each
            if family not in choice.families or label not in RECIPES:
                continue
            for name, n_bits in (("the activations' bits", None), ("16 bits", 16)):
                wanted = replace(RECIPES[label], score_bits=n_bits)  # type: ignore[type-var]
                calibration = Calibration(model, label, wanted, choice.seeds[0])
                yield f"{FAMILIES[family]}, scores at {name}", each, calibration


def samples(choice: Choice) -> Found:
    """Number of prompts that a calibration needs."""
    for model in choice.models if choice.full else choice.models[:1]:
        for family in [f for f in (REPEATED if choice.full else ("",)) if f in choice.families]:
            for n in (*SET_SIZES, 128):
                label, recipe = family + "w4a8", RECIPES[family + "w4a8"]
                calibration = Calibration(model, label, recipe, choice.seeds[0], n)
                yield f"{FAMILIES[family]}, {n} prompts", "w4a8", calibration
