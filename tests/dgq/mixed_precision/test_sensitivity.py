"""Gradients foretell the noise that disturbed weights and inputs add to the output."""

import pytest
import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.mixed_precision.rounding_noise import input_variance
from dgq.mixed_precision.sensitivities import Sensitivity
from dgq.mixed_precision.sensitivity import SEED, inputs_of_layers, measure_sensitivity
from dgq.settings import ActivationSettings
from dgq.unet.call_rows import combined
from dgq.unet.quantize import layers_to_quantize
from tests.tiny_pipelines import micro_unet, unet_call

LAYERS = (
    "time_embedding.linear_2",
    "up_blocks.1.resnets.0.conv1",
    "mid_block.attentions.0.proj_in",
)
READERS = ("mid_block.resnets.0.conv2", "mid_block.attentions.0.transformer_blocks.0.ff.net.2")
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
SMALL = 1e-3
N_DRAWS = 24


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """A stock UNet."""
    torch.manual_seed(0)
    return micro_unet().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def call(unet: nn.Module) -> dict[str, object]:
    """A call of eight rows."""
    return unet_call(unet, 8, 401.0)


@pytest.fixture(scope="module")
def measured(unet: nn.Module, call: dict[str, object]) -> Sensitivity:
    """From sixteen directions."""
    names = layers_to_quantize(unet, ("conv_in", "conv_out"))
    return measure_sensitivity(unet, names, [call] * 16, progress=False)


def noise_of(unet: nn.Module, call: dict[str, object], reference: Tensor) -> float:
    """Relative squared error of the output."""
    with torch.no_grad():
        output = unet(**call)[0]
    return float((output - reference).square().sum() / reference.square().sum())


@pytest.fixture(scope="module")
def reference(unet: nn.Module, call: dict[str, object]) -> Tensor:
    """The output."""
    with torch.no_grad():
        return unet(**call)[0]


@pytest.mark.parametrize("name", LAYERS)
def test_noise_of_weights(
    unet: nn.Module,
    call: dict[str, object],
    measured: Sensitivity,
    reference: Tensor,
    name: str,
) -> None:
    layer = unet.get_submodule(name)
    weight, found = layer.weight.detach().clone(), []
    generator = torch.Generator().manual_seed(1)
    try:
        for _ in range(N_DRAWS):
            layer.weight.data = weight + SMALL * torch.randn(weight.shape, generator=generator)
            found.append(noise_of(unet, call, reference))
    finally:
        layer.weight.data = weight
    error = torch.full_like(weight.flatten(1), SMALL**2)
    noise = float((measured.weights[name].gain * error.sum(1)).sum())
    assert noise == pytest.approx(sum(found) / N_DRAWS, rel=0.35)


@pytest.mark.parametrize("name", READERS)
def test_noise_of_inputs(
    unet: nn.Module,
    call: dict[str, object],
    measured: Sensitivity,
    reference: Tensor,
    name: str,
) -> None:
    generator = torch.Generator().manual_seed(1)
    hook = unet.get_submodule(name).register_forward_pre_hook(
        lambda _m, args: (args[0] + SMALL * torch.randn(args[0].shape, generator=generator),)
    )
    found = [noise_of(unet, call, reference) for _ in range(N_DRAWS)]
    hook.remove()
    tensor = measured.inputs[name]
    assert tensor.layers == (name,)
    variance = torch.full_like(tensor.gain, SMALL**2)
    assert tensor.noise(variance) == pytest.approx(sum(found) / N_DRAWS, rel=0.35)


def test_each_step_has_the_gradients_and_ranges_of_its_own_rows(unet: nn.Module) -> None:
    """Whether they come in calls of one step each or in one call of both: draws are the same."""
    calls = [unet_call(unet, 3, 1.0, seed=1), unet_call(unet, 2, 801.0, seed=2)]
    alone, apart, together = (
        measure_sensitivity(unet, [*LAYERS, *READERS], each, progress=False)
        for each in (calls[:1], calls, [combined(calls)])
    )
    with torch.no_grad():
        first, second = (float(unet(**call)[0].square().sum()) for call in calls)
    for name, tensor in apart.inputs.items():
        own = alone.inputs[name]
        torch.testing.assert_close(tensor.gain[1] * (first + second), own.gain[0] * first)
        torch.testing.assert_close(tensor.ranges.low[1], own.ranges.low[0])
        torch.testing.assert_close(tensor.ranges.high[1], own.ranges.high[0])
        same = together.inputs[name]
        torch.testing.assert_close(same.gain, tensor.gain, rtol=1e-3, atol=0)
        torch.testing.assert_close(same.ranges, tensor.ranges)


