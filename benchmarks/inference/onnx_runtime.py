"""A UNet that ONNX Runtime executes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference.peers import tensors_of
from dgq.export.onnx import MODEL

ERRORS_ONLY = 3


class OnnxUNet:
    """One of our exports in ONNX Runtime on a CPU.

    Args:
        folder: folder of the export.
        threads: number of threads.
    """

    products = "linear layers in int8, convolutions in float32"
    """ONNX Runtime has no int8 convolution with an unquantized output."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        self.folder = folder / "unet"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, ERRORS_ONLY
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(
            str(self.folder / MODEL), options, providers=providers
        )

    def __call__(self, **call: Any) -> tuple[Tensor]:
        """Run like a diffusers UNet with ``return_dict=False``."""
        tensors = tensors_of(call)
        inputs = {name.rpartition(".")[2]: tensor.numpy() for name, tensor in tensors.items()}
        (output,) = self._session.run(None, inputs)
        return (torch.from_numpy(output),)

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())
