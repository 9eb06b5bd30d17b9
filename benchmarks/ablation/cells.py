"""What is calibrated and what is measured: one calibration may serve several cells of a table."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dgq.recipes import Recipe
from dgq.settings import QuantizationSettings

FLOAT = 16
"""Bits that stand for floating point in settings."""


@dataclass(frozen=True)
class Calibration:
    """One run of ``train.py fit``.

    Args:
        model: embedded model.
        label: of the recipe, for the run's folder.
        recipe: by which it is calibrated.
        seed: of prompts, noise and batches.
        n_prompts: to learn on.
        batch_size: rows in a step of learning.
    """

    model: str
    label: str
    recipe: Recipe
    seed: int = 0
    n_prompts: int = 128
    batch_size: int = 16

    @property
    def name(self) -> str:
        """Of its folder."""
        few = "" if self.n_prompts == 128 else f"-{self.n_prompts}-prompts"
        return f"{self.model}-{self.label}{few}-{self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """What ``train.py fit`` is configured with."""
        samples = {"seed": self.seed, "n_prompts": self.n_prompts, "batch_size": self.batch_size}
        recipe = described(self.recipe)
        return {"pipeline": self.model, "model": {"recipe": recipe}, "data": samples}


@dataclass(frozen=True)
class Cell:
    """One measured model: a calibration, with its own activations or others.

    Args:
        stage: of the ablation.
        row: of the table.
        bits: the column, or the group of rows.
        recipe: whose activations and scores it has.
        calibration: whose weights and ranges it has.
    """

    stage: str
    row: str
    bits: str
    recipe: Recipe
    calibration: Calibration

    @property
    def name(self) -> str:
        """Of its model, which other cells may have too: the calibration, and what is changed."""
        changes = [f"{name}-{value}" for name, value in self.changes.items()]
        return "--".join([self.calibration.name, *changes])

    @property
    def changes(self) -> dict[str, Any]:
        """Fields of the recipe that the calibration's has otherwise."""
        before = self.calibration.recipe
        names = [field.name for field in fields(before)]  # type: ignore[arg-type]
        own = {name: getattr(self.recipe, name) for name in names}
        return {n: value for n, value in own.items() if value != getattr(before, n)}

    @property
    def as_calibrated(self) -> bool:
        """Whether the run's own model is measured."""
        return self.recipe == self.calibration.recipe


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a configuration names it: its class, and what is not its default."""
    default, init_args = type(recipe)(), {}
    for field in fields(recipe):  # type: ignore[arg-type]
        value = getattr(recipe, field.name)
        if value != getattr(default, field.name):
            init_args[field.name] = plain(value)
    return {"class_path": type(recipe).__name__, "init_args": init_args}


def plain(value: Any) -> Any:
    """A setting as YAML holds it."""
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value


def serves(calibrated: Recipe, wanted: Recipe) -> bool:
    """Whether weights and ranges of one recipe's calibration are those of another's.

    They are where the recipes differ in bits and grouping of activations and scores alone, ranges
    are not learned, and what is quantized was observed.
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
    """What of the activations has ranges after a calibration."""
    activations, scores = settings.activations, settings.scores
    if activations.n_bits == FLOAT:
        return set()
    # Keys and scores have other ranges with the start token than without.
    start = f"start token kept: {scores.keep_start_token}"
    names = {"inputs"} | ({f"q, k, v, {start}"} if activations.qkv else set())
    if scores.n_bits == FLOAT:
        return names
    if scores.self_attention == "affine" or scores.maximum == "calibrated":
        names.add("self-attention")
    if scores.cross_attention == "affine" or scores.maximum == "calibrated":
        names.add(f"cross-attention, {start}")
    return names
