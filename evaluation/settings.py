"""The user's settings of an evaluation, apart from the protocol."""

from dataclasses import dataclass, field
from pathlib import Path

from dgq.errors import SettingsError
from dgq.settings import check_positive
from evaluation.protocol import Protocol


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated, where, and on what machine; the protocol says how.

    The batch size, the device and the number of processes change the images by rounding at most.

    Args:
        ckpt: quantized models to compare: run folders, their Lightning checkpoints, or folders of
            quantized models; without any, only full precision is measured.
        protocol: what determines the numbers.
        protocol_name: names of the presets that the protocol came from.
        pipeline: full-precision pipeline (an embedded model's name, a folder or a hub id); by
            default the one that was calibrated, else `scenes`.
        output: folder of the results; by default one for each protocol in <run>/evaluation, or in
            outputs/evaluation if several models are compared.
        images: folder that keeps generated images; evaluations with the same settings share them.
        batch_size: images drawn at a time.
        devices: number of processes that draw, each on its own device.
        device: torch device; by default a GPU if there is one, else the CPU.
        latency_calls: timed calls of each UNet.
        compile: also time the full-precision UNet compiled by torch, which takes minutes.
        overwrite: replace results of another protocol in the output folder.

    Raises:
        SettingsError: if a number is outside its domain, or a model is named twice.
    """

    ckpt: tuple[Path, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    protocol_name: str = "default"
    pipeline: str | None = None
    output: Path | None = None
    images: Path = Path("outputs/images")
    batch_size: int = 16
    devices: int = 1
    device: str | None = None
    latency_calls: int = 5
    compile: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_positive("--batch-size", self.batch_size)
        check_positive("--devices", self.devices)
        check_positive("--latency-calls", self.latency_calls)
        if len(set(self.ckpt)) < len(self.ckpt):
            raise SettingsError("--ckpt names the same model twice")
