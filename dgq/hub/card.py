"""The text of a model card."""

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from dgq.hub.evidence import Evidence
from dgq.hub.facts import UNKNOWN_PIPELINE, Facts
from dgq.hub.names import publishable, without_paths
from dgq.hub.reproduction import commands, recipe_yaml
from dgq.pipelines.embedded import EMBEDDED
from dgq.settings import LIVE, QuantizationSettings

PROMPT = "a small red circle above a blue square"


def card_text(facts: Facts) -> str:
    """The whole card, header first."""
    sections = (introduction, contents, results, loading, reproduction, limits)
    body = "\n\n".join("\n".join(section(facts)) for section in sections)
    return f"---\n{header(facts)}\n---\n\n{body}\n"


def header(facts: Facts) -> str:
    """The header, which the hub reads."""
    own: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["dgq", "quantized", short_bits(facts.manifest.quantization).lower()],
    }
    if facts.base_model is not None:
        own |= {"base_model": facts.base_model, "base_model_relation": "quantized"}
    return str(ModelCardData(**{**facts.header, **own}).to_yaml()).strip()


def introduction(facts: Facts) -> Iterator[str]:
    """Title and summary."""
    bits = short_bits(facts.manifest.quantization)
    name = facts.base_model or publishable(facts.manifest.pipeline)
    embedded = name in EMBEDDED
    origin = f"the embedded model `{name}` of DGQ" if embedded else f"`{name}`"
    yield f"# UNet at {bits}, quantized by DGQ"
    yield ""
    yield (
        f"The UNet of {origin if name else 'a text-to-image pipeline'}, quantized after training "
        f"without retraining: {facts.full_bytes / 1e6:,.1f} MB in full precision, "
        f"{facts.n_bytes / 1e6:,.1f} MB here."
    )


def contents(facts: Facts) -> Iterator[str]:
    """Recipe, bits, sizes and hashes."""
    manifest = facts.manifest
    yield "## Contents"
    yield ""
    for kind in facts.kinds:
        plural = "s" if kind.layers > 1 else ""
        yield (
            f"- {kind.layers} layer{plural} with weights of {kind.weight_bits} and inputs of "
            f"{kind.activation_bits} bits ({kind.weights / 1e6:,.2f} million weights)"
        )
    yield f"- in full precision: {', '.join(facts.kept) or 'no layer'}"
    yield from (f"- {line}" for line in recipe_lines(manifest.quantization))
    if manifest.prompt_hashes:
        yield f"- calibrated on {len(manifest.prompt_hashes):,} prompts"
    yield f"- SHA-256 of the model (`python -m dgq inspect` verifies it): `{manifest.sha256}`"
    if manifest.unet_sha256:
        yield f"- SHA-256 of the UNet that it was made from: `{manifest.unet_sha256}`"


def results(facts: Facts) -> Iterator[str]:
    """The measured results."""
    evidence, report = facts.evidence, facts.evidence.report
    yield "## Measured"
    yield ""
    if evidence.protocol is not None:
        yield from evaluation(evidence.protocol, evidence)
    elif "sqnr_db" not in report:
        yield "Images of this model were not measured."
    if "sqnr_db" in report:
        yield (
            f"SQNR of the UNet's output on {report.get('n_held_out')} held-out samples of the "
            f"calibration: {report['sqnr_db']:.1f} dB."
        )


def evaluation(protocol: Mapping[str, Any], evidence: Evidence) -> Iterator[str]:
    """The table of an evaluation."""
    yield "| | full precision | this model |"
    yield "|---|---|---|"
    for row in evidence.rows:
        yield f"| {row.label} | {row.full_precision} | {row.quantized} |"
    yield ""
    seeds = ", ".join(str(seed) for seed in protocol["seeds"])
    yield (
        "In brackets: 95 % bootstrap interval over prompts; numbers without one are of the whole "
        "set, of too few prompts, or the same for all. "
        f"{protocol['num_images']} images, seeds {seeds}, {protocol['num_inference_steps']} "
        f"steps of {protocol['sampler']}, guidance {protocol['guidance_scale']:g}, on "
        f"{protocol['device']}. Prompts: {named(protocol['prompts'])}. References: "
        f"{named(protocol['references'] or 'none')}."
    )
    for metric, extractor in protocol["extractors"].items():
        if extractor:
            yield f"{metric}: {named(extractor)}."
    if evidence.execution is not None:
        yield (
            f"{evidence.execution['integer_layers']} layers multiplied integers, the rest "
            f"computed in {evidence.execution['dtype']}."
        )


def loading(facts: Facts) -> Iterator[str]:
    """Section with the code that loads it."""
    yield "## How to load"
    yield ""
    yield "Needs the Python package `dgq`, which diffusers finds once it is imported."
    if facts.pipeline == UNKNOWN_PIPELINE and facts.loads != "pipeline":
        yield f"`{UNKNOWN_PIPELINE}` stands for the pipeline that it was made from."
    yield ""
    yield "```python"
    yield from loading_lines(facts)
    yield "```"


