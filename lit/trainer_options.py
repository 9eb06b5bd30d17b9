"""The options of Lightning's Trainer that a calibration supports; every option is listed here.

An epoch is a target and a batch is a learning step, so options that redefine these would change
what is learned. They are refused with one line, before any work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer

from dgq.errors import DGQError
from dgq.recipes import Recipe
from lit.limits import parse_time

NO_VALIDATION = "a calibration has no validation; it measures each target itself"


@dataclass(frozen=True)
class Refused:
    """An option of which only some values are accepted.

    Args:
        unless: values that are accepted.
        reason: why, or what to do instead.
    """

    unless: tuple[Any, ...]
    reason: str

    def accepts(self, value: Any) -> bool:
        """Whether this is one of the accepted values."""
        return any(value == known and type(value) is type(known) for known in self.unless)

    def check(self, name: str, value: Any) -> None:
        """Raise DGQError unless the value is accepted."""
        if not self.accepts(value):
            shown = getattr(value, "class_path", value)
            raise DGQError(f"--trainer.{name} {shown} is not supported: {self.reason}")


@dataclass(frozen=True)
class Checked:
    """An option whose values are checked by a function.

    Args:
        look: raises DGQError for invalid values.
    """

    look: Callable[[Any], Any]

    def check(self, _name: str, value: Any) -> None:
        """Raise DGQError unless the value can be used."""
        self.look(value)


def check_max_steps(value: int) -> None:
    """Raise DGQError unless the value is a number of steps, or -1."""
    if value < -1:
        raise DGQError(f"--trainer.max_steps {value} is not a number of steps: expected -1 or more")


def check_log_steps(value: int | None) -> None:
    """Raise DGQError unless the value is a number of steps; 0 logs nothing."""
    if value is not None and value < 0:
        raise DGQError(f"--trainer.log_every_n_steps {value}: expected 0 or more")


def check_callbacks(value: Any) -> None:
    """Raise DGQError for callbacks that might change what is learned."""
    callbacks = value if isinstance(value, list) else [value] if value else []
    for callback in callbacks:
        path = callback if isinstance(callback, str) else getattr(callback, "class_path", "")
        name = str(path or type(callback).__name__).rpartition(".")[2]
        if name not in WATCHING:
            raise DGQError(
                f"--trainer.callbacks {name} is not supported: it might change what is learned, or "
                f"when it ends; those that only watch are {' and '.join(WATCHING)}"
            )


WATCHING = ("LearningRateMonitor", "DeviceStatsMonitor")
LINKED = "it is the number of targets; --trainer.fast_dev_run true tries one"
DERIVED = "it is derived from model.recipe.learning"
SUPPORTED = None

OPTIONS: dict[str, Refused | Checked | None] = {
    "accelerator": SUPPORTED,
    "strategy": Refused(("auto", "ddp"), "several devices share the samples by ddp: leave it out"),
    "devices": SUPPORTED,
    "num_nodes": Refused((1,), "a calibration runs on one machine; give it more --trainer.devices"),
    "precision": Refused(
        (None, 32, "32", "32-true", "bf16", "bf16-mixed"),
        "weights, ranges and scales are kept in float32; expected 32-true or bf16-mixed",
    ),
    "logger": SUPPORTED,
    "callbacks": Checked(check_callbacks),
    "fast_dev_run": SUPPORTED,
    "max_epochs": Refused((None,), LINKED),
    "min_epochs": Refused((None,), LINKED),
    "max_steps": Checked(check_max_steps),
    "min_steps": Refused((None,), "each target has its iterations; set model.recipe.learning"),
    "max_time": Checked(parse_time),
    "limit_train_batches": Refused((None,), DERIVED),
    "limit_val_batches": Refused((None,), NO_VALIDATION),
    "limit_test_batches": Refused((None,), NO_VALIDATION),
    "limit_predict_batches": Refused((None,), NO_VALIDATION),
    "overfit_batches": Refused((0.0, 0), "set data.n_samples for fewer samples"),
    "val_check_interval": Refused((None,), NO_VALIDATION),
    "check_val_every_n_epoch": Refused((1,), NO_VALIDATION),
    "num_sanity_val_steps": Refused((None, 0), NO_VALIDATION),
    "log_every_n_steps": Checked(check_log_steps),
    "enable_checkpointing": Refused(
        (None, True), "without last.ckpt a run that is cut short would be lost"
    ),
    "enable_progress_bar": SUPPORTED,
    "enable_model_summary": SUPPORTED,
    "accumulate_grad_batches": Refused(
        (1,), "learning rates follow the steps; set data.batch_size for larger batches"
    ),
    "gradient_clip_val": Refused((None,), "Adam's steps do not grow with gradients: leave it out"),
    "gradient_clip_algorithm": Refused((None,), "gradients are not clipped: leave it out"),
    "deterministic": SUPPORTED,
    "benchmark": SUPPORTED,
    "inference_mode": Refused((True,), NO_VALIDATION),
    "use_distributed_sampler": Refused((True,), "processes share the samples in another way"),
    "profiler": Refused((None, "simple", "advanced"), "expected simple or advanced"),
    "detect_anomaly": SUPPORTED,
    "barebones": Refused((False,), "a calibration needs its checkpoints and its log"),
    "plugins": Refused((None,), "the calibration brings its own"),
    "sync_batchnorm": Refused((False,), "the UNets have no batch normalisation"),
    "reload_dataloaders_every_n_epochs": Refused((0,), "batches follow the target by themselves"),
    "default_root_dir": Refused((None,), "--run is the folder of everything that is written"),
    "enable_autolog_hparams": SUPPORTED,
    "model_registry": Refused((None,), "the model is written into the run's folder"),
}


def check_trainer_options(options: Mapping[str, Any], resuming: bool) -> None:
    """Raise DGQError for a setting of the Trainer that a calibration does not support.

    Args:
        options: options by name, before anything is instantiated.
        resuming: whether there is a checkpoint to resume from.
    """
    for name, value in options.items():
        if name == "__path__":  # of the file that holds the options: ``--trainer own.yaml``
            continue
        if name not in OPTIONS:
            raise DGQError(f"--trainer.{name} is not supported: leave it out")
        rule = OPTIONS[name]
        if rule is not None:
            rule.check(name, value)
    if options.get("callbacks") and not options.get("logger"):
        raise DGQError("--trainer.callbacks watch for a logger: add --trainer.logger")
    if options.get("fast_dev_run") and resuming:
        raise DGQError("--trainer.fast_dev_run writes no checkpoint: leave --ckpt_path out")


def identity_of_trainer(trainer: Trainer, recipe: Recipe) -> dict[str, Any]:
    """The Trainer settings that affect the result.

    Args:
        trainer: the Trainer that runs the calibration.
        recipe: if it learns nothing, the result does not depend on the number of processes.
    """
    device = trainer.strategy.root_device.type
    identity: dict[str, Any] = {"precision": str(trainer.precision), "device": device}
    if recipe.learning.total_iterations > 0:
        identity["processes"] = trainer.world_size
    if device != "cpu":  # on a CPU these have no effect
        identity["deterministic"] = torch.are_deterministic_algorithms_enabled()
        identity["benchmark"] = torch.backends.cudnn.benchmark
    return identity
