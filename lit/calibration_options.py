"""The options of ``fit``, which a LightningCLI reads."""

from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from dgq.pipelines.embedded import EMBEDDED
from lit.config_checks import UNSEEDED, check_seed_everything


class CalibrationOptions(LightningCLI):
    """Lightning's options that a calibration has too, and its own."""

    default_run: Path
    """Default folder of the run."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``; evaluation has its own script."""
        dataloaders = {"train_dataloaders", "val_dataloaders", "datamodule"}
        # Lightning's help of ckpt_path tells of checkpoints that a calibration does not have.
        return {"fit": {"model", "weights_only", "ckpt_path", *dataloaders}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keep Lightning's option for the seed, with what it does here."""
        parser.add_argument("--seed_everything", type=bool | int, default=0, help=UNSEEDED)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of a run; derive epochs and batches from targets and iterations."""
        parser.add_argument(
            "--run", type=Path, default=self.default_run, help="Folder that the run writes into."
        )
        parser.add_argument(
            "--pipeline",
            type=str,
            default="scenes",
            help=f"Embedded model ({', '.join(map(repr, EMBEDDED))}), folder, .safetensors "
            "file in the original layout, or hub id.",
        )
        parser.add_argument(
            "--dry_run",
            action="store_true",
            help="Print targets, bits, execution, samples, disk, memory and estimated time without "
            "starting anything.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Resume after the last finished target: 'last' for the checkpoint in the run's "
            "folder (if there is none yet, start from the beginning), or the file of a checkpoint.",
        )
        parser.link_arguments("pipeline", "model.pipeline")
        parser.link_arguments("pipeline", "data.pipeline")
        parser.link_arguments("model.n_targets", "trainer.max_epochs", apply_on="instantiate")
        parser.link_arguments(
            "model.n_iterations", "trainer.limit_train_batches", apply_on="instantiate"
        )

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint override the command line."""

    def _set_seed(self) -> None:
        """Refuse a seed that would have no effect."""
        check_seed_everything(self._get(self.config, "seed_everything"))
        super()._set_seed()
