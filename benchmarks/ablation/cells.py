"""Calibrations and cells: one calibration may serve several cells of a table."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dgq.recipes import Recipe
from dgq.settings import QuantizationSettings

FLOAT = 16
"""Number of bits that means floating point in settings."""


@dataclass(frozen=True)
class Calibration:
    """One run of ``train.py fit``.

    Args:
        model: embedded model.
        label: label of the recipe, for the run's folder.
        recipe: recipe of the calibration.
        seed: seed of prompts, noise and batches.
        n_prompts: prompts to learn on.
        batch_size: rows per learning step.
    """

    model: str
    label: str
    recipe: Recipe
    seed: int = 0
    n_prompts: int = 128
    batch_size: int = 16

    @property
    def name(self) -> str:
        """Name of its folder."""
        few = "" if self.n_prompts == 128 else f"-{self.n_prompts}-prompts"
        return f"{self.model}-{self.label}{few}-{self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of ``train.py fit``."""
        samples = {"seed": self.seed, "n_prompts": self.n_prompts, "batch_size": self.batch_size}
        recipe = described(self.recipe)
        return {"pipeline": self.model, "model": {"recipe": recipe}, "data": samples}


@dataclass(frozen=True)
class Cell:
    """One measured model: a calibration, with its own activations or others.

    Args:
        stage: stage of the ablation.
        row: row of the table.
        bits: the column, or the group of rows.
        recipe: recipe that gives its activations and scores.
        calibration: calibration that gives its weights and ranges.
    """

    stage: str
    row: str
    bits: str
    recipe: Recipe
    calibration: Calibration

    @property
    def name(self) -> str:
        """Name of its model, which other cells may share: the calibration and what is changed."""
        changes = [f"{name}-{value}" for name, value in self.changes.items()]
        return "--".join([self.calibration.name, *changes])

    @property
    def changes(self) -> dict[str, Any]:
        """Fields of the recipe that differ from those of the calibration's."""
        before = self.calibration.recipe
        names = [field.name for field in fields(before)]  # type: ignore[arg-type]
        own = {name: getattr(self.recipe, name) for name in names}
        return {n: value for n, value in own.items() if value != getattr(before, n)}

    @property
    def as_calibrated(self) -> bool:
        """Whether the run's own model is measured, without changes."""
        return self.recipe == self.calibration.recipe


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe as in a configuration: its class, and the values that are not defaults."""
    default, init_args = type(recipe)(), {}
    for field in fields(recipe):  # type: ignore[arg-type]
        value = getattr(recipe, field.name)
        if value != getattr(default, field.name):
            init_args[field.name] = plain(value)
    return {"class_path": type(recipe).__name__, "init_args": init_args}


def plain(value: Any) -> Any:
    """A setting as a plain value for YAML."""
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value


def serves(calibrated: Recipe, wanted: Recipe) -> bool:
    """Whether weights and ranges of one recipe's calibration are those of another's.

    This is so if the recipes differ only in bits and grouping of activations and scores, ranges are
    not learned, and everything to be quantized was observed.
    """
    if type(calibrated) is not type(wanted) or type(wanted).settings is not Recipe.settings:
        return False
    if calibrated.learning != wanted.learning or wanted.learning.learns_ranges:
        return False
    ours, theirs = calibrated.quantization, wanted.quantization
    if (ours.weights, ours.keep, ours.layers) != (theirs.weights, theirs.keep, theirs.layers):
        return False
    return observed(theirs) <= observed(ours)


def observed(settings: QuantizationSettings) -> set[str]:
    """The activations that have ranges after a calibration."""
    activations, scores = settings.activations, settings.scores
    if activations.n_bits == FLOAT:
        return set()
    # The ranges of keys and scores depend on whether the start token is kept.
    start = f"start token kept: {scores.keep_start_token}"
    names = {"inputs"} | ({f"q, k, v, {start}"} if activations.qkv else set())
    if scores.n_bits == FLOAT:
        return names
    if scores.self_attention == "affine" or scores.maximum == "calibrated":
        names.add("self-attention")
    if scores.cross_attention == "affine" or scores.maximum == "calibrated":
        names.add(f"cross-attention, {start}")
    return names
