"""The inputs of an evaluation, loaded and checked before any work starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from data.embedded import DEFAULT, benchmark_of_pipeline
from evaluation.comparison import Comparison, chosen_source, load_comparison
from evaluation.cut_prompts import cut_prompts
from evaluation.devices import find_devices
from evaluation.features.extractors import Extractors
from evaluation.features.references import check_references
from evaluation.images.image_set import ImageSet, image_sets, rows_of_a_batch
from evaluation.images.store import ImageStore
from evaluation.known_prompts import known_prompts
from evaluation.metrics.metric import Metric
from evaluation.metrics.registry import choose_metrics
from evaluation.models import find_models
from evaluation.prompts import Prompts, load_prompts
from evaluation.protocol import Protocol
from evaluation.settings import EvaluationSettings
from evaluation.words import listed

PROBE = Image.new("RGB", (64, 64))
"""A test image for every network, before hours of drawing."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation's stages.

    Args:
        settings: the user's settings.
        prompts: prompts, one for each image.
        comparison: the pipeline and the UNets that draw.
        sets: the images of each model with each seed.
        devices: one process draws on each; the first measures.
        metrics: metrics to measure.
        extractors: networks that extract the features they need.
        notes: remarks for readers of the results.
    """

    settings: EvaluationSettings
    prompts: Prompts
    comparison: Comparison
    sets: list[ImageSet]
    devices: list[str]
    metrics: list[Metric]
    extractors: Extractors
    notes: list[str]

    @property
    def protocol(self) -> Protocol:
        """The protocol, which determines the numbers."""
        return self.settings.protocol

    @property
    def batch_size(self) -> int:
        """Number of images drawn and measured at once."""
        return rows_of_a_batch(self.settings, self.prompts.captions)

    @property
    def n_embedded(self) -> int:
        """Number of images, from the first, that the CLIP score uses."""
        return len(self.prompts.captions[: self.protocol.clip_images])

    def stores_of_first_seed(self) -> dict[str, ImageStore]:
        """Stores of every model's images with the first seed, by name."""
        first = [each for each in self.sets if each.seed == self.protocol.seeds[0]]
        return {self.comparison.models[each.model].name: each.store for each in first}


def load_inputs(settings: EvaluationSettings) -> Inputs:
    """Load and check everything; nothing is written.

    Raises:
        DGQError: if anything is missing, damaged, or does not fit together.
    """
    protocol = settings.protocol
    models = find_models(settings.ckpt)
    source = chosen_source(settings, models)
    benchmark = benchmark_of_pipeline(source) or DEFAULT
    prompts = load_prompts(protocol.prompts, protocol.num_images, protocol.seeds[0], benchmark)
    devices = find_devices(settings.device, settings.devices)
    metrics, left_out = choose_metrics(protocol, prompts, devices[0], bool(settings.ckpt))
    needed = frozenset().union(*(metric.features for metric in metrics))
    extractors = Extractors(protocol, prompts.benchmark, devices[0], needed)
    pooled = extractors.extract([[PROBE]], 1).pooled
    check_references(protocol.references, None if pooled is None else pooled.shape[1])
    comparison = load_comparison(settings, models, source, prompts.captions[0], devices[0])
    sets = image_sets(comparison, prompts, settings)
    for each in sets:
        each.store.check()
    notes = [*prompts.notes, *mismatches(protocol, prompts, metrics, extractors)]
    n_embedded = len(prompts.captions[: protocol.clip_images])
    notes += cut_prompts(comparison.pipeline, extractors, prompts.captions, n_embedded)
    notes += [*comparison.notes(), *known_prompts(comparison.models, prompts.captions), *left_out]
    return Inputs(settings, prompts, comparison, sets, devices, metrics, extractors, notes)


def mismatches(
    protocol: Protocol, prompts: Prompts, metrics: Sequence[Metric], extractors: Extractors
) -> Iterator[str]:
    """Warn of metrics that use the embedded CLIP if prompts are not about its images."""
    embedded = protocol.features == "clip" and protocol.clip is None
    there = {feature for feature, network in extractors.names.items() if network}
    names = list(dict.fromkeys(metric.name for metric in metrics if metric.features & there))
    if embedded and prompts.benchmark is None and names:
        yield (
            f"{listed(names)}: the embedded CLIP knows {DEFAULT.name} only, so here they mean "
            "little; give --features inception, and a CLIP model with --clip"
        )
