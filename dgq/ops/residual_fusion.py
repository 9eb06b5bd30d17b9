"""Compiled graphs: a block's residual is added by the product before it.

Diffusers' blocks add the residual outside of the layer. A compiler fuses that addition with every
operation that reads the sum, and each of them then reads both terms; the product adds the residual
before it writes.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from dgq.ops.library import int_conv2d, int_conv2d_packed, int_linear

aten = torch.ops.aten
PRODUCTS = (int_linear.default, int_conv2d.default, int_conv2d_packed.default)
DEVICES = ("cuda",)
"""Devices on which a product adds a residual as it writes."""

log = logging.getLogger(__name__)


class Sum(NamedTuple):
    """An addition that a product can perform itself.

    Args:
        product: the product whose output is added.
        views: views of its output, in order.
        residual: the other term.
    """

    product: Node
    views: tuple[Node, ...]
    residual: Node


Undoing = Callable[[Tensor, Node], Tensor]


def _as_input(tensor: Tensor, view: Node) -> Tensor:
    return tensor.reshape(value_of(view.all_input_nodes[0]).shape)


def _permuted_back(tensor: Tensor, view: Node) -> Tensor:
    order: Any = view.args[1]
    return tensor.permute([order.index(dim) for dim in range(len(order))])


def _unchanged(tensor: Tensor, view: Node) -> Tensor:
    return tensor


UNDONE: Mapping[Any, Undoing] = {
    aten.permute.default: _permuted_back,
    aten.view.default: _as_input,
    aten.reshape.default: _as_input,
    aten.clone.default: _unchanged,
}
"""Views that may lie between a product and an addition, and how each is undone."""


@cache
def register() -> None:
    """Make Inductor fuse residuals in all graphs that are compiled from now on."""
    try:
        from torch._inductor.fx_passes.post_grad import pass_patterns
        from torch._inductor.pattern_matcher import Arg, CallFunction, register_graph_pattern

        pattern = CallFunction(aten.add.Tensor, Arg(), Arg())
        decorate = register_graph_pattern(pattern, extra_check=_is_sum, pass_dict=pass_patterns[1])
        decorate(_replace)
    # Inductor's interface is private: it may change with any release.
    except (ImportError, AttributeError, IndexError, TypeError) as error:
        log.warning("residuals are added by passes of their own: %s", error)


def _is_sum(match: Any) -> bool:
    return sum_of(match.output_node()) is not None


def _replace(match: Any, *terms: Node) -> None:
    found = sum_of(match.output_node())
    assert found is not None
    product, views, residual = found
    operands = list(product.args)

    def added(residual: Tensor, *operands: Any) -> Tensor:
        for view in reversed(views):
            residual = UNDONE[view.target](residual, view)
        output: Tensor = product.target(*operands, residual)  # type: ignore[operator]
        for view in views:
            output = view.target(output, *view.args[1:], **view.kwargs)  # type: ignore[operator]
        return output

    match.replace_by_example(added, [residual, *operands])


def sum_of(node: Node) -> Sum | None:
    """The addition of a node, if one of its terms is a product that nothing else reads."""
    if len(node.args) != 2 or node.kwargs or value_of(node).device.type not in DEVICES:
        return None
    terms = [term for term in node.args if isinstance(term, Node)]
    if len(terms) != 2 or not all(is_alike(term, node) for term in terms):
        return None
    for term, other in (terms, reversed(terms)):
        found = product_behind(term)
        if found is not None and term is not other:
            return Sum(*found, other)
    return None


def product_behind(node: Node) -> tuple[Node, tuple[Node, ...]] | None:
    """The product that a tensor is a view of, and the views; None if others read it too."""
    views: list[Node] = []
    # Sizes that are only known when a graph runs are nodes too; views that use them are left alone.
    while node.target in UNDONE and len(node.users) == 1 and len(node.all_input_nodes) == 1:
        views.insert(0, node)
        node = node.all_input_nodes[0]
    if node.target not in PRODUCTS or len(node.users) != 1 or has_residual(node):
        return None
    return node, tuple(views)


def has_residual(product: Node) -> bool:
    """Whether a product already adds a residual."""
    names = [argument.name for argument in product.target._schema.arguments]  # type: ignore[union-attr]
    return len(product.args) == len(names) or "residual" in product.kwargs


def is_alike(term: Node, total: Node) -> bool:
    """Whether a term has the shape and dtype of the sum."""
    value, expected = value_of(term), value_of(total)
    return value.shape == expected.shape and value.dtype == expected.dtype


def value_of(node: Node) -> Tensor:
    """The output of a node, as a tensor without data."""
    value: Tensor = node.meta["val"]
    return value
