"""Earlier formats of quantized models, which are read forever but no longer written.

``dgq-1`` stored calibration modules, ``dgq-2`` inference modules; both kept the description in a
separate file, which named the hash of the file of weights.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.freeze import frozen_state
from dgq.storage.files import read_json, sha256_of
from dgq.storage.manifest import Manifest, parsed
from dgq.storage.tensor_files import read_tensors
from dgq.unet.configuration import check_sizes

FORMATS = ("dgq-1", "dgq-2")
CONFIG_FILE = "quantization.json"
WEIGHTS_FILE = "quantized.safetensors"


@dataclass(frozen=True)
class FirstFiles:
    """A quantized model in an earlier format.

    Args:
        folder: folder of the model.
    """

    folder: Path

    @property
    def config_file(self) -> Path:
        """The description."""
        return self.folder / CONFIG_FILE

    @property
    def weight_files(self) -> list[Path]:
        """The file of weights."""
        return [self.folder / WEIGHTS_FILE]

    def size(self) -> int:
        """Bytes of the weights."""
        return self.weight_files[0].stat().st_size

    def manifest(self) -> Manifest:
        """The description, checked; raises DGQError for a damaged one."""
        return self._described()[0]

    def format(self) -> str:
        """Which of the formats it is; raises DGQError for any other."""
        return self._described()[1]

    def read(self) -> tuple[Manifest, dict[str, Tensor]]:
        """Description and tensors, the latter as inference modules hold them.

        Raises:
            DGQError: if anything is missing, damaged, or does not belong together.
        """
        manifest, version, weights_sha256 = self._described()
        file = self.weight_files[0]
        state, metadata = read_tensors(file)
        if metadata.get("format") != version or sha256_of(file) != weights_sha256:
            raise DGQError(f"{file} is not the one that {CONFIG_FILE} beside it describes")
        check_sizes(manifest.unet_config, len(state), self.config_file)
        is_first = version == FORMATS[0]
        return manifest, frozen_state(state, manifest.quantization) if is_first else state

    def _described(self) -> tuple[Manifest, str, str]:
        """Manifest, format, and hash of the weights."""
        content = read_json(self.config_file)
        if not isinstance(content, Mapping):
            raise DGQError(f"{self.config_file} is damaged: restore it, or make it again")
        rest = dict(content)
        version, weights = rest.pop("format", None), rest.pop("weights_sha256", None)
        if version not in FORMATS:
            raise DGQError(
                f"{self.config_file} has another format, {str(version)[:40]}: expected one of "
                f"{', '.join(FORMATS)}"
            )
        sha256 = hashlib.sha256(self.config_file.read_bytes()).hexdigest()
        try:
            return parsed({**rest, "sha256": sha256}), str(version), str(weights)
        except DGQError as error:
            raise DGQError(f"{self.config_file}: {error}: restore it, or make it again") from error

    def __str__(self) -> str:
        return str(self.folder)