def test_gains_are_squared_gradients_of_weights_and_of_what_one_quantizer_reads(
    unet: nn.Module, call: dict[str, object]
) -> None:
    """Of a layer whose input others read too, and of three layers that share their input."""
    alone, attention = "up_blocks.1.resnets.0.conv_shortcut", f"{BLOCK}.attn1"
    tensors = {alone: alone, **{f"{attention}.to_{p}": f"{attention}.input" for p in "qkv"}}
    found = measure_sensitivity(unet, list(tensors), [call], progress=False)

    disturbance: dict[str, Tensor] = {}
    handles = []
    for name, tensor in tensors.items():

        def disturb(_m: nn.Module, args: tuple[Tensor, ...], tensor: str = tensor) -> Tensor:
            zeros = torch.zeros_like(args[0]).requires_grad_()
            return args[0] + disturbance.setdefault(tensor, zeros)

        handles.append(unet.get_submodule(name).register_forward_pre_hook(disturb))
    weights = [unet.get_submodule(name).weight.requires_grad_() for name in tensors]
    output = unet(**call)[0]
    for handle in handles:
        handle.remove()
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(SEED))
    operands = [*weights, disturbance[alone], disturbance[f"{attention}.input"]]
    gradients = torch.autograd.grad((output * direction).sum(), operands)
    unet.requires_grad_(False)
    squared = [gradient.square() / output.detach().square().sum() for gradient in gradients]

    gains = [
        *(found.weights[name].gain for name in tensors),
        *(found.inputs[tensor].gain[0] for tensor in (alone, f"{attention}.input")),
    ]
    expected = [
        *(of_weight.flatten(1).mean(1) for of_weight in squared[:-2]),
        *(squared[-2].sum((0, 2, 3)), squared[-1].sum((0, 1))),
    ]
    for one, other in zip(gains, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=0)


def test_multiply_accumulates_are_those_of_one_row(unet: nn.Module, measured: Sensitivity) -> None:
    pixels = {LAYERS[0]: 1, LAYERS[1]: 8 * 8, LAYERS[2]: 4 * 4}
    for name, n in pixels.items():
        assert measured.weights[name].macs == n * unet.get_submodule(name).weight.numel()


def test_convolutions_with_padding_need_a_code_of_zero(measured: Sensitivity) -> None:
    padded = {name for name, tensor in measured.inputs.items() if tensor.padded}
    assert {LAYERS[1], READERS[0]} <= padded
    assert padded.isdisjoint({LAYERS[0], LAYERS[2], READERS[1]})


def test_layers_of_an_attention_share_their_input(unet: nn.Module) -> None:
    block = "mid_block.attentions.0.transformer_blocks.0"
    names = [f"{block}.attn{i}.to_{part}" for i in (1, 2) for part in "qkv"]
    assert list(inputs_of_layers(unet, names).values()) == [
        *[f"{block}.attn1.input"] * 3,
        f"{block}.attn2.input",
        *[f"{block}.attn2.context"] * 2,
    ]


def test_measuring_changes_nothing_and_is_deterministic(
    unet: nn.Module, call: dict[str, object], reference: Tensor
) -> None:
    name = LAYERS[0]
    first, second = (measure_sensitivity(unet, [name], [call], False) for _ in range(2))
    assert torch.equal(first.weights[name].gain, second.weights[name].gain)
    assert torch.equal(first.inputs[name].gain, second.inputs[name].gain)
    assert noise_of(unet, call, reference) == 0
    assert not any(p.requires_grad or p.grad is not None for p in unet.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in unet.modules())


def test_a_layer_that_never_runs_is_named(unet: nn.Module, call: dict[str, object]) -> None:
    unet.spare = nn.Linear(2, 2)
    try:
        with pytest.raises(DGQError, match=r"spare never runs .* keep spare"):
            measure_sensitivity(unet, ["spare"], [call], progress=False)
    finally:
        del unet.spare


def test_a_token_that_is_kept_adds_no_noise(unet: nn.Module) -> None:
    """Recomputed by disturbing the text where it is quantized; ``<start>`` is an outlier, as in SD.

    An estimate that counts the outlier would call the text thousands of times more sensitive.
    """
    owner = "mid_block.attentions.0.transformer_blocks.0.attn2"
    names = [f"{owner}.{name}" for name in ("to_q", "to_k", "to_v")]
    call = unet_call(unet, 8, 401.0)
    text = call["encoder_hidden_states"]
    text[:, 0] *= 100
    kept, whole = (
        measure_sensitivity(unet, names, [call] * 16, False, keep_start)
        for keep_start in (True, False)
    )
    found = kept.inputs[f"{owner}.context"]
    assert torch.equal(found.ranges.high[0], text[:, 1:].amax((0, 1)))
    assert torch.equal(found.ranges.low[0], text[:, 1:].amin((0, 1)))
    settings = ActivationSettings(8, n_groups=1, per_step=False)
    noise, with_start = (
        tensor.noise(input_variance(tensor.ranges, settings, padded=False))
        for tensor in (found, whole.inputs[f"{owner}.context"])
    )
    assert with_start > 1000 * noise
    # The input of to_q has no such token.
    queries, same_queries = (each.inputs[f"{owner}.input"] for each in (kept, whole))
    assert torch.equal(queries.gain, same_queries.gain)
    assert torch.equal(queries.ranges.high, same_queries.ranges.high)

    with torch.no_grad():
        reference = unet(**call)[0]
    disturbed = []
    generator = torch.Generator().manual_seed(1)
    noises = [torch.randn(text.shape, generator=generator) for _ in range(N_DRAWS)]
    for each in noises:
        each[:, 0] = 0
        hooks = [
            unet.get_submodule(name).register_forward_pre_hook(
                lambda _m, args, each=each: (args[0] + SMALL * each,)
            )
            for name in names[1:]
        ]
        disturbed.append(noise_of(unet, call, reference))
        for hook in hooks:
            hook.remove()
    variance = torch.full_like(found.gain, SMALL**2)
    assert found.noise(variance) == pytest.approx(sum(disturbed) / N_DRAWS, rel=0.35)
