"""The whole calibration as one Lightning fit: an epoch is a target, a batch a step of learning."""

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dgq import learning as learn
from dgq.checkpoint import Manifest, calibration_state, load_calibration_state_
from dgq.context import at_step, quantization
from dgq.errors import DGQError
from dgq.micro_batches import gather_inputs, gather_rows
from dgq.paired_streams import PairedStreams
from dgq.pipelines import load_unet
from dgq.quantize import fit_activations_, quantize_, start_observing_
from dgq.reconstruction import reconstruction_loss, relative_error, sqnr_db
from dgq.settings import LearningSettings, QuantizationSettings
from dgq.targets import execution_order, find_targets
from lit.identity import identity_of

N_ERROR_ROWS = 64
"""Rows on which a target's error before and after learning is measured."""


class Calibration(LightningModule):
    """Reconstructs one target after another, in execution order.

    The DataModule offers ``calls`` (timesteps, latent size), ``micro_batches`` (arguments of UNet
    calls) and batches of row indices; everything else is streamed from target to target.

    Args:
        pipeline: ``scenes`` for the embedded model, a folder, or a hub id.
        quantization: what is quantized and how.
        learning: how the rounding of the weights is learned.
    """

    def __init__(
        self,
        pipeline: str = "scenes",
        quantization: QuantizationSettings = QuantizationSettings(),  # noqa: B008 - frozen
        learning: LearningSettings = LearningSettings(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.settings = quantization
        self.learning = learning
        self.unet = load_unet(pipeline).requires_grad_(False)
        self.unet_config = dict(self.unet.config)
        self.n_targets = len(find_targets(self.unet, quantization.keep))
        if self.n_targets == 0:
            raise DGQError("there is nothing to quantize: quantization.keep matches every layer")
        self.targets: dict[str, torch.nn.Module] = {}
        self.records: list[dict[str, Any]] = []
        self.calibration_sqnr_db: float | None = None
        self._streams: PairedStreams | None = None
        self._references: list[Tensor] = []

    @property
    def data(self) -> Any:
        """The DataModule, which this module knows only by what it offers."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # Setting up

    def setup(self, stage: str) -> None:
        """Make the UNet quantizable for the timesteps that were recorded."""
        data = self.data
        quantize_(self.unet, self.settings, data.calls.distinct_timesteps, data.calls.latent_size)
        start_observing_(self.unet)
        with quantization(self.unet, weights=False, activations=False):
            found = find_targets(self.unet, self.settings.keep)
            order = execution_order(self.unet, found, data.calls.batch(torch.tensor([[0, 0]])))
        self.targets = {name: found[name] for name in order}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One Adam over everything learnable; it holds state for the current target only."""
        parts = learn.learnables(self.unet)
        groups = [
            {"params": [m.logits for m in parts]},
            {"params": [p for m in parts for p in (m.log_gain, m.bias_shift)]},
        ]
        total = max(1, self.learning.total_iterations)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer := torch.optim.Adam(groups, lr=1.0),
            [
                lambda step: learn.rounding_lr(step % total, self.learning),
                lambda step: learn.scale_lr(step % total, self.learning),
            ],
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Bring both streams to the target that this run starts, or goes on, with."""
        calls = [to_device(batch, self.device) for batch in self.data.micro_batches]
        self._streams = PairedStreams(self.unet, self.targets, calls)
        for _ in range(self.current_epoch):
            self._streams.references()
            self._streams.leave()

    # One target

    @property
    def target_name(self) -> str:
        """Name of the current target."""
        return list(self.targets)[self.current_epoch]

    @property
    def target(self) -> torch.nn.Module:
        """The current target."""
        return self.targets[self.target_name]

    @property
    def streams(self) -> PairedStreams:
        """Both streams; there from the start of the training on."""
        assert self._streams is not None
        return self._streams

    def on_train_epoch_start(self) -> None:
        """Capture the target's references, start from nearest rounding, and measure that."""
        self._references = self.streams.references()
        learn.start_learning_(self.target)
        learn.set_soft_rounding_(self.target, False)
        self.records.append({"target": self.target_name, "error_nearest": self.error()})
        learn.set_soft_rounding_(self.target, self.learning.iterations > 0)

    def training_step(self, rows: Tensor, batch_idx: int) -> Tensor | None:
        """Reconstruction error of the target on some rows, plus the rounding's penalty."""
        if not learn.layers_of(self.target) or self.learning.total_iterations == 0:
            return None
        if batch_idx == self.learning.iterations:
            learn.set_soft_rounding_(self.target, False)
        error = reconstruction_loss(*self.output_and_reference(rows))
        return error + learn.penalty(self.target, batch_idx, self.learning)

    def output_and_reference(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the target computes now for these rows, and what it should."""
        inputs = gather_inputs(self.streams.inputs, rows.cpu())
        sizes = [reference.shape[0] for reference in self._references]
        reference = gather_rows(self._references, rows.cpu(), sizes)
        with (
            quantization(self.unet, weights=True, activations=False),
            at_step(self.unet, inputs.step),
        ):
            return self.target(*inputs.args, **inputs.kwargs), reference

    @torch.no_grad()
    def error(self) -> float:
        """Relative squared error of the target's output on a fixed, even selection of rows."""
        n_rows = sum(reference.shape[0] for reference in self._references)
        rows = torch.linspace(0, n_rows - 1, min(n_rows, N_ERROR_ROWS)).long()
        return float(relative_error(*self.output_and_reference(rows)))

    def on_train_epoch_end(self) -> None:
        """Harden the target, measure it, and pass on to the next."""
        record = self.records[-1]
        learn.harden_(self.target)
        record["error"] = self.error()
        if not torch.isfinite(torch.tensor(record["error"])):
            raise DGQError(
                f"{self.target_name}: the error is {record['error']}; lower the learning rates, "
                "and check that the pipeline draws sensible images in float32"
            )
        self.log_dict({"error_nearest": record["error_nearest"], "error": record["error"]})
        self.optimizers().optimizer.state.clear()  # type: ignore[union-attr]
        self._references = []
        self.streams.leave()
        if self.complete:
            self.finish()

    # The end

    @property
    def complete(self) -> bool:
        """Whether every target has been hardened."""
        return len(self.records) == self.n_targets and "error" in self.records[-1]

    def finish(self) -> None:
        """Choose axes, groups and scales of the activations from all observed ranges."""
        reference = torch.cat([result[0] for result in self.streams.full_precision.results])
        output = torch.cat([result[0] for result in self.streams.quantized.results])
        self.calibration_sqnr_db = float(sqnr_db(output, reference))
        fit_activations_(self.unet)

    def on_train_end(self) -> None:
        """Drop the streams."""
        self.streams.close()

    def manifest(self) -> Manifest:
        """What the finished model is described by."""
        data = self.data
        return Manifest(
            self.pipeline,
            self.unet_config,
            self.settings,
            data.generation,
            data.calls.distinct_timesteps,
            data.calls.latent_size,
        )

    # Checkpoints: finished targets and observed ranges, never the full-precision weights

    def identity(self, data: dict[str, Any]) -> str:
        """What a checkpoint must agree in to be resumed; ``data`` is the DataModule's part."""
        return identity_of(self.pipeline, self.settings, self.learning, data)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the log so far and what the run is determined by."""
        identity = self.identity(self.data.identity)
        checkpoint["calibration"] = {"identity": identity, "records": self.records}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the log; that the settings agree was checked before any work."""
        self.records = checkpoint["calibration"]["records"]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Finished weights and observed ranges."""
        return calibration_state(self.unet)

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Take up finished weights and observed ranges."""
        load_calibration_state_(self.unet, state_dict)


def to_device(value: Any, device: torch.device) -> Any:
    """Nested arguments with their tensors on a device."""
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
