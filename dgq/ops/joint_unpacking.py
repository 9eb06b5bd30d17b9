"""Compiled graphs: the 4-bit weights of several layers are unpacked in one launch.

Unpacking one takes a GPU a few microseconds, most of them to begin and to end, and a UNet has
hundreds. As many as fit into the cache together are unpacked before the first of them is needed.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.fx import Graph, Node

from dgq.ops.library import unpack, unpack_all
from dgq.ops.residual_fusion import value_of

aten = torch.ops.aten
DEVICES = ("cuda",)
"""Where weights are unpacked together."""

MOST_BYTES = 16 * 2**20
"""Unpacked at once, a third of the smallest cache of a GPU that has a copy engine."""

WIDE = 32
"""Input channels, of which a weight has a multiple: then all begin at boundaries of 16 bytes."""

PACKED, FACTOR, SHIFT, GROUP_SIZE, CHANNELS = 0, 2, 3, 4, 5
"""Places of arguments of ``unpack``."""

log = logging.getLogger(__name__)


@cache
def register() -> None:
    """Let Inductor do so in all graphs that are compiled from now on."""
    try:
        from torch._inductor.fx_passes.post_grad import pass_patterns
        from torch._inductor.pattern_matcher import Arg, CallFunction, register_graph_pattern

        pattern = CallFunction(unpack.default, *(Arg() for _ in range(CHANNELS + 1)))
        decorate = register_graph_pattern(
            pattern, extra_check=_is_alone, pass_dict=pass_patterns[2]
        )
        decorate(_join_all)
    # Inductor's interface is private: it may change with any release.
    except (ImportError, AttributeError, IndexError, TypeError) as error:
        log.warning("weights are unpacked one by one: %s", error)


def _is_alone(match: Any) -> bool:
    return can_be_joined(match.output_node())


def _join_all(match: Any, *_: Any) -> None:
    """Of the first match all weights of its graph are joined, so no other is found."""
    join(match.output_node().graph)


def can_be_joined(node: Node) -> bool:
    """Whether a node unpacks a weight that is there before the graph runs."""
    if node.target != unpack.default or value_of(node).device.type not in DEVICES:
        return False
    inputs = node.all_input_nodes
    channels: Any = node.args[CHANNELS]
    return all(one.op in ("placeholder", "get_attr") for one in inputs) and not channels % WIDE


def join(graph: Graph) -> None:
    """Unpack all weights of a graph in as few launches as ``MOST_BYTES`` allows."""
    for nodes in runs([node for node in graph.nodes if can_be_joined(node)]):
        unpack_jointly(graph, nodes)


def runs(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Weights that are unpacked together, those with the same kinds of operands."""
    waiting: dict[Any, list[Node]] = {}
    for node in nodes:
        kind = (node.args[FACTOR] is None, node.args[SHIFT] is None, node.args[GROUP_SIZE])
        run = waiting.setdefault(kind, [])
        if run and sum(value_of(one).numel() for one in [*run, node]) > MOST_BYTES:
            yield waiting.pop(kind)
            run = waiting.setdefault(kind, [])
        run.append(node)
    yield from waiting.values()


def unpack_jointly(graph: Graph, nodes: Sequence[Node]) -> None:
    """Replace nodes by views of what one unpacks before the first of them."""
    columns = [list(column) for column in zip(*(node.args for node in nodes), strict=True)]
    packed, zero_point, factor, shift, (group_size, *_), channels = columns
    with graph.inserting_before(nodes[0]):
        operands = (packed, zero_point, factor, shift, group_size, channels)
        together = called(graph, unpack_all.default, *operands)
        offset = 0
        for node in nodes:
            value = value_of(node)
            view = (list(value.shape), list(value.stride()), offset)
            node.replace_all_uses_with(called(graph, aten.as_strided.default, together, *view))
            offset += value.numel()
    for node in nodes:
        graph.erase_node(node)


def called(graph: Graph, target: Any, *arguments: Any) -> Node:
    """A new node, with its output without data."""
    node = graph.call_function(target, arguments)
    values = torch.fx.node.map_arg(arguments, value_of)
    with torch._inductor.virtualized.V.fake_mode:
        node.meta["val"] = target(*values)
    return node
