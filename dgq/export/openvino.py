"""OpenVINO's intermediate representation of a quantized UNet, with int8 products."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.errors import first_line
from dgq.export.conversion import convert_
from dgq.export.phases import Phase
from dgq.export.traceable import OUTPUT, Traceable, example_inputs, traced
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.files import write_json

MODEL = "openvino_model.xml"
"""File name that optimum-intel expects; the weights are beside it, in ``.bin``."""

IN_FLOAT32 = "precise_0"
"""Mark of operators whose results are never rounded to 16 bits."""

LAST_EXACT = ("Gather", "FakeQuantize", "MatMul", "Convolution", "Concat")
"""Operators that end the part of the graph computed from the timestep."""


def write_openvino(source: Path, folder: Path, phase: Phase) -> str:
    """Write the UNet of a quantized model to ``folder/unet``; returns a summary of its layers.

    Args:
        source: folder of the quantized model.
        folder: an existing folder.
        phase: context around each part of the work.
    """
    with phase("loading and folding"):
        unet = load_quantized_unet(source, "float", torch.float32)
        converted = convert_(unet)
    with phase("tracing and converting"):
        model = openvino_model(unet, example_inputs(unet))
    target = folder / "unet"
    target.mkdir()
    with phase("writing"):
        save_openvino(model, target)
        write_json(target / "config.json", read_manifest(source).unet_config)
    return str(converted)


def openvino_model(unet: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """OpenVINO's model of a UNet.

    Args:
        unet: as ``convert_`` leaves it.
        inputs: example inputs by name.
    """
    import openvino

    model = openvino.convert_model(traced(Traceable(unet, tuple(inputs)), inputs))
    named(model, list(inputs), [OUTPUT])
    keep_time_exact_(model)
    return model


def named(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs of a model, in their order."""
    for port, name in zip(model.inputs, inputs, strict=True):
        port.tensor.set_names({name})
        port.node.set_friendly_name(name)
    for port, name in zip(model.outputs, outputs, strict=True):
        port.tensor.set_names({name})


def save_openvino(model: Any, folder: Path, half: bool = False) -> None:
    """Write a model.

    Args:
        model: OpenVINO's.
        folder: an existing folder.
        half: in float16; otherwise scales stay in 32 bits, and weights are int8 anyway.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """
    import openvino

    try:
        openvino.save_model(model, folder / MODEL, compress_to_fp16=half)
    except RuntimeError as error:  # of C++ streams, which do not say why
        raise OSError(f"OpenVINO cannot write into {folder} ({first_line(error)})") from error


def keep_time_exact_(model: Any) -> None:
    """Keep everything computed from the timestep in float32 if the rest is rounded to bfloat16.

    Otherwise timestep 961 would become 960, and several steps of a long sampler would coincide.
    """
    frontier = [model.input("timestep").node]
    while frontier:
        node = frontier.pop()
        if node.get_type_name() in LAST_EXACT:
            continue
        readers = [t.get_node() for port in node.outputs() for t in port.get_target_inputs()]
        for reader in readers:
            if IN_FLOAT32 not in reader.get_rt_info():
                reader.get_rt_info()[IN_FLOAT32] = ""
                frontier.append(reader)
