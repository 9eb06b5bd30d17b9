"""What runs how, and what is said about it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dgq.errors import DGQError, SettingsError
from dgq.inference.execution import prepare_
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.layers import FrozenLayer
from dgq.inference.products.cpu import OBSTACLE, CpuProducts
from dgq.inference.stored_tensors import StoredTensors
from dgq.ops import cpu, native
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.attention import QuantizedAttention
from dgq.unet.unet_checks import NORMS
from tests.quantized_models import INTEGER, SETTINGS, Calibrated, calibrated, decibels
from tests.tiny_pipelines import micro_unet, unet_call

Models = Callable[[str], Calibrated]
Mode = Literal["auto", "integer", "float"]
exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")

ALL = 0
ATTENTIONS = 4
KMEANS = "k-means groups need an integer product each, which is slower"
REASONS: dict[str, dict[str, int]] = {
    "kmeans": {KMEANS: ALL},
    "kmeans affine": {KMEANS: ALL},
    "pixels": {KMEANS: ALL},
    "calibrated maxima": {KMEANS: ALL},
    "mixed": {"weights in floating point": 1, "activations in floating point": 1},
    "exponents": {},
    "exponents scores": {},
    "exponents a6": {},
    "multiples": {},
    "live": {},
    "residual": {},
    "w8a8 symmetric": {},
    "absorbed": {},
    "per-tensor": {},
    "split skips": {},
    "w4a16": {"activations in floating point": ALL},
    "a8 only": {"weights in floating point": ALL},
    "nothing kept": {},
    # q of self-attention and v read the same tensor as the kept k.
    "kept projections": {"reads the same tensor as a kept layer": 3 * ATTENTIONS},
}


def layers_of(unet: nn.Module) -> int:
    return sum(isinstance(m, FrozenLayer | IntegerLayer) for m in unet.modules())


@exact
@pytest.mark.parametrize("name", SETTINGS)
def test_each_layer_multiplies_integers_or_the_reason_is_said(
    name: str, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, "auto")
    execution = unet.execution
    floats = dict(execution.float_layers)
    padded = floats.pop("zeros around the image have no code", 0)
    if name == "per-tensor":
        assert padded >= 0  # ranges of a whole tensor need not contain zero
    else:
        assert padded == 0
    assert floats == {why: n or layers_of(unet) for why, n in REASONS[name].items()}
    found = sum(isinstance(m, IntegerLayer) for m in unet.modules())
    assert execution.integer_layers == found
    assert found + padded + sum(floats.values()) == layers_of(unet)
    assert str(found) in str(execution)
    assert all(reason in str(execution) for reason in floats)
    assert (execution.mode, execution.features) == ("auto", cpu.features())


@exact
@torch.no_grad()
def test_weights_of_more_than_8_bits_stay_in_floating_point(tmp_path: Path) -> None:
    """As those of 8 bits do less a zero point that is not in the middle."""
    per_tensor = ActivationSettings(8, n_groups=1, per_step=False)
    settings = QuantizationSettings(WeightSettings(8, "minmax"), per_tensor, ScoreSettings(16))
    model = calibrated(settings, tmp_path)
    unet = load_quantized_unet(model.folder, dtype=torch.float32)
    assert unet.execution.float_layers["multiplied weights do not fit into 8 bits"] > 20
    assert decibels(model.output, unet(**model.call)[0]) > 35


@pytest.mark.parametrize("name", ["exponents", "kmeans"])
def test_floating_point_is_taken_where_it_is_asked_for(name: str, calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, "float")
    assert unet.execution.float_layers == {"asked for": layers_of(unet)}
    assert (unet.execution.integer_layers, unet.execution.dtype) == (0, "float32")
    assert unet.execution.attention == "torch"


@exact
@pytest.mark.parametrize("name", ["kmeans", "w4a16", "a8 only"])
def test_integers_that_no_layer_can_use_are_an_error(name: str, calibrated_as: Models) -> None:
    reason = next(iter(REASONS[name]))
    with pytest.raises(DGQError, match=f"no layer can use integers.*{reason}"):
        load_quantized_unet(calibrated_as(name).folder, "integer")


def test_a_cpu_without_exact_products_runs_in_floating_point_and_says_so(
    calibrated_as: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "products_are_exact", lambda: False)
    model = calibrated_as("exponents")
    with caplog.at_level("INFO", "dgq"):
        unet = load_quantized_unet(model.folder, "auto")
    assert unet.execution.float_layers == {OBSTACLE: layers_of(unet)}
    assert OBSTACLE in caplog.text
    with torch.no_grad():
        assert torch.equal(unet(**model.call)[0], model.output)
    with pytest.raises(DGQError, match="use execution auto or float"):
        load_quantized_unet(model.folder, "integer")


def test_another_word_is_refused(calibrated_as: Models) -> None:
    with pytest.raises(SettingsError, match="auto, integer, float"):
        load_quantized_unet(calibrated_as("kmeans").folder, "fast")  # type: ignore[arg-type]


def test_only_a_loaded_unet_is_prepared(calibrated_as: Models) -> None:
    for other in (micro_unet(), calibrated_as("multiples").unet, None, nn.Linear(2, 2)):
        with pytest.raises(DGQError, match="takes a quantized UNet that was loaded"):
            prepare_(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option",
    [
        {"dtype": "float16"},
        {"dtype": torch.int8},
        {"dtype": torch.float64},
        {"dtype": torch.complex64},
        {"device": "gpu"},
        {"device": "cuda:99"},
        {"device": None},
    ],
)
def test_a_precision_or_device_that_is_none_is_refused(
    option: dict[str, Any], calibrated_as: Models
) -> None:
    folder = calibrated_as("multiples").folder
    with pytest.raises(DGQError, match=r"dtype must be one of|cannot be used here"):
        load_quantized_unet(folder, **option)
    if "dtype" in option:
        unet = load_quantized_unet(folder)
        before = unet.execution
        with pytest.raises(SettingsError, match="dtype must be one of"):
            prepare_(unet, "auto", option["dtype"])
        assert unet.execution is before


# Precision


@exact
@pytest.mark.parametrize("name", INTEGER)
@torch.no_grad()
def test_norms_stay_in_float32_and_the_rest_is_bfloat16(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    unet = load_quantized_unet(model.folder, "integer", torch.bfloat16)
    for module in unet.modules():
        if isinstance(module, NORMS):
            assert module.weight.dtype == torch.float32
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.dtype == torch.bfloat16
        if isinstance(module, StoredTensors):
            assert all(b.dtype != torch.bfloat16 for b in module.buffers())
    seen: set[torch.dtype] = set()
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, out: seen.add(out.dtype) if isinstance(module, IntegerLayer) else None
    )
    output = unet(**model.call)[0]
    hook.remove()
    assert seen == {torch.bfloat16}
    assert output.dtype == torch.float32
    assert decibels(model.output, output) > 20
    assert unet.execution.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("attention", "tile_attention", "name"),
    [(False, False, "torch"), (True, False, "our kernel"), (True, True, "our kernel, on AMX")],
)
def test_attention_kernels_have_names(
    attention: bool, tile_attention: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = SimpleNamespace(attention=attention, tile_attention=tile_attention)
    monkeypatch.setattr(native, "kernels", lambda: kernels)
    assert CpuProducts().attention(torch.bfloat16)[0] == name


@exact
def test_our_attention_kernel_is_told_where_it_runs(
    calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = calibrated_as("exponents").folder
    unet = load_quantized_unet(folder, "integer", torch.bfloat16)
    assert unet.execution.attention == CpuProducts().attention(torch.bfloat16)[0]
    assert load_quantized_unet(folder, "integer", torch.float32).execution.attention == "torch"
    monkeypatch.setattr(native, "kernels", lambda: None)
    unet = load_quantized_unet(folder, "auto", torch.bfloat16)
    assert unet.execution.attention == "torch"


@pytest.mark.parametrize("convert", ["half", "bfloat16"])
@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize("name", ["kmeans", "exponents scores"])
def test_conversions_never_round_scales(
    convert: str, execution: Mode, name: str, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, execution)
    owners = {n for n, m in unet.named_modules() if isinstance(m, StoredTensors)}
    before = {
        n: (t.dtype, t.clone())
        for n, t in (*unet.named_parameters(), *unet.named_buffers())
        if n.rpartition(".")[0] in owners and t.is_floating_point()
    }
    getattr(nn.Module, convert)(unet)  # diffusers refuses it for what is quantized
    tensors = dict((*unet.named_parameters(), *unet.named_buffers()))
    assert len(before) > 100
    assert all(tensors[n].dtype == kind for n, (kind, _) in before.items())
    assert all(torch.equal(tensors[n], value) for n, (_, value) in before.items())


@torch.no_grad()
def test_floating_point_runs_in_other_precisions(calibrated_as: Models) -> None:
    model = calibrated_as("kmeans")
    unet = load_quantized_unet(model.folder, "float").bfloat16()
    call = {
        k: v.bfloat16() if isinstance(v, Tensor) and k != "timestep" else v
        for k, v in model.call.items()
    }
    output = unet(**call)[0]
    assert output.dtype == torch.bfloat16
    assert decibels(model.output, output) > 20


@exact
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("execution", ["integer", "float"])
@torch.no_grad()
def test_a_conversion_is_as_if_loaded_so_and_is_said(
    execution: Mode, dtype: torch.dtype, calibrated_as: Models
) -> None:
    model = calibrated_as("exponents")
    wanted = load_quantized_unet(model.folder, execution, dtype)
    unet = load_quantized_unet(model.folder, execution, torch.float32)
    nn.Sequential(unet).to(dtype)  # diffusers refuses to() of the UNet itself
    assert unet.execution == wanted.execution
    assert unet.execution.dtype in str(dtype)
    assert torch.equal(unet(**model.call)[0], wanted(**model.call)[0])


@exact
@pytest.mark.parametrize("execution", ["integer", "float"])
def test_a_conversion_to_what_nothing_runs_in_is_refused(
    execution: Mode, calibrated_as: Models
) -> None:
    unet: Any = load_quantized_unet(calibrated_as("exponents").folder, execution)
    before = unet.execution, {name: t.clone() for name, t in unet.state_dict().items()}
    with pytest.raises(SettingsError, match="dtype must be one of"):
        unet.double()
    assert unet.execution is before[0]
    assert all(torch.equal(t, before[1][name]) for name, t in unet.state_dict().items())


@exact
@torch.no_grad()
def test_integers_run_in_half_precision(calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    unet = load_quantized_unet(model.folder, "integer", torch.float16)
    assert decibels(model.output, unet(**model.call)[0]) > 20


def test_gradients_flow_through_attention_in_bfloat16(calibrated_as: Models) -> None:
    """Our kernel has no derivative: where one is needed, torch's is taken."""
    model = calibrated_as("exponents")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        unet = load_quantized_unet(model.folder, "float", dtype)
        attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
        torch.manual_seed(0)
        x = torch.randn(1, 16, 16).to(dtype).requires_grad_()
        attention(x).float().square().sum().backward()
        assert x.grad is not None
        found.append(x.grad.float())
    assert decibels(*found) > 15


