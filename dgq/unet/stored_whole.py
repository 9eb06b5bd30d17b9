"""Saving a quantized UNet, and loading its state: as a whole or not at all."""

import os
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from torch import nn

from dgq.errors import DGQError
from dgq.storage.files import check_writable, checked_path
from dgq.storage.model_files import written_as_whole
from dgq.unet.protocols import Execution, Quantizer
from dgq.unet.stored_state import check_whole, holds_stored


class StoredWhole(nn.Module):
    """Mixed into quantized UNets."""

    execution: Execution | None = None
    """How it runs here; None while it is being calibrated."""
    hf_quantizer: Quantizer | None = None
    """Tells diffusers that the UNet is quantized; None while it is being calibrated."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As the stock UNet's, of what ``state_dict`` returned; laid out anew for the device.

        Raises:
            DGQError: for the tensors of another UNet; this one is then as it was.
        """
        execution = self.execution
        if execution is None or not holds_stored(self, state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        execution.before_move_(self)
        before = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        try:
            check_whole(self, state_dict)
            found = super().load_state_dict(state_dict, strict, assign)
            execution.check(self)
        except (RuntimeError, DGQError) as error:
            super().load_state_dict(before)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{lines[1 if lines[1:] else 0]:.200}"
            raise DGQError(f"the state dict is not of this quantized UNet: {reason}") from error
        finally:
            execution.after_move_(self)
        return found

    @wraps(ModelMixin.save_pretrained)
    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """As the stock UNet's, sealed; files take the place of earlier ones when all are written.

        Raises:
            DGQError: if the calibration has not finished, an adapter is on it, or there is no
                folder of that name and none can be made.
        """
        if self.hf_quantizer is None:
            raise DGQError("this UNet is being calibrated: write it with dgq.save")
        folder = checked_path(save_directory, "save_pretrained")
        check_writable(folder, "the folder")
        self.hf_quantizer.describe(self)
        kwargs.setdefault("repo_id", folder.name)
        with written_as_whole(folder) as beside:
            super().save_pretrained(str(beside), *args, **kwargs)  # type: ignore[misc]

    def _upload_folder(
        self, working_dir: str | os.PathLike[str], repo_id: str, **kwargs: Any
    ) -> Any:
        # Both ways to the hub come by here, with a card that says nothing of this model.
        if self.hf_quantizer is not None and not kwargs.get("subfolder"):
            self.hf_quantizer.write_card(self, Path(working_dir), repo_id)
        return super()._upload_folder(working_dir, repo_id, **kwargs)  # type: ignore[misc]
