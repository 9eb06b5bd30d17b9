"""Residual over time: what is remembered, against the sums written out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from dgq.inference.execution import prepare_
from dgq.inference.integer_layer import fold
from dgq.inference.layers import PackedLayer
from dgq.inference.live_input import LiveInput
from dgq.inference.residual_input import ResidualInput
from dgq.inference.residual_layer import ResidualLayer
from dgq.ops import cpu
from dgq.settings import QuantizationSettings, WeightSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.calls import SamplerCall, SamplerCalls
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry
from dgq.unet.memory_of_calls import Memory
from tests.quantized_models import decibels
from tests.random_layers import CPU, packed_layer

GEOMETRIES: dict[str, Geometry] = {
    "linear": LinearGeometry(12, 5),
    "conv": ConvGeometry(12, 6, (3, 3), (2, 1), (1, 1), (1, 1), 1),
}
exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")


@contextmanager
def image(calls: SamplerCalls) -> Iterator[Memory]:
    """Calls of one image."""
    memory = Memory(torch.tensor([9.0]), (2, 4, 8, 8))
    calls.current = SamplerCall(torch.tensor([0]), (8, 8), memory)
    yield memory
    calls.current = None


def layers(geometry: Geometry) -> tuple[PackedLayer, ResidualLayer]:
    """The same layer in floating point and in integers."""
    formats = {
        "weights": WeightSettings(4, symmetric=True, group_size=8, max_exponent=1),
        "activation_bits": 4,
        "room": 4,
        "per_tensor": False,
        "per_step": False,
    }
    twins = []
    for _ in range(2):
        packed = packed_layer(geometry, formats, torch.tensor([0]), 7)
        old = packed.input_quantizer
        assert old is not None
        quantizer = ResidualInput(4, old.calls, old.channels, max_exponent=4)
        quantizer.store("multiple", old.multiple)  # type: ignore[attr-defined]
        quantizer.store("scale", torch.ones(1))
        quantizer.store("zero_point", torch.zeros(1, old.channels, dtype=torch.int16))
        packed.input_quantizer = quantizer
        twins.append((packed, quantizer))
    (packed, _), (folded, reader) = twins
    weight = fold(folded, reader.factors(geometry.in_channels)[1])
    assert weight is not None
    reader.prepare_(geometry.in_channels, CPU)
    return packed, ResidualLayer(folded, reader, weight, CPU)


def steps(geometry: Geometry, n: int = 5) -> list[Tensor]:
    """Activations that change little from one call to the next."""
    generator = torch.Generator().manual_seed(3)
    shape = (2, 12, 5, 6) if isinstance(geometry, ConvGeometry) else (2, 7, 12)
    first, change = (torch.randn(shape, generator=generator) for _ in range(2))
    return [3 * first + 0.1 * i * change for i in range(n)]


@exact
@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_integers_equal_floating_point_at_every_call(name: str) -> None:
    packed, layer = layers(GEOMETRIES[name])
    assert packed.input_quantizer is not None
    with image(packed.input_quantizer.calls), image(layer.calls):
        for x in steps(GEOMETRIES[name]):
            expected, found = packed(x), layer(x)
            assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_the_sum_is_that_of_the_paper_written_out(name: str) -> None:
    packed, _ = layers(GEOMETRIES[name])
    quantizer = packed.input_quantizer
    assert isinstance(quantizer, ResidualInput)
    live = LiveInput(4, quantizer.calls, quantizer.channels, max_exponent=4)
    for part, tensor in quantizer.stored.items():
        live.store(part, tensor)
    total: Tensor | None = None
    with image(quantizer.calls):
        for x in steps(GEOMETRIES[name]):
            if total is None:
                total = live(x)
                total = total + live(x - total)
            else:
                total = total + live(x - total)
            assert torch.equal(quantizer(x), total)


@exact
@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_where_nothing_is_remembered_every_call_is_the_first_of_an_image(name: str) -> None:
    """As in a compiled graph."""
    packed, layer = layers(GEOMETRIES[name])
    assert packed.input_quantizer is not None
    for x in steps(GEOMETRIES[name], 3):
        with image(packed.input_quantizer.calls):
            expected = packed(x)
        assert torch.equal(packed(x), expected)
        assert (layer(x) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_the_sum_of_half_precision_is_float32(name: str) -> None:
    quantizer, other = (layers(GEOMETRIES[name])[0].input_quantizer for _ in range(2))
    assert quantizer is not None
    assert other is not None
    with image(quantizer.calls), image(other.calls):
        for x in steps(GEOMETRIES[name]):
            found, expected = quantizer(x.bfloat16()), other(x.bfloat16().float())
            assert found.dtype == torch.bfloat16
            assert torch.equal(found, expected.bfloat16())


@torch.no_grad()
def test_errors_do_not_pile_up_and_are_those_of_the_difference() -> None:
    packed, _ = layers(GEOMETRIES["linear"])
    quantizer = packed.input_quantizer
    assert isinstance(quantizer, ResidualInput)
    live = LiveInput(4, quantizer.calls, quantizer.channels, max_exponent=4)
    for part, tensor in quantizer.stored.items():
        live.store(part, tensor)
    with image(quantizer.calls):
        errors = [decibels(x, quantizer(x)) for x in steps(GEOMETRIES["linear"], 30)]  # type: ignore[arg-type]
    alone = decibels(steps(GEOMETRIES["linear"])[0], live(steps(GEOMETRIES["linear"])[0]))  # type: ignore[arg-type]
    assert min(errors) > alone + 12
    assert min(errors[-5:]) > min(errors[:5]) - 3


@exact
@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_a_layer_that_missed_a_difference_computes_its_output_anew(name: str) -> None:
    _, layer = layers(GEOMETRIES[name])
    packed, _ = layers(GEOMETRIES[name])
    is_conv = isinstance(layer.geometry, ConvGeometry)
    padding = layer.geometry.padding if is_conv else ()  # type: ignore[union-attr]
    assert isinstance(layer.input_quantizer, ResidualInput)
    assert packed.input_quantizer is not None
    with image(packed.input_quantizer.calls), image(layer.calls):
        for x in steps(GEOMETRIES[name], 3):
            # As by an attention's other projections, which read the same quantizer.
            layer.input_quantizer.codes(x.permute(0, 2, 3, 1) if is_conv else x, padding)
            packed.input_quantizer(x)
            expected, found = packed(x), layer(x)
            assert (found - expected).norm() < 1e-5 * expected.norm()


@exact
@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_a_layer_that_missed_nothing_multiplies_integers_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, layer = layers(GEOMETRIES[name])
    monkeypatch.setattr(layer, "operands", None)  # the weight in floating point
    with image(layer.calls):
        for x in steps(GEOMETRIES[name], 3):
            layer(x)


@exact
@torch.no_grad()
def test_a_unet_remembers_an_image_and_forgets_it_for_the_next(calibrated_as: Any) -> None:
    model = calibrated_as("residual")
    assert isinstance(model.settings, QuantizationSettings)
    assert model.settings.remembers
    unet = load_quantized_unet(model.folder, "integer", torch.float32)
    first = unet(**model.at(801.0))[0]
    later = unet(**model.at(401.0))[0]
    again = unet(**model.at(801.0))[0]
    assert torch.equal(again, first), "a new image begins"
    assert torch.equal(unet(**model.at(401.0))[0], later)
    alone = load_quantized_unet(model.folder, "integer", torch.float32)(**model.at(401.0))[0]
    assert not torch.equal(alone, later), "the call before is of no use"


@exact
@torch.no_grad()
def test_a_unet_that_is_prepared_anew_goes_on_with_its_image(calibrated_as: Any) -> None:
    model = calibrated_as("residual")
    unet, twin = (load_quantized_unet(model.folder, "integer", torch.float32) for _ in range(2))
    for other in (unet, twin):
        other(**model.at(801.0))
    prepare_(twin, "integer", torch.float32)
    assert decibels(unet(**model.at(401.0))[0], twin(**model.at(401.0))[0]) > 40


@torch.no_grad()
def test_a_call_that_fails_leaves_nothing_behind(calibrated_as: Any) -> None:
    model = calibrated_as("residual")
    unet = load_quantized_unet(model.folder, "float")
    expected = unet(**model.at(401.0))[0]
    other = load_quantized_unet(model.folder, "float")
    other(**model.at(801.0))
    hook = other.mid_block.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other(**model.at(401.0))
    hook.remove()
    assert torch.equal(other(**model.at(401.0))[0], expected)


class Projecting(AttnProcessor):
    """An attention processor of its own, which computes scores and projects one by one."""


@exact
@torch.no_grad()
def test_an_attention_processor_that_projects_one_by_one_is_computed_rightly(
    calibrated_as: Any,
) -> None:
    model = calibrated_as("residual")
    floating = load_quantized_unet(model.folder, "float")
    integer = load_quantized_unet(model.folder, "integer", torch.float32)
    for unet in (floating, integer):
        unet.set_attn_processor(Projecting())
    for timestep in (801.0, 401.0, 1.0):
        call = model.at(timestep)
        assert decibels(floating(**call)[0], integer(**call)[0]) > 20
