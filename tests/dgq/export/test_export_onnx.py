"""ONNX of a quantized UNet: its operators, and what ONNX Runtime computes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgq import load_quantized_unet
from dgq.export.export import export
from dgq.inference.layers import PackedLayer
from tests.exported_models import exported_model
from tests.quantized_models import TIMESTEPS, decibels
from tests.tiny_pipelines import unet_call

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the micro UNet."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    export(exported_model("w4a8").folder, "onnx", out)
    return out / "unet" / "model.onnx"


def session(file: Path, optimized: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def output(engine: Any, call: dict[str, Any]) -> Tensor:
    tensors = {name: t for name, t in call.items() if isinstance(t, Tensor)}
    tensors["timestep"] = call["timestep"].reshape(-1)[0]
    (found,) = engine.run(["out_sample"], {name: t.numpy() for name, t in tensors.items()})
    return torch.from_numpy(found)


@torch.no_grad()
def test_onnx_runtime_computes_what_our_own_execution_does(file: Path, tmp_path: Path) -> None:
    model = exported_model("w4a8")
    unet = load_quantized_unet(model.folder, "float", torch.float32)
    engine = session(file, tmp_path / "optimized.onnx")
    for timestep in TIMESTEPS:
        call = model.at(timestep)
        assert decibels(unet(**call)[0], output(engine, call)) > 40
    for batch, size in ((1, 8), (3, 16)):  # nothing of the trace's size is left
        call = unet_call(unet, batch, TIMESTEPS[1], size) | {"timestep": torch.tensor(TIMESTEPS[1])}
        assert decibels(unet(**call)[0], output(engine, call)) > 40
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    run = Counter(node.op_type for node in optimized.graph.node)
    assert run["MatMulIntegerToFloat"] >= 40, "linear layers multiply integers"


def test_each_quantized_layer_reads_an_int8_weight_and_codes(file: Path) -> None:
    onnx.checker.check_model(str(file))
    graph = onnx.load(str(file)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    weights = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT8}
    read = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    ]
    unet = load_quantized_unet(exported_model("w4a8").folder, "float")
    n_layers = sum(isinstance(m, PackedLayer) for m in unet.modules())
    assert len(read) == n_layers
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantized = [n for n in convolutions if n.input[1] in made_by]
    assert len(convolutions) - len(quantized) == 2, "conv_in and conv_out, which are kept"
    for node in quantized:
        codes = made_by[node.input[0]]
        assert codes.op_type == made_by[node.input[1]].op_type == "DequantizeLinear"
        assert made_by[codes.input[0]].op_type == "QuantizeLinear"
