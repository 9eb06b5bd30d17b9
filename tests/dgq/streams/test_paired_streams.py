"""The full-precision and the quantized stream, target by target, with learning in between."""

import torch

from dgq.calibration.learning import (
    harden_,
    layers_of,
    learnables,
    penalty,
    rounding_lr,
    set_soft_rounding_,
    start_learning_,
)
from dgq.math.packing import unpack_codes
from dgq.math.reconstruction import reconstruction_loss
from dgq.settings import LearningSettings, QuantizationSettings, WeightSettings
from dgq.streams.paired_streams import PairedStreams
from dgq.targets import Block, execution_order, find_blocks
from dgq.unet.context import at_step, context_of, quantization
from dgq.unet.quantize import activation_quantizers, fit_activations_, quantize_, start_observing_
from tests.tiny_pipelines import micro_unet, unet_call

TIMESTEPS = (801.0, 401.0)


def test_a_whole_calibration_by_hand() -> None:
    settings = QuantizationSettings(WeightSettings(4, "minmax"))
    unet = micro_unet()
    calls = [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]
    with torch.no_grad():
        plain = [unet(**call)[0] for call in calls]
    quantize_(unet, settings, TIMESTEPS, (8, 8))
    start_observing_(unet)
    found = find_blocks(unet, settings.keep)
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, calls[0])
    streams = PairedStreams(unet, {name: found[name] for name in order}, calls)
    for name in order:
        streams.advance_reference()
        start_learning_(found[name])
        harden_(found[name])
        streams.advance_quantized()
    results = streams.quantized.results
    # The full-precision stream is the stock UNet, whatever the quantized one did meanwhile.
    for result, expected in zip(streams.full_precision.results, plain, strict=True):
        torch.testing.assert_close(result[0], expected, rtol=0, atol=1e-5)
    # The quantized stream ends where a plain pass with all hardened weights does.
    with quantization(unet, weights=True, activations=False), torch.no_grad():
        for result, call in zip(results, calls, strict=True):
            torch.testing.assert_close(result[0], unet(**call)[0], rtol=0, atol=1e-5)
    # Every activation was observed on the way, at every step.
    fit_activations_(unet)
    assert all(q.scale.shape[0] == len(TIMESTEPS) for q in activation_quantizers(unet).values())
    streams.close()


def test_learning_lowers_the_error_of_a_target_below_that_of_nearest_rounding() -> None:
    unet = micro_unet()
    call = unet_call(unet, 8, TIMESTEPS[0])
    quantize_(unet, QuantizationSettings(WeightSettings(3, "minmax")), TIMESTEPS, (8, 8))
    target = Block(unet.get_submodule("mid_block.resnets.0"))
    streams = PairedStreams(unet, {"mid_block.resnets.0": target}, [call])
    streams.advance_reference()
    reference, item = streams.references(torch.arange(8)), streams.inputs(torch.arange(8))

    def error() -> torch.Tensor:
        mode = quantization(unet, weights=True, activations=False)
        with mode, at_step(context_of(unet), item.step):
            return reconstruction_loss(target.run(*item.args, **item.kwargs), reference)

    start_learning_(target)
    set_soft_rounding_(target, False)
    nearest = error().item()
    set_soft_rounding_(target, True)
    settings = LearningSettings(iterations=100, polish_iterations=0)
    optimizer = torch.optim.Adam([m.logits for m in learnables(target.parts())], lr=1.0)
    for iteration in range(100):
        optimizer.param_groups[0]["lr"] = rounding_lr(iteration, settings)
        optimizer.zero_grad()
        (error() + penalty(target, iteration, settings)).backward()
        optimizer.step()
    set_soft_rounding_(target, False)
    learned = error().item()
    assert learned < 0.8 * nearest
    harden_(target)
    assert error().item() == learned
    streams.close()


def test_hardened_weights_are_their_codes_dequantized() -> None:
    unet = quantize_(micro_unet(), QuantizationSettings(), TIMESTEPS, (8, 8))
    target = Block(unet.mid_block)
    start_learning_(target)
    harden_(target)
    for layer in layers_of(target):
        quantizer = layer.weight_quantizer
        assert quantizer is not None
        codes = unpack_codes(quantizer.codes, 4, quantizer.shape[1:].numel())
        assert int(codes.max()) <= 15
        expected = (codes.float() - quantizer.zero_point[:, None]) * quantizer.scale[:, None]
        assert torch.equal(quantizer(None)[0], expected.view(quantizer.shape))
