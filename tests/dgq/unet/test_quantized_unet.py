"""The step belongs to the call: threads, failing calls, copies, suspended calls."""

import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.checkpoint import load_quantized_unet
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.streaming import Stream
from dgq.targets import Block, find_blocks
from dgq.unet.arguments import converted
from dgq.unet.context import context_of
from dgq.unet.quantize import quantize_
from dgq.unet.quantized_unet import QuantizedUNet
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated
from tests.tiny_pipelines import micro_unet, unet_call

Models = Callable[[str], Calibrated]
KINDS = ("kmeans", "exponents scores")


@pytest.fixture(params=[f"{life} {kind}" for life in ("calibrating", "loaded") for kind in KINDS])
def model(request: pytest.FixtureRequest, calibrated_as: Models) -> tuple[Any, Calibrated]:
    """A UNet of its own in each life and kind, and what it was copied or loaded from."""
    life, _, kind = request.param.partition(" ")
    found = calibrated_as(kind)
    unet = copy.deepcopy(found.unet) if life == "calibrating" else load_quantized_unet(found.folder)
    return unet, found


@torch.no_grad()
def test_forward_called_directly_is_a_call_like_any_other(model: tuple[Any, Calibrated]) -> None:
    unet, found = model
    for timestep in TIMESTEPS:
        call = found.at(timestep)
        assert torch.equal(unet.forward(**call)[0], unet(**call)[0])
    by_position = {"encoder_hidden_states": found.call["encoder_hidden_states"]}
    output = unet(found.call["sample"], 1.0, **by_position).sample
    assert torch.equal(output, unet(**found.at(1.0))[0])
    assert not torch.equal(unet(**found.at(1.0))[0], unet(**found.at(801.0))[0])


@torch.no_grad()
def test_rows_of_a_batch_have_steps_of_their_own(model: tuple[Any, Calibrated]) -> None:
    unet, found = model
    together = unet(**found.call | {"timestep": torch.tensor([801.0, 1.0])})[0]
    for row, timestep in enumerate((801.0, 1.0)):
        alone = {k: v[row : row + 1] if isinstance(v, Tensor) else v for k, v in found.call.items()}
        output = unet(**alone | {"timestep": torch.tensor(timestep)})[0]
        # Sums over another batch are ordered differently: few values fall to the next code.
        assert (output - together[row]).norm() < 0.02 * output.norm()


@torch.no_grad()
def test_threads_do_not_disturb_each_other(model: tuple[Any, Calibrated]) -> None:
    unet, found = model
    alone = {t: unet(**found.at(t))[0] for t in (801.0, 1.0)}
    wrong: list[float] = []

    def repeat(timestep: float) -> None:
        with torch.no_grad():
            outputs = [unet(**found.at(timestep))[0] for _ in range(5)]
        wrong.extend(timestep for o in outputs if not torch.equal(o, alone[timestep]))

    threads = [threading.Thread(target=repeat, args=(t,)) for t in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert unet.calls.current is None


def test_a_call_that_fails_leaves_no_step_behind(model: tuple[Any, Calibrated]) -> None:
    unet, found = model
    wrong_text = found.call | {"encoder_hidden_states": torch.randn(2, 77, 5)}
    with pytest.raises(RuntimeError):
        unet(**wrong_text)
    assert unet.calls.current is None


@torch.no_grad()
def test_copies_and_pickles_are_unets_of_their_own(calibrated_as: Models) -> None:
    for kind in KINDS:
        found = calibrated_as(kind)
        for unet in (found.unet, load_quantized_unet(found.folder, "float")):
            twins = [copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))]
            buffer = io.BytesIO()
            torch.save(unet, buffer)
            buffer.seek(0)
            twins.append(torch.load(buffer, weights_only=False))
            for twin in twins:
                assert type(twin) is type(unet)
                assert twin.calls is not unet.calls
                assert torch.equal(twin(**found.call)[0], found.output)


@torch.no_grad()
def test_a_copied_integer_unet_shares_weights_and_a_pickled_one_is_refused(
    calibrated_as: Models,
) -> None:
    found = calibrated_as("exponents")
    unet = load_quantized_unet(found.folder)
    twin = copy.deepcopy(unet)
    assert torch.equal(twin(**found.call)[0], unet(**found.call)[0])
    if unet.execution.integer_layers:
        with pytest.raises(DGQError, match="load it where it runs"):
            pickle.dumps(unet)


def test_a_quantized_unet_is_still_one_of_diffusers() -> None:
    unet = quantize_(micro_unet(), SETTINGS["kmeans"], TIMESTEPS, (8, 8))
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(unet, QuantizedUNet)
    assert type(unet).__name__ == "UNet2DConditionModel"
    assert type(unet) is type(quantize_(micro_unet(), SETTINGS["w4a16"], TIMESTEPS, (8, 8)))
    again = UNet2DConditionModel.from_config(unet.config)
    assert again.config.block_out_channels == micro_unet().config.block_out_channels


# Timesteps that were not calibrated


@torch.no_grad()
def test_uncalibrated_timesteps_are_told_once_for_each_unet(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("kmeans").folder)
    call = unet_call(unet, 1, 500.0)
    with pytest.warns(UserWarning, match="nearest calibrated timestep"):
        unet(**call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unet(**call)
        unet(**unet_call(unet, 1, 20.0))


# Streams suspend calls in the middle


@torch.no_grad()
def test_suspended_calls_leave_no_step_to_others(calibrated_as: Models) -> None:
    found = calibrated_as("kmeans")
    unet = copy.deepcopy(found.unet)
    targets = {"mid_block.resnets.0": Block(unet.mid_block.resnets[0])}
    expected = unet(**found.at(801.0))[0]
    with Stream(unet, targets, [found.at(1.0), found.at(401.0)]) as stream:
        assert stream.advance() is not None
        assert context_of(unet).current is None
        assert torch.equal(unet(**found.at(801.0))[0], expected)
        stream.advance()
        assert context_of(unet).current is None
        assert torch.equal(stream.results[0][0], unet(**found.at(1.0))[0])
        assert torch.equal(stream.results[1][0], unet(**found.at(401.0))[0])
    streams = PairedStreams(unet, find_blocks(unet, found.settings.keep), [found.at(1.0)])
    streams.advance_reference()
    del streams
    assert context_of(unet).current is None


# Other precisions


def test_nested_arguments_are_converted_but_sizes_are_not() -> None:
    half = torch.float16
    given = {"text_embeds": torch.ones(2), "time_ids": torch.ones(2), "more": [(torch.ones(1), 3)]}
    found = converted(given, half)
    assert found["text_embeds"].dtype == found["more"][0][0].dtype == half
    assert found["time_ids"].dtype == torch.float32
    assert found["more"][0][1] == 3
    assert converted(torch.ones(1, dtype=torch.long), half).dtype == torch.long


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["kmeans", "exponents", "nothing kept"])
@torch.no_grad()
def test_what_comes_out_has_the_type_of_what_went_in(
    given: torch.dtype, kind: str, calibrated_as: Models
) -> None:
    found = calibrated_as(kind)
    unet = load_quantized_unet(found.folder)
    call = {
        k: v.to(given) if k != "timestep" and isinstance(v, Tensor) else v
        for k, v in found.call.items()
    }
    assert unet(**call)[0].dtype == given
    sample = unet(**call | {"return_dict": True}).sample
    assert sample.dtype == given
    assert (sample - found.output).norm() < 0.1 * found.output.norm()
