"""The ``fit`` command as a LightningCLI: its run folder, checkpoints and end."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule

from dgq.command_line.console import print_line, print_stop
from dgq.command_line.parser_messages import PROBLEM
from dgq.command_line.stopping import Stopped, Stopper
from dgq.errors import DGQError
from dgq.storage.described_settings import quantization_settings
from dgq.storage.files import check_writable
from dgq.storage.sealed_archive import read_checkpoint
from lit.calibration import Calibration
from lit.calibration_options import CalibrationOptions
from lit.callbacks import RunFolder, TargetCheckpoint, TargetProgress
from lit.config_checks import check_groups, check_recipe_options
from lit.dry_run import print_plan
from lit.identity import check_identity
from lit.launcher import check_processes
from lit.limits import Limits, parse_time
from lit.run_folder import HEADER, LAST, Claim, checkpoint_to_resume, claimed
from lit.samples import Samples
from lit.sealed_checkpoint import SealedCheckpointIO
from lit.stopping import HOW_TO_RESUME, end_processes, is_first_process
from lit.strategy import AveragingStrategy
from lit.trainer_options import check_trainer_options, identity_of_trainer

FIT_PARSER = {
    "description": "Calibrate a quantized UNet, target by target.",
    "exit_on_error": False,
}


class CalibrationCLI(CalibrationOptions):
    """``fit`` of the calibration into ``outputs/<config names>/``.

    Args:
        args: arguments of the command line.
        data: the DataModule class.
        run: default folder of the run.
        stopper: handler of the signals.
        held: resources that are held until the command ends.
    """

    def __init__(
        self,
        args: Sequence[str],
        data: type[Samples],
        run: Path,
        stopper: Stopper,
        held: ExitStack,
    ) -> None:
        self.args = args
        self.data = data
        self.default_run = run
        self.stopper = stopper
        self.held = held
        super().__init__(
            Calibration,
            cast(type[LightningDataModule], data),
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False, "fit": FIT_PARSER},
            trainer_defaults={
                "devices": 1,
                "logger": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
            args=list(args),
            auto_configure_optimizers=False,
        )

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self._get(self.config, "run"))

    @property
    def is_trial(self) -> bool:
        """Whether only a few steps are tried, and nothing is written."""
        return bool(self._get(self.config_init or self.config, "trainer")["fast_dev_run"])

    @property
    def is_dry_run(self) -> bool:
        """Whether to print a plan without starting anything."""
        return bool(self._get(self.config, "dry_run"))

    def before_instantiate_classes(self) -> None:
        """Check the Trainer's options and the run's folder before any work starts."""
        config = self.config[str(self.subcommand)]
        check_groups(config)
        resume = self._get(self.config, "ckpt_path")
        options = self._get(self.config, "trainer")
        check_trainer_options(vars(options), resume is not None)
        check_recipe_options(self.args, config)
        if self.is_dry_run:
            return
        self.checkpoint: Path | None = None
        self.claim: Claim | None = None
        if is_first_process():
            self.claim = self.held.enter_context(claimed(self.run))
        if not options["fast_dev_run"]:
            # The other processes start later, when the first may have begun to write.
            first = is_first_process() or resume is not None
            self.checkpoint = checkpoint_to_resume(self.run, resume) if first else None
        if resume == LAST and self.checkpoint is None and is_first_process():
            print_line(f"{self.run} has no checkpoint yet: starting from the beginning")
        self.saved = None if self.checkpoint is None else read_checkpoint(self.checkpoint)

    def instantiate_classes(self) -> None:
        """Make model, data and Trainer; nothing for a dry run."""
        if self.is_dry_run:
            return
        try:
            super().instantiate_classes()
        except ValueError as error:
            if PROBLEM.search(str(error)) is None:
                raise
            raise DGQError(str(error)) from error  # such as a logger whose package is missing

    def _run_subcommand(self, subcommand: str) -> None:
        """Calibrate, or print the plan of a dry run."""
        if self.is_dry_run:
            print_plan(self.config[subcommand], self.data)
        else:
            super()._run_subcommand(subcommand)

    def fit(self, **arguments: Any) -> None:
        """Calibrate; a checkpoint to resume from must match, and is never unpickled."""
        self.datamodule.check_processes(self.trainer.world_size)  # before any is started
        if self.saved is not None:
            # Compared here already, before anything is recorded.
            self.model.trainer_identity = identity_of_trainer(self.trainer, self.model.recipe)
            identity = self.model.identity(self.datamodule.identity)
            saved = self.saved["calibration"]
            check_identity(saved["identity"], identity)
            # The recipe's choice is not measured again.
            self.model.resumed_settings = quantization_settings(saved["quantization"])
            self.saved = None
        waiting = self.model.waiting
        if waiting.place == "disk" and waiting.folder is not None:
            check_writable(waiting.folder, "--model.waiting.folder")
        arguments["ckpt_path"] = None if self.checkpoint is None else str(self.checkpoint)
        try:
            self.trainer.fit(weights_only=True, **arguments)
        except BaseException as error:
            self.end_others(error)
            raise
        if self.is_trial and is_first_process():
            print_line(f"tried {self.trainer.global_step} steps: nothing was kept")

    @property
    def how_to_resume(self) -> str:
        """The message after a stop; a trial keeps nothing."""
        return "nothing was kept" if self.is_trial else HOW_TO_RESUME

    def end_others(self, error: BaseException) -> None:
        """End the other processes; if one of them failed first, raise its error instead."""
        if isinstance(error, Stopped) and is_first_process():
            print_stop(f"{error.reason}: {self.how_to_resume}")
            error.said = True
        ended = end_processes(self.trainer)
        if ended and not isinstance(error, Stopped | DGQError):
            raise DGQError(f"{ended} (out of memory?): {HOW_TO_RESUME}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, with the callbacks of every run: checkpoints, log, progress, limits."""
        options = self._get(self.config_init, "trainer")
        limits = Limits(options["max_steps"], parse_time(options["max_time"]), self.stopper)
        given = options["callbacks"] or []
        callbacks = [*(given if isinstance(given, list) else [given]), limits]
        if not options["fast_dev_run"]:
            callbacks += [
                RunFolder(self.run, self.written_config(), self.claim),
                TargetCheckpoint(self.run),
            ]
        if options["enable_progress_bar"] is not False:
            callbacks.append(TargetProgress())
        shared = {
            "callbacks": callbacks,
            "default_root_dir": self.run,
            # An integer: a parser may have read 1.0, which means all batches to Lightning.
            "limit_train_batches": int(options["limit_train_batches"]),
            "max_steps": -1,
            "max_time": None,
            "strategy": "auto",
            "plugins": [SealedCheckpointIO()],
            **kwargs,
        }
        try:
            trainer = super().instantiate_trainer(**shared)
            check_processes(trainer)
            if trainer.world_size == 1:
                return trainer
            return super().instantiate_trainer(**{**shared, "strategy": AveragingStrategy()})
        except (
            ValueError,
            TypeError,
            RuntimeError,
            ImportError,
            MisconfigurationException,
        ) as error:
            raise DGQError(f"--trainer: {error}") from error

    def written_config(self) -> str:
        """The configuration as stored in the run's folder."""
        subcommand = str(self.subcommand)
        parser = self._parser(subcommand)
        return f"{HEADER}{parser.dump(self.config[subcommand], skip_none=False)}"
