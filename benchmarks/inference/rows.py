"""The rows of the table: ways to run one UNet, and the order in which they take turns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from dgq.inference.execution import Mode

Engine = Literal["stock", "quantized", "openvino", "onnx", "torchao"]
INSTALL = "pip install -e .[bench] -c constraints.txt"
"""With the constraints, because otherwise nncf replaces torch."""


@dataclass(frozen=True)
class Row:
    """One way to run a UNet.

    Args:
        title: in the table.
        engine: torch on the stock UNet or on a quantized one, OpenVINO, ONNX Runtime, or torchao,
            which quantizes the linear layers of the stock UNet while it loads.
        parts: parts that must be made for it, by name; see ``Subject.part``.
        compiled: whether ``torch.compile`` is used.
        bfloat16: for a stock UNet: weights and activations in bfloat16.
        execution: execution of a quantized UNet.
        precision: OpenVINO's hint, or the dtype of a quantized UNet's unquantized parts; empty for
            their own choice.
        packages: packages that must be installed.
    """

    title: str
    engine: Engine
    parts: tuple[str, ...] = ()
    compiled: bool = False
    bfloat16: bool = False
    execution: Mode = "auto"
    precision: str = ""
    packages: tuple[str, ...] = ()

    @property
    def of_ckpt(self) -> bool:
        """Whether there is one such row for each quantized model."""
        return "quantized" in self.parts


INTEGER: Mode = "integer"
FLOAT: Mode = "float"

USUAL_ROWS = {
    "fp32": Row("torch fp32, eager", "stock"),
    "fp32-compiled": Row("torch fp32, compiled", "stock", compiled=True),
    "bf16": Row("torch bf16, eager", "stock", bfloat16=True),
    "bf16-compiled": Row("torch bf16, compiled", "stock", bfloat16=True, compiled=True),
    "weight-only": Row("weights alone quantized", "quantized", ("quantized", "weight-only")),
    "fake": Row("fake quantization", "quantized", ("quantized",), execution="float"),
    "integer": Row("integer, eager", "quantized", ("quantized",), execution="integer"),
    "integer-compiled": Row(
        "integer, compiled", "quantized", ("quantized",), compiled=True, execution="integer"
    ),
    "openvino-f32": Row(
        "OpenVINO f32", "openvino", ("openvino",), precision="f32", packages=("openvino",)
    ),
    "openvino": Row("OpenVINO default", "openvino", ("openvino",), packages=("openvino",)),
    "nncf": Row("NNCF full W8A8", "openvino", ("nncf",), packages=("openvino", "nncf")),
    "export-openvino": Row(
        "exported to OpenVINO",
        "openvino",
        ("quantized", "export-openvino"),
        packages=("openvino",),
    ),
    "export-onnx": Row(
        "exported to ONNX Runtime",
        "onnx",
        ("quantized", "export-onnx"),
        packages=("onnx", "onnxruntime"),
    ),
}
"""Rows by the name that ``--rows`` accepts."""

PRECISIONS = {
    f"{execution}-{short}": Row(
        f"{title}, the rest in {precision}",
        "quantized",
        ("quantized",),
        execution=mode,
        precision=precision,
    )
    for execution, mode, title in (
        ("integer", INTEGER, "integer"),
        ("fake", FLOAT, "fake quantization"),
    )
    for short, precision in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"))
}
"""Rows that run only on request: the cost of half precision."""

GPU_ROWS = {
    name: USUAL_ROWS[name]
    for name in ("bf16", "bf16-compiled", "integer", "integer-compiled", "weight-only")
} | {
    "torchao": Row(
        "torchao int8 dynamic, linears alone, compiled",
        "torchao",
        compiled=True,
        bfloat16=True,
        packages=("torchao",),
    )
}
"""Rows for a GPU."""

ROWS = USUAL_ROWS | PRECISIONS | GPU_ROWS

BASES = {
    "fp32": "x fp32",
    "bf16": "x bf16",
    "bf16-compiled": "x bf16 compiled",
    "nncf": "x NNCF",
}
"""Rows that others are compared with, and their ratio columns."""


@dataclass(frozen=True)
class Entrant:
    """A row for one UNet, and one of its quantized models.

    Args:
        model: which UNet.
        row: name in ``ROWS``.
        ckpt: name of the quantized model; empty if the row has none.
        title: in the table.
    """

    model: str
    row: str
    ckpt: str
    title: str


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def available(
    names: Sequence[str], installed: Callable[[str], bool] = is_installed
) -> tuple[list[str], list[str]]:
    """Rows that can run here, and a note on those that cannot.

    Args:
        names: names of rows.
        installed: tells whether a package is installed.
    """
    needed = {package for name in names for package in ROWS[name].packages}
    missing = {package for package in needed if not installed(package)}
    skipped = [name for name in names if missing.intersection(ROWS[name].packages)]
    notes = []
    if skipped:
        command = INSTALL if missing - {"torchao"} else "pip install torchao"
        notes.append(
            f"{', '.join(skipped)}: skipped, {' and '.join(sorted(missing))} not installed; "
            f"`{command}` installs what is missing"
        )
    return [name for name in names if name not in skipped], notes


def entrants(model: str, names: Sequence[str], ckpts: Sequence[str]) -> Iterator[Entrant]:
    """The rows of one UNet; quantized ones once for each quantized model.

    Args:
        model: name of the UNet.
        names: names of rows.
        ckpts: its quantized models, by path or any other name.
    """
    for name in names:
        row = ROWS[name]
        if not row.of_ckpt:
            yield Entrant(model, name, "", row.title)
            continue
        for ckpt in ckpts:
            title = row.title if len(ckpts) == 1 else f"{row.title} ({ckpt})"
            yield Entrant(model, name, ckpt, title)


def turns(rows: Sequence[Entrant], repeats: int) -> Iterator[tuple[int, Entrant]]:
    """Round robin: every row once, then every row again, with the number of the round."""
    for repeat in range(repeats):
        for row in rows:
            yield repeat, row
