"""Where calibration samples wait."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dgq.errors import SettingsError
from dgq.settings.checks import check_choice
from dgq.settings.types import check_types

Place = Literal["device", "host", "disk"]
WaitingType = Literal["same", "bfloat16", "float16"]


@dataclass(frozen=True)
class WaitingSettings:
    """Where calibration samples wait for their turn at a target.

    SD 1.4 at 512 px, like SDXL, keeps up to 44 MB in float32 for each row and stream.

    Args:
        place: ``device`` (fastest), ``host`` memory for an accelerator with too little of its own,
            or ``disk`` for a host with too little memory.
        dtype: ``same`` keeps activations as they are; ``bfloat16`` or ``float16`` halve those in
            float32.
        folder: folder for the files of ``disk``; by default inside the run's folder.
    """

    place: Place = "device"
    dtype: WaitingType = "same"
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_choice("waiting.place", self.place, get_args(Place))
        check_choice("waiting.dtype", self.dtype, get_args(WaitingType))
        check_types(self, "waiting.")
        if self.folder is not None and self.place != "disk":
            raise SettingsError(
                f"waiting.folder goes with waiting.place disk, not {self.place}: change one"
            )
