"""The command line: LightningCLI with configs by name, run folders, and one-line errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning import Trainer
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

from dgq.checkpoint import FOLDER
from dgq.errors import DGQError
from lit.calibration import Calibration
from lit.callbacks import RunFolder, TargetCheckpoint, TargetProgress
from lit.console import print_error, quieten_libraries
from lit.identity import check_identity
from lit.strategy import AveragingStrategy

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG_OPTIONS = ("--config", "-c")
FIT_PARSER = {
    "description": "Calibrate a quantized UNet, target by target.",
    "exit_on_error": False,
}


class CalibrationCLI(LightningCLI):
    """``fit`` of the calibration into ``outputs/<config names>/``."""

    def __init__(self, args: Sequence[str], data: type[LightningDataModule], run: Path) -> None:
        self.default_run = run
        super().__init__(
            Calibration,
            data,
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False, "fit": FIT_PARSER},
            seed_everything_default=0,
            trainer_defaults={
                "devices": 1,
                "logger": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
            args=list(args),
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``; measuring has a script of its own."""
        skipped = {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}
        return {"fit": skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add --run and --pipeline; derive epochs and batches from targets and iterations."""
        parser.add_argument(
            "--run", type=Path, default=self.default_run, help="Folder that the run writes into."
        )
        parser.add_argument(
            "--pipeline",
            type=str,
            default="scenes",
            help="Embedded model ('scenes', 'scenes-xl', 'scenes-few-step'), folder, or hub id.",
        )
        parser.link_arguments("pipeline", "model.pipeline")
        parser.link_arguments("pipeline", "data.pipeline")
        parser.link_arguments("model.n_targets", "trainer.max_epochs", apply_on="instantiate")
        parser.link_arguments(
            ("model.learning.iterations", "model.learning.polish_iterations"),
            "trainer.limit_train_batches",
            compute_fn=lambda iterations, polish: max(1, iterations + polish),
        )

    def fit(self, **arguments: Any) -> None:
        """Calibrate; a checkpoint to resume from must fit, and is never unpickled."""
        if self.saved_identity is not None:
            identity = self.model.identity(self.datamodule.identity, str(self.trainer.precision))
            check_identity(self.saved_identity, identity)
        self.trainer.fit(weights_only=True, **arguments)

    def before_instantiate_classes(self) -> None:
        """Check the run's folder before any work starts."""
        resume = self._get(self.config, "ckpt_path")
        checkpoint = self.run / "last.ckpt" if resume == "last" else resume and Path(resume)
        check_run_folder(self.run, checkpoint)
        self.saved_identity = read_identity(checkpoint) if checkpoint else None

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self._get(self.config, "run")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: checkpoints, log, progress."""
        subcommand = str(self.subcommand)
        config = self._parser(subcommand).dump(self.config[subcommand], skip_none=False)
        options = self._get(self.config_init, "trainer")
        callbacks = [*(options["callbacks"] or []), RunFolder(self.run, config)]
        callbacks.append(TargetCheckpoint(self.run))
        if options["enable_progress_bar"] is not False:
            callbacks.append(TargetProgress())
        # A whole number, which a parser may have read as 1.0: to Lightning that is all batches.
        n_batches = int(options["limit_train_batches"])
        shared = {"callbacks": callbacks, "default_root_dir": self.run, **kwargs}
        shared["limit_train_batches"] = n_batches
        try:
            trainer = super().instantiate_trainer(**shared)
        except (ValueError, MisconfigurationException) as error:
            raise DGQError(f"--trainer: {error}") from error
        if trainer.world_size == 1:
            return trainer
        if type(trainer.strategy) is not DDPStrategy:
            raise DGQError(
                f"calibration on several devices knows the strategy ddp, not "
                f"{options['strategy']}: leave --trainer.strategy away"
            )
        return super().instantiate_trainer(**shared, strategy=AveragingStrategy())


def check_run_folder(run: Path, checkpoint: Path | None) -> None:
    """Raise DGQError rather than overwrite a run that is not the one to go on with."""
    own = checkpoint is not None and checkpoint.resolve().parent == run.resolve()
    if not own and any((run / name).exists() for name in ("last.ckpt", FOLDER)):
        raise DGQError(
            f"{run} already holds a calibration: go on with it by --ckpt_path last, or choose "
            "another folder by --run DIR"
        )


def read_identity(path: Path) -> str:
    """What a checkpoint was made with; raises DGQError unless it is one of a calibration."""
    if not path.is_file():
        raise DGQError(f"{path} does not exist: there is no checkpoint to go on from")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError
        raise DGQError(
            f"{path} is damaged, or not a checkpoint of a calibration ({type(error).__name__}): "
            "restore it, or start a new run with --run DIR"
        ) from error
    if not isinstance(content, dict) or "calibration" not in content:
        raise DGQError(f"{path} was not written by a calibration")
    return content["calibration"]["identity"]


def resolve_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Look bare config names up in ``configs/``.

    Returns:
        The arguments with paths in place of names, and the run's name: the configs' names joined.

    Raises:
        DGQError: for a config that is neither a file nor in ``configs/``.
    """
    resolved, names, expecting = [], [], False
    for arg in args:
        option, separator, value = arg.partition("=")
        if expecting or (separator and option in CONFIG_OPTIONS):
            path = find_config(arg if expecting else value)
            names.append(path.stem)
            resolved.append(str(path) if expecting else f"{option}={path}")
            expecting = False
        else:
            resolved.append(arg)
            expecting = arg in CONFIG_OPTIONS
    return resolved, "-".join(names) or "run"


def find_config(name: str) -> Path:
    """The file of a config: a path as it is, else a name in ``configs/``."""
    for candidate in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml")))
    raise DGQError(f"no config {name}: it is not a file, and configs/ has {known}")


def main(args: Sequence[str], data: type[LightningDataModule]) -> int:
    """Run the command line; the exit code.

    Args:
        args: arguments without the program's name.
        data: the DataModule class that feeds the calibration.
    """
    quieten_libraries()
    try:
        resolved, name = resolve_configs(args)
        CalibrationCLI(resolved, data, Path("outputs") / name)
    except (DGQError, ArgumentError) as error:
        print_error(error)
        return 2
    except (OSError, SafetensorError) as error:
        print_error(DGQError(f"{error}: free space or mend access, then go on: --ckpt_path last"))
        return 2
    return 0
