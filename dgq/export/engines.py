"""The engines that a quantized UNet can be exported for, and what each of them needs."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dgq.errors import DGQError
from dgq.export.comfyui import write_comfyui
from dgq.export.onnx import write_onnx
from dgq.export.openvino import write_openvino
from dgq.export.phases import Phase


@dataclass(frozen=True)
class Engine:
    """One target of an export.

    Args:
        summary: what is written, in a few words.
        packages: packages that must be installed to write the export.
        write: writes the quantized UNet of one folder into another; returns a one-line summary of
            its layers.
        caution: where the export must not be run, if anywhere.
    """

    summary: str
    packages: tuple[str, ...]
    write: Callable[[Path, Path, Phase], str]
    caution: str | None = None

    def check_installed(self, name: str) -> None:
        """Raise DGQError if a package is missing.

        Args:
            name: name of the engine and of its extra.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise DGQError(
                f"--to {name} needs {' and '.join(missing)}, not installed here: "
                f"pip install 'dgq[{name}]'"
            )

    def versions(self) -> dict[str, str]:
        """Versions of the packages that write the export."""
        return {package: version(package) for package in ("torch", "diffusers", *self.packages)}


ENGINES = {
    "openvino": Engine(
        "OpenVINO's model of the UNet, int8 linears and convolutions",
        ("openvino",),
        write_openvino,
        "do not run it on a CPU without VNNI instructions (AVX2 alone): OpenVINO's integer sums "
        "overflow there without a warning, and pictures are worse",
    ),
    "onnx": Engine(
        "ONNX of the UNet, int8 by QuantizeLinear and DequantizeLinear", ("onnx",), write_onnx
    ),
    "comfyui": Engine(
        "the UNet's weights for ComfyUI, int8 linears and float16 convolutions", (), write_comfyui
    ),
}
"""Engines by the name that ``--to`` accepts."""
