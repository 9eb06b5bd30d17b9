"""What a calibration writes into Lightning's checkpoints, and compares before it resumes."""

from typing import Any, NoReturn

from diffusers import UNet2DConditionModel
from lightning import LightningModule

from dgq.calibration.calibrator import Calibrator
from dgq.errors import DGQError
from dgq.recipes import Recipe
from dgq.settings import WaitingSettings
from dgq.storage.checkpoint import calibration_state, load_calibration_state_
from dgq.storage.described_settings import described
from lit.checkpoint_content import check_content, check_whole
from lit.identity import identity_of
from lit.samples import Samples


class Resumable(LightningModule):
    """The checkpoints of a calibration: finished targets and observed ranges, no other weights."""

    unet: UNet2DConditionModel
    unet_sha256: str
    recipe: Recipe
    waiting: WaitingSettings
    calibrator: Calibrator
    trainer_identity: dict[str, Any]

    @property
    def data(self) -> Samples:
        """The DataModule of the Trainer."""
        samples: Samples = self.trainer.datamodule  # type: ignore[attr-defined]
        return samples

    def identity(self, data: dict[str, Any]) -> str:
        """Values that a checkpoint must match to be resumed: content and settings, never a path.

        Args:
            data: the DataModule's part.
        """
        own = {"waiting.dtype": self.waiting.dtype, "weights of the UNet": self.unet_sha256}
        return identity_of(self.recipe, data | own | self.trainer_identity)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the log so far, and what is compared before it is resumed.

        Raises:
            DGQError: within a target.
        """
        if not self.calibrator.complete:
            check_whole(self.calibrator.records, self.current_epoch)
        log = {"records": self.calibrator.records, "seconds": self.calibrator.seconds}
        checkpoint["calibration"] = self.compared_content() | log

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the log of a checkpoint, which must belong to this calibration."""
        check_content(checkpoint["calibration"], self.compared_content())
        self.calibrator.records = checkpoint["calibration"]["records"]
        self.calibrator.seconds.update(checkpoint["calibration"]["seconds"])

    def compared_content(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be resumed."""
        return {
            "identity": self.identity(self.data.identity),
            "calls": self.data.calls.sha256,
            "quantization": described(self.calibrator.settings),
        }

    @classmethod
    def load_from_checkpoint(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse: a checkpoint is resumed by ``Trainer.fit(..., ckpt_path=...)``."""
        raise DGQError(
            "a checkpoint holds a part of a calibration: resume it by fit(..., ckpt_path=...), or "
            "load the finished model by dgq.load_quantized_unet"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Finished weights and observed ranges."""
        return calibration_state(self.unet)

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Restore finished weights and observed ranges."""
        load_calibration_state_(self.unet, state_dict)
