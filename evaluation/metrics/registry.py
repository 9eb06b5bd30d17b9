"""The available metrics, and the selection that an evaluation measures."""

import inspect
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import evaluation.metrics
from dgq.errors import DGQError
from evaluation.metrics.metric import Against, Metric
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol


@cache
def all_metrics() -> tuple[type[Metric], ...]:
    """Every metric in this package, in the order in which tables show them."""
    package = evaluation.metrics
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    kinds = [
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Metric) and kind.__module__ == module.__name__
    ]
    concrete = [kind for kind in kinds if not inspect.isabstract(kind)]
    return tuple(sorted(concrete, key=lambda kind: (kind.against, kind.key)))


def choices() -> dict[str, str]:
    """The choices of ``--metrics``: name and first docstring line of each metric."""
    return {kind.key: (inspect.getdoc(kind) or "").partition("\n")[0] for kind in all_metrics()}


def choose_metrics(
    protocol: Protocol, prompts: Prompts, device: str, has_models: bool = True
) -> tuple[list[Metric], list[str]]:
    """The metrics selected by a protocol, ready to measure, and why others are left out.

    Args:
        protocol: what is measured.
        prompts: prompts of the images.
        device: torch device of the metrics' networks.
        has_models: whether quantized models are compared with full precision.

    Raises:
        DGQError: if a requested metric does not exist, or lacks something that it needs.
    """
    unknown = sorted(set(protocol.metrics or ()) - choices().keys())
    if unknown:
        raise DGQError(
            f"--metrics {' '.join(unknown)}: there is no such metric; expected some of "
            f"{', '.join(choices())}"
        )
    metrics: list[Metric] = []
    notes: list[str] = []
    for kind in all_metrics():
        asked = is_asked(kind, protocol)
        if asked is False:
            continue
        if not kind.applies(prompts):
            if asked:
                raise DGQError(f"--metrics {kind.key}: it does not apply to these prompts")
            continue
        if kind.against == Against.FULL_PRECISION and not has_models:
            if asked:
                raise DGQError(
                    f"{kind.name} compares a quantized model with full precision: "
                    "name one with --ckpt"
                )
            continue
        if not asked and kind.package is not None and not kind.package.is_installed:
            package = kind.package
            notes.append(
                f"{kind.name} left out: the package {package.module} is not installed "
                f"(extra {package.extra})"
            )
            continue
        try:
            metrics.append(kind.prepare(protocol, prompts, device))
        except DGQError as error:
            if asked:
                raise
            notes.append(f"{kind.name} left out: {error}")
    return metrics, notes


def is_asked(kind: type[Metric], protocol: Protocol) -> bool | None:
    """Whether a protocol requests a metric, by name or by its switch; None if it says nothing."""
    if protocol.metrics is not None and kind.key in protocol.metrics:
        return True
    switched = None if kind.switch is None else getattr(protocol, kind.switch)
    if switched:
        return True
    if protocol.metrics is not None or switched is False or not kind.by_default:
        return False
    return None