def loading_lines(facts: Facts) -> Iterator[str]:
    """Python code that loads it and draws an image."""
    repo, base = facts.repo_id, facts.pipeline
    if facts.loads == "pipeline":
        yield "import dgq"
        yield "from diffusers import DiffusionPipeline"
        yield ""
        yield f'pipeline = DiffusionPipeline.from_pretrained("{repo}")'
    elif facts.loads == "earlier":
        yield "import dgq"
        yield "from huggingface_hub import snapshot_download"
        yield ""
        yield f'unet = dgq.load_quantized_unet(snapshot_download("{repo}"))'
        yield f'pipeline = dgq.load_pipeline("{base}", unet)'
    else:
        on_hub = facts.base_model is not None
        yield "import dgq"
        yield f"from diffusers import {'DiffusionPipeline, ' if on_hub else ''}UNet2DConditionModel"
        yield ""
        yield f'unet = UNet2DConditionModel.from_pretrained("{repo}")'
        if on_hub:
            yield f'pipeline = DiffusionPipeline.from_pretrained("{base}", unet=unet)'
        else:
            yield f'pipeline = dgq.load_pipeline("{base}", unet)'
    options = {k: v for k, v in vars(facts.manifest.generation).items() if v is not None}
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    yield f'image = pipeline("{PROMPT}", {arguments}).images[0]'


def reproduction(facts: Facts) -> Iterator[str]:
    """Section on how to make and measure it again."""
    evidence = facts.evidence
    name = facts.repo_id.rpartition("/")[2]
    yield "## How to reproduce"
    yield ""
    yield "In the repository of `dgq`, with this as `recipe.yaml`:"
    if not evidence.config:
        yield "(how its rounding was learned, and on which samples, was not noted)"
    yield ""
    yield "```yaml"
    yield recipe_yaml(facts.manifest, evidence.config).rstrip()
    yield "```"
    yield ""
    yield "```"
    yield from commands(evidence, facts.pipeline, name)
    yield "```"


def limits(facts: Facts) -> Iterator[str]:
    """Section on its limits."""
    manifest = facts.manifest
    height, width = manifest.latent_size
    yield "## Limits"
    yield ""
    elsewhere = (
        "at other timesteps the scales of the nearest calibrated one are used, with a loss"
        if manifest.quantization.follows_steps
        else "no scale depends on the timestep"
    )
    yield (
        f"- Calibrated for {manifest.generation.num_inference_steps} steps at guidance "
        f"{manifest.generation.guidance_scale:g} and latents of {height} x {width}; {elsewhere}."
    )
    yield (
        "- Integers are multiplied on CPUs with AVX2 or VNNI and on NVIDIA GPUs from Ampere on, "
        "but not by layers with k-means groups; elsewhere it computes in floating point on "
        "packed weights."
    )
    yield "- Limits and licence of the model that it was made from hold for it too."


def recipe_lines(settings: QuantizationSettings) -> Iterator[str]:
    """The settings of the quantization in words."""
    weights, activations, scores = settings.weights, settings.activations, settings.scores
    if weights.n_bits < 16:
        groups = (
            f", groups of {weights.group_size} inputs with exponents up to {weights.max_exponent}"
            if weights.has_exponents
            else ""
        )
        kind = "symmetric" if weights.symmetric else "asymmetric"
        yield f"weights: {kind}, ranges by {weights.range_method}{groups}"
    if activations.n_bits < 16:
        own = (layer.activations for layer in settings.layers.values() if layer.activations)
        largest = max(each.max_exponent for each in (activations, *own))
        way = f"{activations.grouping}, scales of channels up to 2^{largest} times the finest"
        if activations.grouping == "kmeans":
            way = f"{activations.n_groups} k-means groups"
        steps = "for each step" if activations.per_step else "for all steps"
        steps = "of each sample" if activations.grouping in LIVE else steps
        inside = "quantized too" if activations.qkv else "in floating point"
        yield f"activations: {way}, scales {steps}; q, k and v {inside}"
    if settings.split_skips:
        where = " and ".join(settings.split_skips)
        yield f"skips: quantized separately in {where}, with their weights"
    if scores.n_bits < 16:
        start = ", `<start>` kept" if scores.keep_start_token else ""
        yield (
            f"attention scores: {scores.n_bits} bits, {scores.cross_attention} in "
            f"cross-attention{start}, {scores.self_attention} in self-attention"
        )
    else:
        yield "attention scores: in floating point"


def short_bits(settings: QuantizationSettings) -> str:
    """Bits in short, such as W4A8."""
    return f"W{settings.weights.n_bits}A{settings.activations.n_bits}"


def named(text: object) -> str:
    """Foreign text for a table cell or paragraph, without local paths."""
    return " ".join(without_paths(str(text)).replace("|", "/").split())
