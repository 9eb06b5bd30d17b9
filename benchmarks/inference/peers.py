"""OpenVINO, with and without NNCF's quantization: converted once, compiled for each batch size."""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.calibration.unet_calls import flatten, unflatten
from dgq.export.openvino import MODEL as EXPORTED_MODEL

MODEL = "unet.xml"
EXPORTED = Path("unet") / EXPORTED_MODEL
"""Path of the model in one of our exports."""

DEPENDS_ON = {"openvino": ("openvino",), "nncf": ("openvino", "nncf")}


def versions(name: str) -> dict[str, str]:
    """Versions of the packages that a converted model depends on."""
    return {package: version(package) for package in ("torch", "diffusers", *DEPENDS_ON[name])}


class Traceable(nn.Module):
    """A UNet that takes only tensors, in the order of ``tensors_of``.

    Args:
        unet: the full-precision UNet.
        call: keyword arguments like those that it will be given.
    """

    def __init__(self, unet: nn.Module, call: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet = unet
        self.names = list(tensors_of(call))

    def forward(self, sample: Tensor, timestep: Tensor, *rest: Tensor) -> Tensor:
        """The UNet's output tensor."""
        arguments = unflatten(dict(zip(self.names[2:], rest, strict=True)))
        output: Tensor = self.unet(sample, timestep, **arguments, return_dict=False)[0]
        return output


def tensors_of(call: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a call by dotted name in float32, sample and timestep first."""
    tensors = flatten(call)
    first = {name: tensors.pop(name) for name in ("sample", "timestep")}
    return {name: tensor.float() for name, tensor in (first | tensors).items()}


def convert(unet: nn.Module, call: Mapping[str, Any], folder: Path) -> None:
    """Write OpenVINO's model of a UNet, with weights in 16 bits as it does by default."""
    import openvino

    openvino.save_model(_converted(unet, call), folder / MODEL)


def quantize(unet: nn.Module, calls: Sequence[Mapping[str, Any]], folder: Path, full: bool) -> None:
    """Write NNCF's full W8A8 quantization of a UNet: convolutions and linear layers.

    Args:
        unet: in full precision.
        calls: calls to calibrate on.
        folder: for OpenVINO's model.
        full: run all default algorithms; otherwise skip the correction of biases, which runs the
            model once per layer.
    """
    import nncf
    import openvino

    inputs = [[tensor.numpy() for tensor in tensors_of(call).values()] for call in calls]
    model = nncf.quantize(
        _converted(unet, calls[0]),
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=not full),
    )
    openvino.save_model(model, folder / MODEL)


def _converted(unet: nn.Module, call: Mapping[str, Any]) -> Any:
    import openvino

    example = tuple(tensors_of(call).values())
    return openvino.convert_model(Traceable(unet, call), example_input=example)


class OpenVINOUNet:
    """A UNet that OpenVINO runs, recompiled whenever shapes change.

    Args:
        file: the converted model.
        threads: number of threads that compute.
        precision: ``f32``, or empty for the device's choice.
    """

    def __init__(self, file: Path, threads: int, precision: str) -> None:
        import openvino

        self.file = file
        self._core = openvino.Core()
        self._config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if precision:
            self._config["INFERENCE_PRECISION_HINT"] = precision
        self._shapes: list[list[int]] = []
        self._compiled: Any = None

    def __call__(self, **call: Any) -> tuple[Tensor]:
        """Run like a diffusers UNet with ``return_dict=False``."""
        tensors = list(tensors_of(call).values())
        shapes = [list(tensor.shape) for tensor in tensors]
        if shapes != self._shapes:
            self.compile_(shapes)
        output = self._compiled([tensor.numpy() for tensor in tensors])[0]
        return (torch.from_numpy(output),)

    def compile_(self, shapes: list[list[int]]) -> float:
        """Compile for these input shapes; returns the seconds that it took."""
        started = time.perf_counter()
        self._compiled = None
        model = self._core.read_model(self.file)
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        self._compiled = self._core.compile_model(model, "CPU", self._config)
        self._shapes = shapes
        return time.perf_counter() - started

    @property
    def n_bytes(self) -> int:
        """Bytes of both files."""
        return sum(self.file.with_suffix(s).stat().st_size for s in (".xml", ".bin"))

    @property
    def precision(self) -> str:
        """The precision that the device has chosen."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