@exact
@pytest.mark.parametrize("wanted", ["sample", "encoder_hidden_states"])
def test_gradients_through_integers_are_refused(wanted: str, calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    unet = load_quantized_unet(model.folder, "integer")
    call = model.call | {wanted: model.call[wanted].clone().requires_grad_()}
    with pytest.raises(DGQError, match="execution='float'"):
        unet(**call)


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "vmap": lambda layer, x: torch.func.vmap(layer)(x[None]),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).sum())(x),
}


@exact
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_integers_are_refused(name: str, calibrated_as: Models) -> None:
    """They would take zeros from operators without a derivative."""
    unet = load_quantized_unet(calibrated_as("exponents").folder, "integer")
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with pytest.raises(DGQError, match=r"torch\.func: load .* execution='float'"):
        TRANSFORMS[name](layer, torch.randn(1, 16, 16))


# Devices


@pytest.mark.parametrize("execution", ["auto", "float"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["sample", "encoder_hidden_states", "residual"])
@torch.no_grad()
def test_a_sample_whose_inputs_are_not_finite_is_nan(
    name: str, value: float, execution: Mode, calibrated_as: Models
) -> None:
    """Also in floating point, where an infinite value is clamped to the largest code."""
    model = calibrated_as("multiples")
    unet = load_quantized_unet(model.folder, execution, torch.float16)
    sample = model.call["sample"]
    sizes = {"sample": sample, "encoder_hidden_states": model.call["encoder_hidden_states"]}
    large = {n: torch.full_like(tensor, 1e3) for n, tensor in sizes.items()}  # sums overflow
    assert unet(**model.call | large)[0].isfinite().all()
    inputs = sizes | {"residual": torch.zeros(sample.shape[0], 1, 1, 1)}
    spoilt = inputs[name].clone()
    spoilt[1].view(-1)[0] = value
    changed = {name: spoilt}
    if name == "residual":  # a ControlNet's
        changed = {"mid_block_additional_residual": spoilt}
    for output in (
        unet(**model.call | changed)[0],
        unet(**model.call | changed | {"return_dict": True}).sample,
    ):
        assert output[1].isnan().all()
        assert output[[0, *range(2, sample.shape[0])]].isfinite().all()


@exact
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["multiples", "live", "residual", "mixed"])
@torch.no_grad()
def test_a_nan_that_arises_inside_spoils_its_sample_alone(
    name: str, dtype: torch.dtype, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, "integer", dtype)
    call = unet_call(unet, 3, 801.0)
    expected = unet(**call)[0]
    for place in (
        "conv_in",
        "down_blocks.1.resnets.0.norm2",
        "mid_block.attentions.0.transformer_blocks.0.norm3",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    ):

        def overflow(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            spoilt = output.clone()
            spoilt[(1, *[0] * (output.ndim - 1))] = torch.nan
            return spoilt

        hook = unet.get_submodule(place).register_forward_hook(overflow)
        output = unet(**call)[0]
        hook.remove()
        assert output[1].isnan().all(), place
        assert torch.equal(output[[0, 2]], expected[[0, 2]]), place
    assert torch.equal(unet(**call)[0], expected)


@exact
@torch.no_grad()
def test_float16_that_overflows_inside_is_seen(calibrated_as: Models) -> None:
    """Not its own codes: those of infinity are the largest, as of any value beyond the range."""
    unet = load_quantized_unet(calibrated_as("multiples").folder, "integer", torch.float16)
    unet.conv_in.weight.mul_(6e4)
    call = unet_call(unet, 2, 801.0)
    call["sample"][0] = 0
    output = unet(**call)[0]
    assert output[0].isfinite().all()
    assert output[1].isnan().all()


@pytest.mark.parametrize("execution", ["auto", "float"])
@pytest.mark.parametrize("timestep", [float("nan"), torch.tensor([1.0, float("inf")])])
@torch.no_grad()
def test_a_timestep_that_is_not_finite_gives_nan(
    timestep: Any, execution: Mode, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as("multiples").folder, execution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = unet(**unet_call(unet, 2, 1.0) | {"timestep": timestep})[0]
    assert output.isnan().all(1).any(1).any(1).tolist() == [not isinstance(timestep, Tensor), True]


@pytest.mark.parametrize("execution", ["auto", "float"])
@pytest.mark.parametrize("name", ["multiples", "residual", "kmeans"])
@pytest.mark.parametrize("empty", ["batch", "text"])
def test_an_empty_call_is_refused(
    empty: str, name: str, execution: Mode, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, execution)
    call = unet_call(unet, 0 if empty == "batch" else 2, 1.0)
    call["encoder_hidden_states"] = call["encoder_hidden_states"][:, :0]
    with pytest.raises(DGQError, match="empty tensor"):
        unet(**call)


@exact
def test_an_integer_unet_turns_to_floating_point_where_there_are_no_kernels(
    calibrated_as: Models,
) -> None:
    unet: Any = load_quantized_unet(calibrated_as("exponents").folder, "integer")
    n_layers = unet.execution.integer_layers
    assert unet.to("cpu") is unet
    assert unet.execution.integer_layers == n_layers > 0
    unet.to("meta")
    assert all(t.device.type == "meta" for t in (*unet.parameters(), *unet.buffers()))
    assert unet.execution.integer_layers == 0
    assert unet.execution.float_layers == {"no integer kernels for meta yet": n_layers}
    assert unet.execution.mode == "integer"


@exact
def test_a_layer_that_multiplies_integers_is_not_moved_alone(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "integer")
    with pytest.raises(DGQError, match="move the whole UNet"):
        unet.mid_block.to("meta")


@exact
@torch.no_grad()
def test_execution_can_be_changed_and_changed_back(calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    before = unet(**model.call)[0]
    stored = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    prepare_(unet, "float", torch.float32)
    assert unet.execution.integer_layers == 0
    assert decibels(model.output, unet(**model.call)[0]) > 100
    found = unet.state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert prepare_(unet, "integer", torch.float32) is unet.execution
    assert torch.equal(unet(**model.call)[0], before)


def test_a_unet_in_floating_point_moves(calibrated_as: Models) -> None:
    unet: Any = load_quantized_unet(calibrated_as("exponents").folder, "float").to("meta")
    assert all(t.device.type == "meta" for t in (*unet.parameters(), *unet.buffers()))
    owners = [m for m in unet.modules() if isinstance(m, QuantizedAttention)]
    assert len(owners) == 2 * ATTENTIONS
