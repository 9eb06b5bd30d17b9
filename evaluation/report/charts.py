"""Line charts as pictures to embed in an HTML page."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.figure import Figure

SIZE = (4.6, 3.0)
"""Size in inches: text stays readable when a phone shows the picture at two thirds of its size."""

DPI = 160
COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#374151")
STYLES = ("-", "--", ":", "-.")


def line_chart(lines: Mapping[str, Sequence[float | None]], x_label: str, y_label: str) -> str:
    """A chart of lines over 1, 2, 3, ... as a data URI of a PNG; None leaves a gap.

    Args:
        lines: values by label.
        x_label: label of the x axis.
        y_label: label of the y axis.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for number, (label, values) in enumerate(lines.items()):
        points = [float("nan") if value is None else value for value in values]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        colour = COLOURS[number % len(COLOURS)]
        # A leading underscore would hide the label from the legend.
        label = label.replace("$", r"\$").lstrip("_")
        axes.plot(range(1, len(points) + 1), points, style, color=colour, label=label)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", frameon=False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return data_uri(content.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """The bytes of a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
