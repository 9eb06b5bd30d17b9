"""Files whose tensors cannot be those of the UNet are refused, each in one clear line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.checkpoint import load_quantized_unet
from dgq.storage.model_files import WEIGHTS_FILE
from tests.forging import forge_
from tests.quantized_models import Calibrated

Models = Callable[[str], Calibrated]
State = dict[str, Tensor]
CONV = "mid_block.resnets.0.conv1"
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
NAN, INF = float("nan"), float("inf")


def put(name: str, value: float) -> Callable[[State], None]:
    """Set the first element of a tensor."""

    def change(state: State) -> None:
        state[name].view(-1)[0] = value

    return change


def replace(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = function(state[name])

    return change


def without(name: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[name]

    return change


def surplus(state: State) -> None:
    state["surprise"] = torch.ones(1)


def narrower(x: Tensor) -> Tensor:
    return x[..., :-1].contiguous()


def wider(x: Tensor) -> Tensor:
    return torch.cat([x, x], -1)


Damage = dict[str, tuple[Callable[[State], None], str]]
POSITIVE, CHANNELS = "scale .*not a positive number", "expected 16"
BOTH: Damage = {  # of either way to group activations
    "scale of a weight is NaN": (put(f"{CONV}.scale", NAN), f"{CONV}: .*{POSITIVE}"),
    "scale of a weight is negative": (put(f"{CONV}.scale", -1), f"{CONV}: .*{POSITIVE}"),
    "scale of a weight is zero": (put(f"{CONV}.scale", 0), f"{CONV}: .*{POSITIVE}"),
    "scale of a weight is infinite": (put(f"{CONV}.scale", INF), f"{CONV}: .*{POSITIVE}"),
    "scale of a weight is huge": (put(f"{CONV}.scale", 1e30), f"{CONV}: .*{POSITIVE}"),
    "kept weight is NaN": (put("conv_in.weight", NAN), "conv_in: weight has values"),
    "kept norm is infinite": (put("conv_norm_out.bias", INF), "conv_norm_out: bias has values"),
    "zero point is NaN": (put(f"{CONV}.zero_point", NAN), f"{CONV}: a zero point"),
    "zero point below": (put(f"{CONV}.zero_point", -1), "among the codes 0 to 15"),
    "zero point beyond": (put(f"{CONV}.zero_point", 16), "among the codes 0 to 15"),
    "zero point with a fraction": (put(f"{CONV}.zero_point", 3.5), "among the codes 0 to 15"),
    "bias is NaN": (put(f"{CONV}.bias", NAN), "a bias is not finite"),
    "codes of 8 bits": (replace(f"{CONV}.codes", wider), r"codes is \(16, 144\), expected"),
    "codes are missing": (without(f"{CONV}.codes"), "Missing key"),
    "codes of half the inputs": (replace(f"{CONV}.codes", narrower), "codes is .*expected"),
    "codes in floating point": (replace(f"{CONV}.codes", Tensor.float), "codes are not bytes"),
    "scales of a weight in half": (replace(f"{CONV}.scale", Tensor.half), "scales not float32"),
    "too few scales": (replace(f"{CONV}.scale", narrower), r"scale is \(15,\), expected \(16,\)"),
    "too few biases": (replace(f"{CONV}.bias", narrower), r"bias is \(15,\), expected \(16,\)"),
    "kept weight of another shape": (replace("conv_in.weight", narrower), "size mismatch"),
    "surplus tensor": (surplus, "surprise"),
    "input's scale is NaN": (put(f"{CONV}.input_quantizer.scale", NAN), POSITIVE),
    "input's scale is negative": (put(f"{CONV}.input_quantizer.scale", -1), POSITIVE),
    "input's scale is infinite": (put(f"{CONV}.input_quantizer.scale", INF), POSITIVE),
    "input's scale is huge": (put(f"{CONV}.input_quantizer.scale", 1e30), POSITIVE),
    "input's scale is missing": (without(f"{CONV}.input_quantizer.scale"), "Missing key"),
    "q's scale is NaN": (put(f"{ATTENTION}.query_quantizer.scale", NAN), "query_quantizer: "),
    "zero points with fractions": (
        replace(f"{CONV}.input_quantizer.zero_point", lambda x: x + 0.5),
        "zero points not whole numbers",
    ),
    "too few steps": (
        lambda s: [s.update({n: t[:2].contiguous()}) for n, t in s.items()
                   if n.startswith(f"{CONV}.input_quantizer.") and t.ndim and len(t) == 3] and None,
        "2 rows of scales for 3 steps",
    ),
}  # fmt: skip
KMEANS: Damage = {
    "group beyond": (put(f"{CONV}.input_quantizer.group_index", 200), "group that does not exist"),
    "group below": (
        replace(f"{CONV}.input_quantizer.group_index", lambda x: x.int() - 1),
        "group that does not exist",
    ),
    "no groups": (replace(f"{CONV}.input_quantizer.group_index", lambda x: x[:, :0]), "0 members"),
    "an axis of 7": (put(f"{CONV}.input_quantizer.axis", 7), "axis that does not exist"),
    "an empty axis": (
        replace(f"{CONV}.input_quantizer.axis", lambda x: x.view(1)[:0]),
        "axis that does not exist",
    ),
    "groups of other channels": (
        lambda s: s.update({
            f"{CONV}.input_quantizer.group_index": torch.zeros(3, 5, dtype=torch.uint8),
            f"{CONV}.input_quantizer.axis": torch.tensor(0, dtype=torch.uint8),
        }),
        "groups of 5 members, expected 16",
    ),
    "fewer zero points than scales": (
        replace(f"{CONV}.input_quantizer.zero_point", narrower),
        "not .steps, groups.",
    ),
}  # fmt: skip
EXPONENTS: Damage = {
    "exponent of a weight beyond the settings": (put(f"{CONV}.exponent", 2), "beyond 1"),
    "exponents in floating point": (replace(f"{CONV}.exponent", Tensor.float), "not bytes"),
    "exponents of too few groups": (replace(f"{CONV}.exponent", narrower), "exponent is"),
    "multiple beyond the spare bits": (
        put(f"{CONV}.input_quantizer.multiple", 5),
        "multiple beyond the spare bits, 2",
    ),
    "multiple of zero": (put(f"{CONV}.input_quantizer.multiple", 0), "multiple beyond"),
    "zero points of other channels": (
        replace(f"{CONV}.input_quantizer.zero_point", narrower),
        "zero points are not .steps, channels.",
    ),
    "another number of channels": (
        lambda s: s.update({
            f"{CONV}.input_quantizer.{n}": narrower(s[f"{CONV}.input_quantizer.{n}"])
            for n in ("zero_point", "multiple")
        }),
        f"multiples of 15 channels, {CHANNELS}",
    ),
    "no channels": (
        lambda s: s.update({
            f"{CONV}.input_quantizer.{n}": s[f"{CONV}.input_quantizer.{n}"][..., :0]
            for n in ("zero_point", "multiple")
        }),
        f"multiples of 0 channels, {CHANNELS}",
    ),
}  # fmt: skip
CASES = [("kmeans", n) for n in BOTH | KMEANS] + [("exponents", n) for n in BOTH | EXPONENTS]


def damaged(model: Calibrated, folder: Path, damage: Callable[[State], None]) -> Path:
    """A copy of a saved model with other tensors, whose seal vouches for them."""
    shutil.copytree(model.folder, folder, dirs_exist_ok=True)
    return forge_(folder, edit_state=damage)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda value: value)
def test_tensors_that_cannot_be_are_refused(
    kind: str, name: str, calibrated_as: Models, tmp_path: Path
) -> None:
    damage, message = (BOTH | KMEANS | EXPONENTS)[name]
    folder = damaged(calibrated_as(kind), tmp_path, damage)
    with pytest.raises(DGQError, match=f"(?s){WEIGHTS_FILE}.*{message}"):
        load_quantized_unet(folder)
    with pytest.raises((DGQError, ValueError)):
        UNet2DConditionModel.from_pretrained(folder)


def test_diffusers_loader_names_what_is_missing(calibrated_as: Models, tmp_path: Path) -> None:
    folder = damaged(calibrated_as("kmeans"), tmp_path, without(f"{CONV}.codes"))
    with pytest.raises(DGQError, match=rf"1 tensors are missing .*, {CONV}\.codes among them"):
        UNet2DConditionModel.from_pretrained(folder)


@pytest.mark.parametrize("n_bits", [2, 3, 5, 8])
def test_codes_of_another_width_are_refused(
    n_bits: int, calibrated_as: Models, tmp_path: Path
) -> None:
    folder = damaged(calibrated_as("kmeans"), tmp_path, lambda state: None)  # of 4 bits

    def widen(config: dict[str, Any]) -> None:
        config["quantization_config"]["quantization"]["weights"]["n_bits"] = n_bits

    forge_(folder, widen)
    with pytest.raises(DGQError, match=r"among the codes|beyond \d bits|codes is .*expected"):
        load_quantized_unet(folder)


def test_a_float_weight_of_another_shape_is_refused(calibrated_as: Models, tmp_path: Path) -> None:
    folder = damaged(calibrated_as("a8 only"), tmp_path, replace(f"{CONV}.weight", narrower))
    with pytest.raises(DGQError, match=f"{CONV}: weight is .*expected"):
        load_quantized_unet(folder)


def test_what_is_not_damaged_loads(calibrated_as: Models, tmp_path: Path) -> None:
    model = calibrated_as("exponents")
    folder = damaged(model, tmp_path, lambda state: None)
    with torch.no_grad():
        assert torch.equal(load_quantized_unet(folder, "float")(**model.call)[0], model.output)
