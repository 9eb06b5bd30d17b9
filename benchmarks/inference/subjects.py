"""The base class of the UNets that are measured."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.inference import peers
from benchmarks.inference.parts import Part
from benchmarks.inference.request import Options
from dgq.export.engines import ENGINES, Engine
from dgq.export.phases import silent
from dgq.inference.build import fill_
from dgq.storage.checkpoint import load_quantized_unet, read_manifest, save_quantized
from dgq.storage.empty_unet import empty_quantized_unet

Call = dict[str, Any]
"""Keyword arguments of a UNet."""

EXPORTS = {"export-openvino": "openvino", "export-onnx": "onnx"}
"""Parts that are exports, and the engines they are for."""

OF_CKPT = ("weight-only", *EXPORTS)
"""Parts made from one quantized model."""

IN_FLOAT = 16
"""Bits in settings that stand for unquantized operands."""


class Subject(ABC):
    """A UNet that is measured.

    Args:
        options: options of the command.
    """

    name: str
    title: str
    default_batches: tuple[int, ...]
    parts: tuple[str, ...] = ()
    """Names of the parts that every row needs."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The cache folder."""

    @abstractmethod
    def stock(self) -> UNet2DConditionModel:
        """The UNet in full precision."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the stock UNet depends on, as plain values for JSON."""

    @abstractmethod
    def call(self, batch: int) -> Call:
        """The arguments of a call to time."""

    @abstractmethod
    def ckpts(self) -> Sequence[str]:
        """Its quantized models, by the name that ``quantized`` takes."""

    @abstractmethod
    def quantized(self, ckpt: str) -> Path:
        """The folder of a quantized model."""

    @abstractmethod
    def calibration(self) -> Sequence[Call]:
        """Calls that NNCF calibrates on."""

    def own_part(self, name: str) -> Part | None:
        """A part that only this UNet has, by name."""
        return None

    def held_out(self) -> Iterator[tuple[Call, Tensor]]:
        """Calls with the full-precision outputs, to measure the SQNR on; none by default."""
        return iter(())

    def part(self, name: str, ckpt: str) -> Part | None:
        """A part that a row needs; None if nothing has to be made for it.

        Args:
            name: ``weight-only``, ``openvino``, ``nncf``, an export, or a part of this UNet only.
            ckpt: name of the quantized model.
        """
        if name == "weight-only":
            return self._weight_only_part(ckpt)
        if name in ("openvino", "nncf"):
            return self._peer_part(name)
        if name in EXPORTS:
            return self._export_part(name, ckpt)
        return self.own_part(name)

    def _weight_only_part(self, ckpt: str) -> Part:
        source, folder = self.quantized(ckpt), self._folder_of("weight-only", ckpt)
        settings = self._identity_of(ckpt)
        return Part(folder, settings, lambda folder: without_activations(source, folder))

    def _export_part(self, name: str, ckpt: str) -> Part:
        source, engine = self.quantized(ckpt), ENGINES[EXPORTS[name]]
        settings = {**self._identity_of(ckpt), "versions": engine.versions()}
        folder = self._folder_of(name, ckpt)
        return Part(folder, settings, lambda folder: _export(engine, source, folder))

    def _folder_of(self, name: str, ckpt: str) -> Path:
        return self.folder / f"{name}-{self.ckpts().index(ckpt)}"

    def _identity_of(self, ckpt: str) -> Mapping[str, Any]:
        """What a quantized model depends on, as plain values for JSON."""
        part = self.own_part("quantized")
        return part.settings if part else {"sha256": read_manifest(self.quantized(ckpt)).sha256}

    def _peer_part(self, name: str) -> Part:
        settings = self.identity() | {"versions": peers.versions(name)}
        if name == "openvino":
            make = lambda folder: peers.convert(self.stock(), self.call(2), folder)  # noqa: E731
        else:
            settings |= {"calls": self.options.calibration_calls}
            make = lambda folder: peers.quantize(  # noqa: E731
                self.stock(), self.calibration(), folder, full=self.calibrates_fully
            )
        return Part(self.folder / name, settings, make)

    calibrates_fully = False
    """Whether NNCF runs all of its algorithms."""


def _export(engine: Engine, source: Path, folder: Path) -> None:
    engine.write(source, folder, silent)


def without_activations(source: Path, folder: Path) -> None:
    """Write a quantized model without its activation quantizers: W4A16 from W4A8."""
    manifest = read_manifest(source)
    settings = manifest.quantization
    settings = replace(
        settings,
        activations=replace(settings.activations, n_bits=IN_FLOAT),
        scores=replace(settings.scores, n_bits=IN_FLOAT),
    )
    manifest = replace(manifest, quantization=settings)
    state = load_quantized_unet(source, "float").state_dict()
    unet = empty_quantized_unet(manifest)
    fill_(unet, {name: state[name] for name in unet.state_dict()})
    save_quantized(unet, folder, manifest)
