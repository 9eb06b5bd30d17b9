"""ONNX of a quantized UNet, with 8-bit operands between QuantizeLinear and DequantizeLinear.

Weights are stored as uint8 with a zero point of 128. On CPUs without VNNI, ONNX Runtime's kernels
for u8 codes and s8 weights add two products in 16 bits, which saturates. Its kernels for u8 weights
are exact on every CPU, and with VNNI they are the same kernels.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.export import operators
from dgq.export.conversion import convert_
from dgq.export.operators import Operators
from dgq.export.phases import Phase
from dgq.export.traceable import OUTPUT, Traceable, example_inputs
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.files import open_as_usual_, write_json

MODEL, DATA = "model.onnx", "model.onnx_data"
"""Names that optimum expects."""

OPSET = 18
ZERO = 128
"""The code of a weight of 0."""

FREE = {
    "sample": {0: "batch", 2: "height", 3: "width"},
    "encoder_hidden_states": {0: "batch", 1: "tokens"},
    "timestep_cond": {0: "batch"},
    "text_embeds": {0: "batch"},
    "time_ids": {0: "batch"},
    OUTPUT: {0: "batch", 2: "height", 3: "width"},
}
"""Dynamic sizes of inputs and output."""

INLINE = 2**16
"""Tensors up to this many bytes stay in the file of the graph, where shapes are read from."""


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return operators.codes(x)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        one = g.op("Constant", value_t=torch.tensor(1.0))
        zero = g.op("Constant", value_t=torch.tensor(0, dtype=torch.uint8))
        codes = g.op("QuantizeLinear", x, one, zero)
        return g.op("DequantizeLinear", codes, one, zero).setType(x.type())


class _Dequantized(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return operators.dequantized(weight.to(torch.int16) - ZERO, scale)

    @staticmethod
    def symbolic(g: Any, weight: Any, scale: Any) -> Any:
        # ONNX Runtime recognises an integer product only if the zero point is given.
        zeros = torch.full((weight.type().sizes()[0],), ZERO, dtype=torch.uint8)
        zero_point = g.op("Constant", value_t=zeros)
        made = g.op("DequantizeLinear", weight, scale, zero_point, axis_i=0)
        return made.setType(weight.type().with_dtype(torch.float32))


def unsigned(weight: Tensor) -> Tensor:
    """An int8 weight as uint8, with the zero point ``ZERO``."""
    return (weight.to(torch.int16) + ZERO).to(torch.uint8)


QDQ = Operators(_Codes.apply, _Dequantized.apply, unsigned)
"""Operators that become QuantizeLinear and DequantizeLinear."""


def write_onnx(source: Path, folder: Path, phase: Phase) -> str:
    """Write the UNet of a quantized model to ``folder/unet``; returns a summary of its layers.

    Args:
        source: folder of the quantized model.
        folder: an existing folder.
        phase: context around each part of the work.
    """
    with phase("loading and folding"):
        unet = load_quantized_unet(source, "float", torch.float32)
        converted = convert_(unet, QDQ)
    target = folder / "unet"
    target.mkdir()
    with phase("tracing"):
        save_onnx(unet, example_inputs(unet), target)
    write_json(target / "config.json", read_manifest(source).unet_config)
    return str(converted)


def save_onnx(unet: nn.Module, inputs: dict[str, Tensor], folder: Path) -> None:
    """Write ONNX, with the weights in a separate file.

    Args:
        unet: as ``convert_`` leaves it with ``QDQ``.
        inputs: example inputs by name.
        folder: an existing folder.
    """
    import onnx

    module = Traceable(unet, tuple(inputs)).eval()
    names = (*inputs, OUTPUT)
    # Traced: the exporter based on torch.export takes twenty times as long for the same graph.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(folder / MODEL),
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_axes={name: FREE[name] for name in names if name in FREE},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(folder / MODEL))
    for file in folder.iterdir():  # a model beyond 2 GB comes with a file for each tensor
        file.unlink()
    onnx.save(
        model,
        str(folder / MODEL),
        save_as_external_data=True,
        location=DATA,
        size_threshold=INLINE,
        convert_attribute=True,
    )
    open_as_usual_(folder, list(folder.iterdir()))  # onnx lets nobody else read its data
