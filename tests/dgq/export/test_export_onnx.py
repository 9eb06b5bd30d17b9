"""ONNX of a quantized UNet: its operators, and what ONNX Runtime computes."""

from collections import Counter
from pathlib import Path
from statistics import median
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


def by_sample(unet: Any, engine: Any, batch: int, timestep: float, size: int = 8) -> list[float]:
    """Decibels of each sample of a call in ONNX Runtime, against our own execution."""
    call = unet_call(unet, batch, timestep, size) | {"timestep": torch.tensor(timestep)}
    return list(map(decibels, unet(**call)[0], output(engine, call)))


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["w4a8", "w8a8"])
def test_onnx_runtime_computes_what_our_own_execution_does(
    recipe: str, file: Path, tmp_path: Path
) -> None:
    """Most samples to rounding in float32; in some, that tips a code over, which costs more."""
    folder = exported_model(recipe).folder
    if recipe != "w4a8":
        export(folder, "onnx", tmp_path / "out")
        file = tmp_path / "out" / "unet" / "model.onnx"
    unet = load_quantized_unet(folder, "float", torch.float32)
    engine = session(file, tmp_path / "optimized.onnx")
    found = [db for timestep in TIMESTEPS for db in by_sample(unet, engine, 4, timestep)]
    assert median(found) > 100
    # Nothing of the trace's size is left.
    found += by_sample(unet, engine, 1, TIMESTEPS[1]) + by_sample(unet, engine, 3, TIMESTEPS[1], 16)
    assert min(found) > 25
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    run = Counter(node.op_type for node in optimized.graph.node)
    assert run["MatMulIntegerToFloat"] >= 40, "linear layers multiply integers"


def test_each_quantized_layer_reads_a_weight_of_bytes_and_codes(file: Path) -> None:
    """Of uint8, since ONNX Runtime's products with int8 saturate on CPUs without VNNI."""
    onnx.checker.check_model(str(file))
    graph = onnx.load(str(file)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    weights = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.UINT8}
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
