"""What a calibration compares when a checkpoint is resumed, and when one may be written."""

from collections.abc import Mapping, Sequence
from typing import Any

from dgq.errors import DGQError
from lit.identity import check_identity


def check_whole(records: Sequence[Mapping[str, Any]], epoch: int) -> None:
    """Raise DGQError unless the epoch's target is finished, and none has begun since.

    Args:
        records: errors of the targets so far.
        epoch: index of the current target.
    """
    if len(records) != epoch + 1 or "error" not in records[-1]:
        raise DGQError(
            "a checkpoint holds whole targets: write it after the end of an epoch, as a "
            "ModelCheckpoint without every_n_train_steps does"
        )


def check_content(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise DGQError unless a checkpoint belongs to this calibration.

    Args:
        saved: ``identity``, ``calls`` and ``quantization`` of the checkpoint.
        current: the same of this calibration.
    """
    check_identity(saved["identity"], current["identity"])
    if saved["calls"] != current["calls"]:
        raise DGQError(
            "the recorded calls are not those that the checkpoint was made with: they were "
            "recorded again on another machine or in other batches; restore the file in "
            "--data.cache, or start a new run with --run DIR"
        )
    if saved["quantization"] != current["quantization"]:
        raise DGQError(
            "the recipe has measured again, and chosen other bits than those of the checkpoint: "
            "resume on the machine that wrote it"
        )
