"""What a compiled graph holds, without the minutes that compiling it takes."""

from typing import Any

import torch
from torch import Tensor


def output_and_operators(model: Any, call: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """What a model captured as one graph computes, and the graph's operators in their order."""
    operators: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    output: Tensor = torch.compile(model, fullgraph=True, backend=backend)(**call)[0]
    torch._dynamo.reset()
    return output, operators
