"""What kind of activation each of DGQ's quantizers sees, by its name."""

import re
from fnmatch import fnmatch

GEGLU = "GEGLU output (ff.net.2)"
CONV2 = "second resnet convolution (conv2)"

KINDS = {
    "*.ff.net.2": GEGLU,
    "*.conv2": CONV2,
    "*.conv1": "first resnet convolution (conv1)",
    "*.conv_shortcut": "resnet shortcut (conv_shortcut)",
    "*.attn1.hidden": "self-attention input (to_q, to_k, to_v)",
    "*.attn1.query": "self-attention q",
    "*.attn1.key": "self-attention k",
    "*.attn1.value": "self-attention v",
    "*.attn1.to_out.0": "self-attention output (to_out)",
    "*.attn2.hidden": "cross-attention input (to_q)",
    "*.attn2.text": "text context (to_k, to_v)",
    "*.attn2.query": "cross-attention q",
    "*.attn2.key": "cross-attention k, start token left out",
    "*.attn2.value": "cross-attention v",
    "*.attn2.to_out.0": "cross-attention output (to_out)",
    "*.ff.net.0.proj": "feed-forward input (ff.net.0)",
    "*.proj_in": "transformer input (proj_in)",
    "*.proj_out": "transformer output (proj_out)",
    "*samplers.*": "down- and upsampling",
    "*.time_emb_proj": "time embedding in resnets (time_emb_proj)",
    "*_embedding.*": "time and added embeddings",
}
"""Kinds by pattern of the name that ``layer_name`` gives, in the order of the tables."""

OTHER = "other"

OPERANDS = {
    **{"input": "hidden", "context": "text"},
    **{name: name for name in ("query", "key", "value")},
}
"""Operands of an attention, by the role of their quantizer."""


def layer_name(quantizer: str) -> str:
    """The layer whose input a quantizer sees, or the attention and its operand."""
    for role, operand in OPERANDS.items():
        quantizer = re.sub(rf"(attn\d)\.{role}_quantizer$", rf"\1.{operand}", quantizer)
    return quantizer.removesuffix(".input_quantizer")


def kind_of(layer: str) -> str:
    """The kind of a layer's input."""
    return next((kind for pattern, kind in KINDS.items() if fnmatch(layer, pattern)), OTHER)
