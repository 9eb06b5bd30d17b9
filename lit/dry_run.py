"""``fit --dry_run``: what a calibration would do and need, from its configuration alone."""

from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.accelerators import MPSAccelerator
from rich.console import Console

from dgq.planning.plan import Plan, plan
from dgq.planning.table import make_table
from dgq.recipes import Recipe
from dgq.settings import WaitingSettings
from dgq.storage.manifest import GenerationSettings
from lit.samples import Samples


def print_plan(config: Any, data: type[Samples]) -> None:
    """Print what ``fit`` would do.

    Args:
        config: parsed configuration of the command line, of which only settings are instantiated.
        data: the DataModule class, which tells how many prompts it draws to measure on.
    """
    check_data(data, config["data"])
    made = planned(config, data.n_held_out_prompts)
    Console(emoji=False, highlight=False).print(make_table(made, f"dry run of {config['run']}"))


def check_data(data: type[Samples], values: Any) -> None:
    """Raise DGQError for captions or numbers that a calibration would refuse."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data, "data")
    parser.instantiate_classes(parser.parse_object({"data": values}))


def planned(config: Any, n_held_out_prompts: int) -> Plan:
    """The plan of a configuration."""
    model, data, trainer = config["model"], config["data"], config["trainer"]
    return plan(
        config["pipeline"],
        instance(Recipe, model["recipe"]),
        generation=instance(GenerationSettings, data["generation"]),
        n_prompts=data["n_prompts"],
        n_held_out_prompts=n_held_out_prompts,
        n_samples=data["n_samples"],
        n_held_out=data["n_held_out"],
        batch_size=data["batch_size"],
        waiting=instance(WaitingSettings, model["waiting"]),
        device=device_of(trainer["accelerator"]),
    )


def instance(kind: type, value: Any) -> Any:
    """Settings of one class, from parsed values."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser.instantiate_classes(parser.parse_object({"value": value})).value


def device_of(accelerator: Any) -> torch.device:
    """The device that the Trainer would use."""
    for name, available in (
        ("mps", MPSAccelerator.is_available()),
        ("cuda", torch.cuda.is_available()),
    ):
        if available and str(accelerator) in ("auto", "gpu", name):
            return torch.device(name)
    return torch.device("cpu")
