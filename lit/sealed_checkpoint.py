"""``last.ckpt``: written atomically, with a checksum of all its bytes, and never unpickled."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from typing_extensions import override

from dgq.storage.sealed_archive import read_checkpoint, write_sealed


class SealedCheckpointIO(CheckpointIO):
    """Lightning checkpoints that survive kills, full disks and flipped bits.

    Lightning itself writes into the temporary directory and moves the file, which between file
    systems means copying over the old one.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write_sealed(checkpoint, Path(path))

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; raises DGQError for one that is damaged."""
        return read_checkpoint(Path(path))

    @override
    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
