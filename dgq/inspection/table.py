"""The inspection of a model as a table for the terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from dgq.settings import FLOAT_BITS

MEGABYTE = 1e6


def make_table(found: Mapping[str, Any]) -> Table:
    """A table with a line for each thing that ``inspect_model`` found."""
    table = Table(show_header=False, title=escape(found["folder"]))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(found):
        table.add_row(name, escape(value))
    return table


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values, in order."""
    yield "format", f"{found['format']}: {found['verified']}"
    yield "sha256", found["sha256"]
    yield "made from", found["pipeline"] or "not noted"
    yield "sha256 of its UNet", found["unet_sha256"] or "not noted"
    for kind in found["layers"]:
        yield "layers", layers_line(kind)
    yield "kept in full precision", ", ".join(found["kept"]) or "none"
    yield "weights", weights_line(found)
    yield "activations", activations_line(found)
    yield "attention scores", scores_line(found["recipe"]["scores"])
    yield "prompts", f"{found['n_prompts']:,}" if found["n_prompts"] else "not noted"
    yield "sampler", sampler_line(found)
    yield "size", size_line(found["bytes"])
    yield from execution_lines(found["execution"])


def layers_line(kind: Mapping[str, int]) -> str:
    """How many layers have which bits."""
    weight, activation = (bits(kind[f"{name}_bits"]) for name in ("weight", "activation"))
    return (
        f"{kind['layers']} with weights of {weight}, inputs of {activation}: "
        f"{kind['weights'] / 1e6:,.2f} million weights"
    )


def widths(kinds: Sequence[Mapping[str, int]]) -> str:
    """Bits of the quantized weights; if layers differ, their range and average."""
    sizes: Counter[int] = Counter()
    for kind in kinds:
        if kind["weight_bits"] < FLOAT_BITS:
            sizes[kind["weight_bits"]] += kind["weights"]
    low, high = min(sizes), max(sizes)
    if low == high:
        return f"{low} bits"
    mean = sum(bits * n for bits, n in sizes.items()) / sizes.total()
    return f"{low} to {high} bits, {mean:.2f} on average"


def weights_line(found: Mapping[str, Any]) -> str:
    """How weights are quantized."""
    weights = found["recipe"]["weights"]
    if weights["n_bits"] >= 16:
        return "in floating point"
    kind = "symmetric" if weights["symmetric"] else "asymmetric"
    line = f"{widths(found['layers'])}, {kind}, ranges by {weights['range_method']}"
    if weights.get("absorbs"):
        line += ", multiplied by the multiples of their input's channels"
    if found["weight_exponents"]:
        line += f"; groups of {weights['group_size']} inputs by exponent: "
        line += shares(found["weight_exponents"])
    return line


def activations_line(found: Mapping[str, Any]) -> str:
    """How activations are quantized."""
    counts = found["activations"]
    if not counts:
        return "in floating point"
    line = ", ".join(f"{n} of {each} bits" for each, n in counts.items())
    line += ", scales by step" if found["recipe"]["activations"]["per_step"] else ""
    if found["activation_multiples"]:
        line += f"; channels by multiple: {shares(by_powers(found['activation_multiples']))}"
    groups = found["activation_groups"]
    if groups:
        along = ", ".join(f"{n} along {axis}" for axis, n in groups["along"].items())
        counts = ", ".join(f"{n} with {size}" for size, n in groups["groups"].items())
        line += f"; k-means groups: {along}; {counts} groups"
    return line


def scores_line(scores: Mapping[str, Any]) -> str:
    """How attention scores are quantized."""
    if scores["n_bits"] >= 16:
        return "in floating point"
    kept = ", <start> kept" if scores["keep_start_token"] else ""
    return (
        f"{scores['n_bits']} bits; cross-attention {scores['cross_attention']}{kept}; "
        f"self-attention {scores['self_attention']}"
    )


def sampler_line(found: Mapping[str, Any]) -> str:
    """The sampler settings that it was calibrated for."""
    sampling = found["generation"]
    height, width = found["latent_size"]
    times = found["timesteps"]
    return (
        f"{sampling['num_inference_steps']} steps, guidance {sampling['guidance_scale']:g}, "
        f"latents of {height} x {width}; {len(times)} timesteps, {max(times):g} to {min(times):g}"
    )


def size_line(sizes: Mapping[str, int]) -> str:
    """How large it is."""
    full, on_disk, in_memory = (sizes[name] for name in ("full_precision", "on_disk", "in_memory"))
    return (
        f"{megabytes(on_disk)} on disk, {megabytes(in_memory)} in memory; {megabytes(full)} in "
        f"full precision (÷ {full / on_disk:.1f} and ÷ {full / in_memory:.1f})"
    )


def megabytes(n_bytes: int) -> str:
    """Bytes as text."""
    return f"{n_bytes / MEGABYTE:,.{1 if n_bytes >= MEGABYTE else 3}f} MB"


def execution_lines(execution: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """How it runs on this machine."""
    yield "multiply integers here", f"{execution['integer_layers']} layers"
    for reason, n in execution["float_layers"].items():
        yield "in floating point", f"{n} layers: {reason}"
    features = ", ".join(execution["features"]) or "no fast integer products"
    yield "the rest", f"in {execution['dtype']}, attention by {execution['attention']}; {features}"


def by_powers(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of whole numbers from 1 up, which may be thousands, added up between powers of two."""
    ranges: dict[int, list[int]] = {}
    for value in sorted(map(int, counts)):
        ranges.setdefault(value.bit_length(), []).append(value)
    return {
        f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0]): sum(
            counts[str(value)] for value in found
        )
        for found in ranges.values()
    }


def shares(counts: Mapping[str, int]) -> str:
    """Counts as percentages."""
    total = sum(counts.values())
    return ", ".join(f"{value}: {100 * n / total:.0f} %" for value, n in counts.items())


def bits(n: int) -> str:
    """Bits as text."""
    return "floating point" if n >= FLOAT_BITS else f"{n} bits"
