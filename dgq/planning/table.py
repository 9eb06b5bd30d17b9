"""A plan as a table for the terminal."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from dgq.inspection.table import bits, megabytes
from dgq.math.exponents import OPERAND_BITS, spare_activation_bits, spare_weight_bits
from dgq.settings import QuantizationSettings

if TYPE_CHECKING:  # a plan prints itself as these lines
    from dgq.planning.plan import Plan


def make_table(plan: "Plan", title: str) -> Table:
    """A table with a line for each fact to know before a calibration.

    Args:
        plan: the plan to show.
        title: title of the table.
    """
    table = Table(show_header=False, title=escape(title))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(plan):
        table.add_row(name, escape(value))
    return table


def lines(plan: "Plan") -> Iterator[tuple[str, str]]:
    """Names and values, in order."""
    yield "pipeline", plan.pipeline
    largest = plan.largest_target
    yield (
        "targets",
        f"{len(plan.targets)}, learned one after another"
        f"{', then the UNet as a whole' if plan.visits_network else ''}; the largest is {largest} "
        f"with {plan.targets[largest] / 1e6:,.2f} million weights",
    )
    yield from layer_lines(plan)
    yield "spare bits", spare_line(plan.settings)
    paths = Counter(layer.path for layer in plan.layers.values())
    for path, share in plan.shares.items():
        n = paths.get(path, len(plan.kept))
        yield "computes", f"{path}: {n} layers, {100 * share:.1f} % of the multiply-accumulates"
    yield "learning", learning_line(plan)
    yield "samples", samples_line(plan)
    yield "on disk", disk_line(plan)
    yield "memory", memory_line(plan)
    yield "time", time_line(plan)


def layer_lines(plan: "Plan") -> Iterator[tuple[str, str]]:
    """How many layers have which bits, and which layers stay in full precision."""
    layers: Counter[tuple[int, int]] = Counter()
    weights: Counter[tuple[int, int]] = Counter()
    for layer in plan.layers.values():
        kind = layer.weight_bits, layer.activation_bits
        layers[kind] += 1
        weights[kind] += layer.weights
    for kind, n in weights.most_common():
        weight, activation = map(bits, kind)
        yield (
            "layers",
            f"{layers[kind]} with weights of {weight}, inputs of {activation}: "
            f"{n / 1e6:,.2f} million weights",
        )
    if plan.shares_bits:
        yield "bits", "at most, on average: shared out among the layers by their measured noise"
    yield "kept in full precision", ", ".join(plan.kept) or "none"


def spare_line(settings: QuantizationSettings) -> str:
    """Spare bits of a product's operands, and what uses them."""
    weights, activations = settings.weights, settings.activations
    if weights.n_bits > OPERAND_BITS or activations.n_bits > OPERAND_BITS:
        return "none are counted: an operand is in floating point"
    on_weights = spare_weight_bits(weights.n_bits, weights.symmetric)
    on_activations = spare_activation_bits(activations.n_bits)
    used = weights.max_exponent if weights.has_exponents else 0
    if weights.absorbs:
        channels = f"weights absorb those of channels, up to {2**activations.max_exponent}"
    elif activations.grouping == "kmeans":
        channels = "groups with free scales take none"
    else:
        channels = f"scales of channels take {activations.max_exponent}"
    return (
        f"{'none' if on_weights is None else on_weights} in the weights, {on_activations} in the "
        f"activations; groups of weights take {used}, {channels}"
    )


def learning_line(plan: "Plan") -> str:
    """How each target is learned."""
    learning = plan.learning
    if learning.total_iterations == 0:
        return "none: rounding to nearest"
    ranges = ", ranges of activations too" if learning.learns_ranges else ""
    return (
        f"{learning.iterations} steps on rounding and scales and {learning.polish_iterations} with "
        f"the rounding fixed, for each target{ranges}"
    )


def samples_line(plan: "Plan") -> str:
    """What the calibration learns from."""
    amount = plan.amount
    halves = "two rows each, with guidance" if amount.n_rows == 2 else "a row each"
    return (
        f"{amount.n_samples} to learn on and {amount.n_held_out} held out, {halves}, from "
        f"{plan.n_prompts} prompts at {plan.n_calls} calls of the UNet"
    )


def disk_line(plan: "Plan") -> str:
    """Files that are written."""
    names = ["model", "checkpoint", "recorded calls"]
    names += ["waiting samples"] if plan.waiting.place == "disk" else []
    return ", ".join(f"{name} {megabytes(plan.n_bytes[name])}" for name in names)


def memory_line(plan: "Plan") -> str:
    """The least memory that is held."""
    names = ["UNet in float32", "recorded calls"]
    names += [] if plan.waiting.place == "disk" else ["waiting samples"]
    held = ", ".join(f"{name} {megabytes(plan.n_bytes[name])}" for name in names)
    waiting, free = plan.n_bytes["waiting samples"], plan.free_bytes
    short = "" if waiting <= free else ": THEY DO NOT FIT"
    return (
        f"at least {megabytes(sum(plan.n_bytes[n] for n in names))}: {held}; samples wait on "
        f"{plan.waiting.place}, where {megabytes(free)} are free{short}"
    )


def time_line(plan: "Plan") -> str:
    """How long it may take."""
    phases = ", ".join(f"{name} {minutes(s)}" for name, s in plan.seconds.items())
    total = minutes(sum(plan.seconds.values()))
    return (
        f"about {total} ({phases}), estimated from a probe of one layer ({plan.machine}); the "
        "truth may be half or twice as much"
    )


def minutes(seconds: float) -> str:
    """A duration in minutes or hours."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
