"""A whole calibration as one Lightning fit: an epoch is a target, a batch is a learning step."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dgq.calibration.calibrator import Calibrator
from dgq.calibration.learning import make_optimizer
from dgq.errors import DGQError
from dgq.pipelines.loading import load_unet
from dgq.pipelines.sources import canonical
from dgq.recipes import Ours, Recipe
from dgq.settings import QuantizationSettings, WaitingSettings
from dgq.storage.checkpoint import Manifest
from dgq.storage.described_settings import described, quantization_settings
from dgq.storage.fingerprint import network_sha256
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.streams.waiting import waiting_places
from dgq.unet.quantize import quantizable_layers
from lit.resumable import Resumable
from lit.trainer_check import check_data, check_trainer
from lit.trainer_options import identity_of_trainer
from lit.trainer_runtime import TrainerRuntime
from lit.waiting_folder import clear_waiting_folders, waiting_folder


class Calibration(Resumable):
    """Drives a ``Calibrator`` through all targets.

    ``Trainer(max_epochs=module.n_targets, limit_train_batches=module.n_iterations)`` runs it. The
    DataModule provides ``Samples`` and batches of row indices; everything else is streamed from
    target to target.

    Args:
        pipeline: the name of an embedded model, a folder, or a hub id.
        recipe: what is quantized, what is reconstructed, and how; ``--model.recipe.help DGQ``
            lists the options of one recipe.
        waiting: where samples wait for their turn.
    """

    def __init__(
        self,
        pipeline: str = "scenes",
        recipe: Recipe = Ours(),  # noqa: B008 - frozen
        waiting: WaitingSettings = WaitingSettings(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.pipeline = canonical(pipeline)
        self.recipe = recipe
        self.waiting = waiting
        self.unet = load_unet(pipeline).requires_grad_(False)
        keep = recipe.quantization.keep
        quantizable_layers(self.unet, keep)  # refused before anything is recorded
        self.unet_config = dict(self.unet.config)
        self.unet_sha256 = network_sha256(self.unet)
        self.n_targets = len(recipe.targets(self.unet))
        if self.n_targets == 0:
            raise DGQError("there is nothing to quantize: keep matches every layer")
        self.n_targets += recipe.visits_network
        self.n_iterations = max(1, recipe.learning.total_iterations)
        self.calibrator = Calibrator(self.unet, recipe)
        self.trainer_identity: dict[str, Any] = {}
        self.resumed_settings: QuantizationSettings | None = None

    @property
    def target_name(self) -> str:
        """Name of the current target; available after ``setup``."""
        return list(self.calibrator.targets)[self.current_epoch]

    # Hooks

    def configure_callbacks(self) -> list[Callback]:
        """Refuse a Trainer or data that do not fit, before anything is recorded; adds nothing."""
        check_trainer(self.trainer, self.n_targets, self.n_iterations)
        check_data(self.trainer, self.pipeline)
        self.trainer_identity = identity_of_trainer(self.trainer, self.recipe)
        return []

    def setup(self, stage: str) -> None:
        """Make the UNet quantizable for the recorded timesteps."""
        calls = self.data.calls
        self.calibrator.runtime = TrainerRuntime(self.trainer)
        self.calibrator.batch_size = self.data.batch_size
        one = calls.batch(torch.tensor([[0, 0]]))
        settings = self.resumed_settings or self.chosen_settings()
        self.calibrator.quantize_(calls.distinct_timesteps, calls.latent_size, one, settings)

    def chosen_settings(self) -> QuantizationSettings:
        """The recipe's settings for this UNet and its calls, the same in all processes."""
        strategy = self.trainer.strategy
        settings = self.recipe.settings(self.unet.to(strategy.root_device), self.data.measured)
        self.unet.cpu()  # the Trainer moves it later
        return quantization_settings(strategy.broadcast(described(settings)))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One Adam over everything learnable; it holds state for the current target only."""
        optimizer, schedule = make_optimizer(
            self.unet.modules(),
            self.recipe.learning,
            self.recipe.network,
            self.calibrator.n_blocks,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Bring all streams to the target where this run starts or resumes."""
        if self.trainer.is_global_zero:
            clear_waiting_folders(Path(self.trainer.default_root_dir), self.waiting.folder)
        self.trainer.strategy.barrier()
        places = waiting_places(self.waiting, self.unet, self.waiting_folder)
        data = self.data
        self.calibrator.start(data.micro_batches, data.held_out, places, self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Capture the target's references, and start from rounding to nearest."""
        self.calibrator.enter(self.target_name)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Switch to the polish after the last step on the rounding."""
        self.calibrator.begin_step(batch_idx)
        self.calibrator.timer.start()

    def training_step(self, rows: Tensor, batch_idx: int) -> Tensor:
        """Reconstruction error of the target on some rows, plus the rounding's penalty."""
        if not self.calibrator.learns(batch_idx):
            # Has no effect; the Trainer does not accept a missing loss in one process only.
            return torch.zeros((), requires_grad=True)
        return self.calibrator.loss(rows.cpu(), batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Add the time of the learning to its phase."""
        self.calibrator.timer.stop("learning")

    def on_train_epoch_end(self) -> None:
        """Harden the target, measure it, and move on to the next."""
        self.calibrator.harden_()
        errors = {name: v for name, v in self.calibrator.records[-1].items() if name != "target"}
        self.log_dict(errors, sync_dist=True)
        self.optimizers().optimizer.state.clear()  # type: ignore[union-attr]
        self.calibrator.propagate()

    def on_train_end(self) -> None:
        """Drop the streams, and the samples waiting on disk."""
        self.drop_streams()

    def drop_streams(self) -> None:
        """Free all waiting samples, in memory and on disk."""
        self.calibrator.close()
        shutil.rmtree(self.waiting_folder, ignore_errors=True)

    @property
    def waiting_folder(self) -> Path:
        """The folder where samples of this process wait on disk."""
        run = Path(self.trainer.default_root_dir)
        return waiting_folder(run, self.trainer.global_rank, self.waiting.folder)

    def manifest(self) -> Manifest:
        """The manifest of the finished model."""
        data = self.data
        return Manifest(
            self.pipeline,
            self.unet_config,
            self.calibrator.settings,
            data.generation,
            data.calls.distinct_timesteps,
            data.calls.latent_size,
            unet_sha256=self.unet_sha256,
            prompt_hashes=prompt_hashes(data.prompts),
        )
