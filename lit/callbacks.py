"""Callbacks of a calibration: progress, log, checkpoints, and the finished model."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar

from dgq.calibration.progress import CalibrationProgress
from dgq.command_line.console import print_line
from dgq.devices import peak_bytes
from dgq.errors import DGQError
from dgq.storage.checkpoint import FOLDER, load_quantized_unet, save_quantized
from dgq.storage.files import written_beside
from lit.calibration import Calibration
from lit.run_folder import CONFIG, LOG, Claim


class TargetCheckpoint(ModelCheckpoint):
    """``last.ckpt`` in the run's folder after each target, for ``--ckpt_path last``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dirpath=folder, filename="last", enable_version_counter=False)


class TargetProgress(ProgressBar):
    """``CalibrationProgress`` on the terminal of the first process."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: CalibrationProgress | None = None
        self._disabled = False

    def disable(self) -> None:
        """Show nothing: the Trainer calls this in all processes but the first."""
        self._disabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if not self._disabled:
            self._progress = CalibrationProgress(trainer.max_epochs or 0, trainer.current_epoch)
            self._progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the target's name, and the error of the previous one."""
        if self._progress is not None and isinstance(pl_module, Calibration):
            self._progress.enter(pl_module.target_name, pl_module.calibrator.records)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by one learning step."""
        if self._progress is not None:
            part = (batch_idx + 1) / trainer.num_training_batches
            self._progress.show_finished(trainer.current_epoch + part)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error is readable."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class RunFolder(Checkpoint):
    """Writes configuration, log and finished model into the run's folder.

    As a ``Checkpoint`` it runs after the module's own hooks. It must come before
    ``TargetCheckpoint``, whose last file says that nothing is left to do.

    Args:
        folder: folder of the run.
        config: the whole configuration as YAML.
        claim: of the first process on the folder, checked before each target's files are written.
    """

    def __init__(self, folder: Path, config: str, claim: Claim | None) -> None:
        self.folder = folder
        self.config = config
        self.claim = claim
        self._started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration."""
        self._started = True
        if trainer.is_global_zero:
            self._write_config()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the log of the finished targets and, after the last, the quantized model."""
        if not isinstance(pl_module, Calibration) or not trainer.is_global_zero:
            return
        self._write_log(pl_module)
        if pl_module.calibrator.complete:
            save_quantized(pl_module.unet, self.folder / FOLDER, pl_module.manifest())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was made and what to do next."""
        if not isinstance(pl_module, Calibration) or not trainer.is_global_zero:
            return
        if pl_module.calibrator.complete:
            print_line(self._summary(pl_module))

    def _summary(self, module: Calibration) -> str:
        seconds = ", ".join(f"{phase} {s:.0f}" for phase, s in module.calibrator.seconds.items())
        sqnr_db = module.calibrator.sqnr_db
        return (
            f"{self.folder / FOLDER}: SQNR of the UNet's output on held-out samples "
            f"{sqnr_db['weights']:.1f} dB with quantized weights, "
            f"{sqnr_db['all']:.1f} dB with everything quantized\n"
            f"seconds: {seconds}; peak memory {peak_bytes(module.device) / 2**30:.2f} GiB\n"
            f"measure it with: python evaluate.py --ckpt {self.folder}"
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If every target was already finished, write what is missing, or say that nothing is."""
        if self._started or not isinstance(pl_module, Calibration) or not trainer.is_global_zero:
            return
        if self._is_whole(pl_module):
            print_line(f"{self.folder} was finished already: nothing was left to do")
            return
        self._write_config()
        self._write_log(pl_module)
        save_quantized(pl_module.unet, self.folder / FOLDER, pl_module.manifest())
        print_line(f"{self.folder / FOLDER}: written again from the checkpoint")

    def _is_whole(self, module: Calibration) -> bool:
        """Whether the finished model and its log exist, undamaged."""
        try:
            load_quantized_unet(self.folder / FOLDER)
        except DGQError:
            return False
        log = self.folder / LOG
        return log.is_file() and log.read_bytes() == log_of(module.calibrator.records).encode()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Free the samples waiting on disk, which may be what fills it."""
        if isinstance(pl_module, Calibration) and self._started:
            pl_module.drop_streams()

    def _write_config(self) -> None:
        self._check_claim()
        with written_beside(self.folder / CONFIG) as beside:
            beside.write_text(self.config, encoding="utf-8")

    def _write_log(self, module: Calibration) -> None:
        self._check_claim()
        with written_beside(self.folder / LOG) as beside:
            beside.write_bytes(log_of(module.calibrator.records).encode())

    def _check_claim(self) -> None:
        if self.claim is not None:
            self.claim.check()


def log_of(records: Sequence[Mapping[str, Any]]) -> str:
    """The errors of the finished targets as CSV."""
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(text, list(columns))
    writer.writeheader()
    writer.writerows(record for record in records if "error" in record)
    return text.getvalue()
