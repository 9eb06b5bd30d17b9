"""The whole UNet as a target: what is learned of it, and that nothing else changes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgq.calibration.learning import layers_of, quantizers_of
from dgq.calibration.network_learning import harden_network_, start_learning_network_
from dgq.inference.execution import prepare_
from dgq.inference.freeze import freeze_
from dgq.quantizers.learnable_codes import LearnableCodes
from dgq.settings import NetworkSettings
from dgq.streams.whole_calls import WholeCalls
from dgq.targets import Network
from dgq.unet.context import quantization
from dgq.unet.layers import QuantizedLayer, quantized_layers
from dgq.unet.quantized_unet import QuantizedUNet
from tests.quantized_models import TIMESTEPS, Calibrated, decibels

Models = Callable[[str], Calibrated]
ALL = NetworkSettings()
KINDS = ("multiples", "exponents a6", "kmeans", "w4a16")


def state(unet: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items() if tensor.numel()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


def shake_(network: Network, size: float = 0.1) -> None:
    """Give all that is learned some values."""
    torch.manual_seed(1)
    for part in learned(network):
        for parameter in part.parameters():
            deviation = 0.2 if isinstance(part, LearnableCodes) else size
            parameter.data += torch.randn(parameter.shape) * deviation


def learned_gradients(unet: torch.nn.Module, found: Calibrated) -> list[Tensor]:
    """Of a loss over all steps, with regard to all that is learned."""
    unet.zero_grad()
    outputs = [unet(**found.at(t))[0] for t in TIMESTEPS]
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return [p.grad.clone() for p in unet.parameters() if p.grad is not None and p.numel()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_learning_for_no_step_changes_no_bit(kind: str, keep: bool, calibrated_as: Models) -> None:
    found = calibrated_as(kind)
    unet = copy.deepcopy(found.unet)
    before, network = state(unet), Network(unet)
    start_learning_network_(network, ALL)
    assert unet.is_gradient_checkpointing
    with torch.no_grad():
        assert unet(**found.call)[0].equal(found.output)
    harden_network_(network, keep)
    assert not unet.is_gradient_checkpointing
    assert same(before, state(unet))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_is_dropped_without_a_trace(kind: str, calibrated_as: Models) -> None:
    found = calibrated_as(kind)
    unet = copy.deepcopy(found.unet)
    before, network = state(unet), Network(unet)
    start_learning_network_(network, ALL)
    shake_(network)
    with torch.no_grad():
        assert not unet(**found.call)[0].equal(found.output)
    harden_network_(network, keep=False)
    assert same(before, state(unet))


@pytest.mark.parametrize("kind", KINDS)
def test_scales_and_biases_take_up_what_was_learned(kind: str, calibrated_as: Models) -> None:
    found = calibrated_as(kind)
    unet = copy.deepcopy(found.unet)
    codes = codes_of(unet)
    network = Network(unet)
    start_learning_network_(network, ALL)
    shake_(network, 0.02)
    for layer in quantized_layers(unet).values():
        assert one_layer(layer)
    ranges = [[t.clone() for t in q.current_ranges()] for q in quantizers_of(network)]
    with torch.no_grad():
        expected = with_float_activations(unet, found)
        harden_network_(network, keep=True)
        assert decibels(expected, with_float_activations(unet, found)) > 100
    for quantizer, (scale, zero_point) in zip(quantizers_of(network), ranges, strict=True):
        assert quantizer.scale.equal(scale)
        assert quantizer.zero_point.equal(zero_point.int())
    assert not same(codes, codes_of(unet))
    assert not any(p.numel() for m in learned(network) for p in m.parameters())
    with torch.no_grad():
        expected = unet(**found.call)[0]
        freeze_(unet, found.settings)
        assert decibels(expected, unet(**found.call)[0]) > 100


def codes_of(unet: torch.nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in state(unet).items() if n.endswith(".codes")}


def with_float_activations(unet: torch.nn.Module, found: Calibrated) -> Tensor:
    """Without the rounding of activations, which float errors tip over."""
    with quantization(unet, weights=True, activations=False):
        output: Tensor = unet(**found.call)[0]
    return output


def learned(network: Network) -> list[torch.nn.Module]:
    """All that is learned."""
    layers = layers_of(network)
    codes = [q.learnable_codes for q in (layer.weight_quantizer for layer in layers) if q]
    ranges = [quantizer.learnable for quantizer in quantizers_of(network)]
    outputs = [layer.learnable_output for layer in layers]
    return [part for part in (*codes, *ranges, *outputs) if part is not None]


@torch.no_grad()
def one_layer(layer: QuantizedLayer) -> bool:
    """Whether a layer's scale and bias, learned ones taken up, give the output as learned."""
    shape = layer.weight.shape  # type: ignore[union-attr,operator]
    x = torch.randn(2, *shape[1:]) if len(shape) == 4 else torch.randn(2, 3, shape[1])
    if len(shape) == 4:
        x = x.repeat(1, layer.groups, 1, 1)  # type: ignore[operator]
    other = copy.deepcopy(layer)
    other.harden_output_(keep=True)
    expected = layer(x, quantized=x)  # type: ignore[operator]
    return bool(torch.allclose(other(x, quantized=x), expected, rtol=1e-4, atol=1e-5))  # type: ignore[operator]


