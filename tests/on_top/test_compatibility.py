"""Each use of a UNet works on a quantized one or is refused: measured, and written into the docs.

``python tests/on_top/test_compatibility.py`` writes ``docs/reference/compatibility.md`` anew.
"""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.integer_layer import IntegerLayer
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.quantized_unet import QuantizedUNet
from tests.lasting_folders import lasting_folder
from tests.on_top.uses import USES, MissingPackageError, draw
from tests.quantized_models import SETTINGS, calibrated, decibels
from tests.tiny_pipelines import save_micro

pytest.importorskip("peft")

PAGE = Path(__file__).parents[2] / "docs/reference/compatibility.md"
COLUMNS = {
    "in integers": ("exponents", "auto"),
    "in floating point": ("exponents", "float"),
    "scores quantized": ("kmeans", "float"),
}
"""Settings and execution of each column."""
SAME = 100.0
"""Decibels from which on two pictures are the same."""
CHANGES_NOTHING = {
    "fuse_qkv_projections",
    "attention slicing",
    "set_attn_processor(AttnProcessor2_0())",
    "set_attention_backend",
    "chunked feed-forward",
}
"""Uses that compute the same picture in another way; all others must show in full precision."""
SLACK = 7.0
"""Decibels that a use may cost: what it adds was not there when ranges were calibrated."""

HEAD = """# What works on top of a quantized UNet

`tests/on_top/test_compatibility.py` measures this on a micro Stable Diffusion. *Works* means that,
with the add-on, the quantized UNet's picture is as close to the full-precision UNet's as without it
(within {slack:.0f} dB), the add-on has an effect wherever it has one in full precision, and all
quantized layers are still in place. *Refused* means that a one-line error says why before anything
is drawn, and the UNet is unchanged.

*In integers* and *in floating point* are for recipes whose attention scores are not quantized
(`w4a8` and the like), on a CPU with AVX2 and elsewhere. *Scores quantized* is for the published
recipes (`dgq_*`, `rtn_*`).

"""
NOTES = """
An adapter reads the unquantized activation and computes in the precision of the unquantized parts;
the layer it wraps is unchanged. Attention processors that a pipeline installs, and code that
exchanges the `forward` of attentions, compute on quantized projections. A `forward` assigned to the
UNet itself runs at the step of its timestep. Ranges are fixed by the calibration, so values that a
strong LoRA or IP-Adapter drives beyond them are clipped. Parts copied into other models
(ControlNets, motion models) get dequantized weights. With integer execution the unquantized parts
are bfloat16, and a motion model inherits this: convert it to the pipeline's precision.
"""


@cache
def folder(name: str) -> Path:
    """A calibrated UNet on disk."""
    return calibrated(SETTINGS[name], lasting_folder()).folder


@cache
def loaded(name: str, execution: Any) -> nn.Module:
    """The same as it runs; to be copied."""
    return load_quantized_unet(folder(name), execution)


@cache
def stock_folder() -> str:
    """The pipeline in full precision."""
    return str(save_micro(lasting_folder()))


def pipeline(unet: nn.Module | None = None) -> Any:
    """A fresh pipeline around a copy of a UNet."""
    made = load_pipeline(stock_folder())
    if unet is not None:
        made.unet = copy.deepcopy(unet)
    return made


@cache
def drawn(name: str, execution: str) -> Tensor:
    """The picture of a quantized UNet with nothing on it."""
    return draw(pipeline(loaded(name, execution)))


@cache
def of_stock(use: str) -> tuple[Tensor, Tensor]:
    """Without and with a use, in full precision."""
    plain = pipeline()
    return draw(plain), USES[use](plain)


def n_quantized(unet: nn.Module) -> int:
    """Layers that hold codes."""
    return sum(hasattr(module, "weight_bits") for module in unet.modules())


def measured(use: str, name: str, execution: str) -> str:
    """What becomes of a use on a quantized UNet: a cell of the table.

    Raises:
        AssertionError: where it neither works nor is refused as it should be.
    """
    plain, before = pipeline(loaded(name, execution)), drawn(name, execution)
    n_layers = n_quantized(plain.unet)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            after = USES[use](plain)
        except DGQError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert torch.equal(draw(plain), before), "refused, but not as it was"
        return f"refused: {reason(refusal)}"
    stock_before, stock_after = of_stock(use)
    assert bool(after.isfinite().all())
    closeness, plain_closeness = decibels(stock_after, after), decibels(stock_before, before)
    assert closeness > plain_closeness - SLACK, (closeness, plain_closeness)
    if stock_after.shape == stock_before.shape:
        changes = decibels(stock_before, stock_after) < SAME
        assert changes == (use.strip("`") not in CHANGES_NOTHING), "the use measures nothing"
        assert (decibels(before, after) < SAME) == changes, "a use without an effect"
    if not isinstance(plain.unet, QuantizedUNet):
        assert any("dequantized" in str(w.message) for w in said), "not quantized any longer"
        return "works, dequantized (warns)"
    assert n_quantized(plain.unet) == n_layers
    return "works"


def reason(message: str) -> str:
    """The part of a message that fits into a table."""
    known = {
        "without the quantizer of the scores": "scores are quantized",
        "reads or changes full-precision weights": "needs full-precision weights",
        "cannot take up a LoRA": "codes cannot take it up",
        "have no gradients": "integers have no gradients",
    }
    (found,) = (short for part, short in known.items() if part in message)
    return found


def has_integers() -> bool:
    return any(isinstance(m, IntegerLayer) for m in loaded("exponents", "auto").modules())


def has_package(use: str) -> bool:
    try:
        of_stock(use)
    except MissingPackageError:
        return False
    return True


def rows_of_page() -> dict[str, list[str]]:
    """The table of the docs, by use."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) == len(COLUMNS) + 1}


@pytest.mark.parametrize(
    "column",
    ["in integers", *(pytest.param(c, marks=pytest.mark.slow) for c in list(COLUMNS)[1:])],
)
@pytest.mark.parametrize("use", USES)
def test_the_table_says_what_happens(use: str, column: str) -> None:
    if not has_package(use):
        pytest.skip("its package is not installed")
    if column == "in integers" and not has_integers():
        pytest.skip("no integer products on this machine")
    assert measured(use, *COLUMNS[column]) == rows_of_page()[use][list(COLUMNS).index(column)]


def test_the_page_is_the_one_that_this_file_writes() -> None:
    assert list(rows_of_page())[1:] == list(USES)
    assert PAGE.read_text().startswith(HEAD.format(slack=SLACK))
    assert PAGE.read_text().endswith(NOTES)


def test_refusals_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement fails for a use that does nothing, and for one that costs too much."""

    def nothing(made: Any) -> Tensor:
        return draw(made)

    def noise(made: Any) -> Tensor:
        return torch.randn(1, 4, 8, 8)

    real: Callable[[Any], Tensor] = USES["FreeU"]
    of_stock("FreeU")
    for wrong in (nothing, noise):
        monkeypatch.setitem(USES, "FreeU", wrong)
        with pytest.raises(AssertionError):
            measured("FreeU", "exponents", "float")
    monkeypatch.setitem(USES, "FreeU", real)
    assert measured("FreeU", "exponents", "float") == "works"


def page() -> str:
    """``docs/reference/compatibility.md``."""
    rows = [["", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for use in USES:
        rows.append([use, *(measured(use, *column) for column in COLUMNS.values())])
    return HEAD.format(slack=SLACK) + "".join(f"| {' | '.join(r)} |\n" for r in rows) + NOTES


if __name__ == "__main__":
    PAGE.write_text(page())
