"""Code that exchanges the forward of attentions, or hooks their projections."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import Calibrated, decibels

Models = Callable[[str], Calibrated]
EXECUTIONS = ("auto", "float")
CHANGED = "mid_block.attentions.0.transformer_blocks.0.attn2"


def edited(attention: Any, of_values: float = 1) -> Callable[..., Tensor]:
    """A forward as prompt-to-prompt assigns it, with an optional factor on what values read.

    Its sums have the order of the attention's own: another one may reach another code.
    """

    def forward(x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        text = x if encoder_hidden_states is None else encoder_hidden_states
        parts = (attention.to_q(x), attention.to_k(text), attention.to_v(of_values * text))
        mixed = attention.attend(*parts, attention.heads, attention.scale)
        return attention.to_out[0](mixed)  # type: ignore[no-any-return]

    return forward


def attentions(unet: nn.Module) -> list[Any]:
    """As prompt-to-prompt finds them: by the name of their class."""
    return [m for m in unet.modules() if type(m).__name__ == Attention.__name__]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["multiples", "exponents", "absorbed", "pixels", "split skips"])
@torch.no_grad()
def test_projections_called_alone_quantize_as_their_attention_does(
    name: str, execution: Any, calibrated_as: Models
) -> None:
    model = calibrated_as(name)
    unet = load_quantized_unet(model.folder, execution, torch.float32)
    expected = unet(**model.call)[0]
    assert len(attentions(unet)) == 8
    for attention in attentions(unet):
        attention.forward = edited(attention)
    assert torch.equal(unet(**model.call)[0], expected)


@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_a_forward_that_would_skip_quantized_scores_is_refused(
    execution: Any, calibrated_as: Models
) -> None:
    model = calibrated_as("kmeans")
    unet = load_quantized_unet(model.folder, execution)
    expected = unet(**model.call)[0]
    attention = attentions(unet)[0]
    attention.forward = edited(attention)
    with pytest.raises(DGQError, match="without the quantizer of the scores"):
        unet(**model.call)
    del attention.forward
    assert torch.equal(unet(**model.call)[0], expected)


@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_hooks_of_projections_see_and_replace_what_stock_ones_read(
    execution: Any, calibrated_as: Models
) -> None:
    model = calibrated_as("multiples")
    unet = load_quantized_unet(model.folder, execution, torch.float32)
    plain, layer = unet(**model.call)[0], unet.get_submodule(CHANGED).to_v
    with_hook(layer, seen := [])
    assert torch.equal(unet(**model.call)[0], plain)
    assert torch.equal(seen[0], model.call["encoder_hidden_states"])

    handle = layer.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    doubled = unet(**model.call)[0]
    handle.remove()
    attention = unet.get_submodule(CHANGED)
    attention.forward = edited(attention, of_values=2)  # type: ignore[assignment]
    assert torch.equal(unet(**model.call)[0], doubled)
    assert decibels(plain, doubled) < 60


def with_hook(layer: nn.Module, seen: list[Tensor]) -> None:
    """Keep what a layer reads."""
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