def test_it_runs_in_integers_as_learned(calibrated_as: Models) -> None:
    found = calibrated_as("multiples")
    unet = copy.deepcopy(found.unet)
    network = Network(unet)
    start_learning_network_(network, ALL)
    shake_(network, 0.02)
    harden_network_(network, keep=True)
    with torch.no_grad():
        expected = unet(**found.call)[0]
        freeze_(unet, found.settings)
        execution = prepare_(unet, "integer", torch.float32)
        assert execution.integer_layers > 20  # type: ignore[attr-defined]
        assert decibels(expected, unet(**found.call)[0]) > 50


def test_gains_of_outputs_have_the_gradients_of_gains_of_scales(calibrated_as: Models) -> None:
    """Independently: weights that are ``code * scale * gain``, by autograd through the formula."""
    found = calibrated_as("w4a16")
    unet = copy.deepcopy(found.unet)
    network = Network(unet)
    start_learning_network_(network, NetworkSettings(rounding_lr=0.0))
    shake_(network, 0.05)
    name, layer = list(quantized_layers(unet).items())[7]
    learnable, quantizer = layer.learnable_output, layer.weight_quantizer
    assert learnable is not None
    assert quantizer is not None
    learned_gradients(unet, found)
    gains, shifts = learnable.log_gain.grad, learnable.shift.grad
    assert gains is not None

    log_gain = learnable.log_gain.detach().clone().requires_grad_()
    shift = learnable.shift.detach().clone().requires_grad_()
    with torch.no_grad():
        weight, bias = quantizer(None)
    learnable.stop_()
    columns = log_gain.exp().view(-1, *[1] * (weight.ndim - 1))
    unet.get_submodule(name).operands = lambda x, quantized=None, of=None: (  # type: ignore[assignment]
        x if quantized is None else quantized,
        weight * columns,
        None if bias is None else bias * log_gain.exp() + shift,
    )
    learned_gradients(unet, found)
    assert log_gain.grad is not None
    assert torch.allclose(gains, log_gain.grad, rtol=1e-3, atol=1e-6)
    if shifts is not None and shifts.numel():
        assert shift.grad is not None
        assert torch.allclose(shifts, shift.grad, rtol=1e-3, atol=1e-6)


def test_codes_move_when_their_offsets_grow_beyond_a_half() -> None:
    codes = torch.tensor([[0.0, 7.0, 15.0, 4.0, 9.0]])
    learnable = LearnableCodes()
    learnable.start_(torch.tensor([[0.4, 6.9, 15.7, 9.0, 3.0]]), codes)
    assert torch.allclose(learnable.offset, torch.tensor([[0.32, -0.08, 0.4, 0.4, -0.4]]))
    assert learnable.moved(codes, 4).equal(codes)
    learnable.offset.data = torch.tensor([[0.6, -0.7, 0.8, 0.49, -0.49]])
    moved = learnable.moved(codes, 4)
    assert moved.tolist() == [[1, 6, 15, 4, 9]]
    moved.sum().backward()
    assert learnable.offset.grad is not None
    assert learnable.offset.grad.tolist() == [[1, 1, 0, 1, 1]]


def test_blocks_run_again_with_the_same_gradients_and_hold_less(calibrated_as: Models) -> None:
    found = calibrated_as("multiples")
    unet = copy.deepcopy(found.unet)
    assert isinstance(unet, QuantizedUNet)
    network = Network(unet)
    start_learning_network_(network, ALL)
    shake_(network, 0.01)
    gradients = learned_gradients(unet, found)
    held = saved_bytes(unet, found)
    unet.disable_gradient_checkpointing()
    expected = learned_gradients(unet, found)
    assert len(gradients) == len(expected) > 100
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)
    assert held < 0.4 * saved_bytes(unet, found)


def saved_bytes(unet: torch.nn.Module, found: Calibrated) -> int:
    """Memory that the graph of one call holds for its gradients."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in (*unet.parameters(), *unet.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = unet(**found.call)[0]
    total = sum(n for pointer, n in sizes.items() if pointer not in own)
    assert output.requires_grad
    return total


def test_samples_at_the_network_are_its_calls(calibrated_as: Models) -> None:
    found = calibrated_as("kmeans")
    calls = [found.call | {"timestep": torch.full((2,), t)} for t in TIMESTEPS]
    with quantization(found.unet, weights=False, activations=False), torch.no_grad():
        outputs = [found.unet(**call)[0] for call in calls]
        samples = WholeCalls(found.unet, calls, outputs)
        assert samples.n_rows == 6
        rows = torch.tensor([5, 0, 3])
        inputs = samples.inputs(rows)
        assert inputs.step.tolist() == [2, 0, 1]
        computed = Network(found.unet).run(*inputs.args, **inputs.kwargs)
    assert torch.allclose(computed, samples.references(rows), atol=1e-5)
    assert samples.references(rows).equal(torch.cat(outputs)[rows])
