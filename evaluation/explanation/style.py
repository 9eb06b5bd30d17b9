"""Style of the pictures: legible in print, and not relying on red and green."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgq.storage.files import written_beside

DPI = 150
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B7280"
KINDS: Mapping[str, tuple[str, str]] = {
    "resnet": ("#0072B2", "o"),
    "self-attention": ("#E69F00", "s"),
    "cross-attention": ("#D55E00", "D"),
    "feed-forward": ("#009E73", "^"),
    "projection": ("#CC79A7", "v"),
    "sampling": ("#56B4E9", "P"),
    "time": ("#6B7280", "X"),
}
"""Colour (Okabe and Ito's) and marker of each kind of layer."""


def kind_of(name: str) -> str:
    """The kind of a layer, from its name."""
    for word, kind in (
        (".attn1", "self-attention"),
        (".attn2", "cross-attention"),
        (".ff.", "feed-forward"),
        (".proj_", "projection"),
        ("time_emb", "time"),
        ("add_embedding", "time"),
        (".resnets.", "resnet"),
    ):
        if word in name:
            return kind
    return "sampling"


def short(name: str) -> str:
    """A layer's name, abbreviated."""
    for long, few in (
        ("down_blocks.", "down "),
        ("up_blocks.", "up "),
        ("mid_block.", "mid "),
        (".transformer_blocks.", ".block "),
        (".attentions.", " attention "),
        ("attentions.", "attention "),
        (".resnets.", " resnet "),
        ("resnets.", "resnet "),
        (".input_quantizer", " input"),
        (".context_quantizer", " text"),
    ):
        name = name.replace(long, few)
    return name


def plain(axes: Axes) -> None:
    """Remove the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)


def write_picture(figure: Figure, file: Path) -> None:
    """Write a PNG, atomically."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    with written_beside(file) as beside:
        beside.write_bytes(content.getvalue())
