"""Waiting elsewhere changes where tensors are, and nothing else."""

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgq.calibration.learning import harden_, start_learning_
from dgq.errors import DGQError, SettingsError
from dgq.settings import QuantizationSettings, WaitingSettings, WeightSettings
from dgq.streams.copies import copier
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.streaming import Stream
from dgq.streams.waiting import Waiting, held_by, tensors_in, waiting_places
from dgq.targets import execution_order, find_blocks
from dgq.unet.context import quantization
from dgq.unet.quantize import quantize_, start_observing_
from tests.tiny_pipelines import micro_unet, unet_call

TIMESTEPS = (801.0, 401.0)
LARGE = (64, 600)


def waiting(settings: WaitingSettings, folder: Path) -> Waiting:
    make_copy = copier(settings, folder)
    assert make_copy is not None
    return Waiting(make_copy)


@pytest.fixture(params=["host", "disk"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Waiting:
    """Waiting in host memory or on disk, exactly."""
    return waiting(WaitingSettings(request.param), tmp_path)


@pytest.fixture
def everything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny tensors are worth moving too."""
    monkeypatch.setattr("dgq.streams.waiting.WORTH_MOVING", 1)


def test_a_parked_tensor_has_no_memory_until_an_operation_uses_it(room: Waiting) -> None:
    x = torch.randn(LARGE)
    expected = x.clone()
    room.park([x])
    assert x.untyped_storage().nbytes() == 0
    assert x.shape == LARGE
    with room.returning():
        total = x.sum()
    assert torch.equal(total, expected.sum())
    assert torch.equal(x, expected)


def test_views_of_one_storage_return_together(room: Waiting) -> None:
    x = torch.randn(LARGE)
    left, turned = x.chunk(2, dim=1)[0], x.T
    expected = left.clone(), turned.clone()
    room.park([left, turned])
    with room.returning():
        assert torch.equal(torch.cat([left, left])[: LARGE[0]], expected[0])
    assert torch.equal(turned, expected[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(4, 30, 700),
        lambda: torch.randn(4, 30, 700).transpose(1, 2),
        lambda: torch.randn(4, 3, 80, 90).contiguous(memory_format=torch.channels_last),
        lambda: torch.randn(4, 2, 20_000)[:, 1],
    ],
    ids=["contiguous", "transposed", "channels last", "part of another"],
)
def test_rows_are_read_while_the_tensor_stays_away(
    make: Callable[[], Tensor], room: Waiting
) -> None:
    tensor = make()
    expected = tensor.clone()
    room.park([tensor])
    for position in range(4):
        assert torch.equal(room.row(tensor, position), expected[position])
    assert tensor.untyped_storage().nbytes() == 0


def test_an_unchanged_tensor_is_written_once_and_a_changed_one_again(tmp_path: Path) -> None:
    room = waiting(WaitingSettings("disk"), tmp_path)
    x = torch.randn(LARGE)
    room.park([x])
    (first,) = tmp_path.iterdir()
    with room.returning():
        x.sum()
    room.park([x])
    assert list(tmp_path.iterdir()) == [first]
    with room.returning():
        x.mul_(2)
    expected = x.clone()
    room.park([x])
    assert list(tmp_path.iterdir()) != [first]
    assert torch.equal(room.row(x, 3), expected[3])


def test_copies_go_with_their_tensors(tmp_path: Path) -> None:
    room = waiting(WaitingSettings("disk"), tmp_path)
    kept, dropped = torch.randn(LARGE), torch.randn(LARGE)
    room.park([kept, dropped])
    assert len(list(tmp_path.iterdir())) == 2
    del dropped
    room.park([kept])
    assert len(list(tmp_path.iterdir())) == 1
    del room
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_parameters_and_small_tensors_stay(tmp_path: Path) -> None:
    unet = micro_unet()
    room = next(waiting_places(WaitingSettings("host"), unet, tmp_path))
    weight = next(p for p in unet.parameters() if p.untyped_storage().nbytes() > 1000)
    small = torch.randn(3)
    room.park([weight, small])
    assert weight.untyped_storage().nbytes() > 0
    assert small.untyped_storage().nbytes() > 0


@given(st.lists(st.sampled_from(["replace", "grow", "drop", "park"]), min_size=4, max_size=40))
def test_what_is_kept_follows_the_module_and_activations_always_wait(events: list[str]) -> None:
    """Whatever is replaced meanwhile: addresses are reused by the allocator all the time."""
    owner = torch.nn.Linear(256, 256)
    owner.register_buffer("scale", torch.empty(0))
    places = waiting_places(WaitingSettings("device", "bfloat16"), owner, Path())
    pair = next(places), next(places)
    for event in events:
        if event == "replace":
            owner.weight = torch.nn.Parameter(torch.rand(256, 256))
        elif event == "grow":
            owner.scale = torch.rand(2**15)
        elif event == "drop":
            owner.scale = torch.empty(0)
        else:
            for room in pair:
                activations = [torch.rand(2**15) for _ in range(8)]
                room.park([*activations, owner.weight, owner.scale])
                assert all(a.untyped_storage().nbytes() == 0 for a in activations)
                assert owner.weight.untyped_storage().nbytes() > 0
                assert owner.scale.untyped_storage().nbytes() == 4 * owner.scale.numel()


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=50))
def test_lower_precision_rounds_once_however_often_a_tensor_is_parked(values: list[float]) -> None:
    x = torch.tensor(values).repeat(20_000)
    expected = x.to(torch.bfloat16).float()
    integers = torch.arange(20_000)
    room = waiting(WaitingSettings("device", "bfloat16"), Path())
    for _ in range(2):
        room.park([x, integers])
        with room.returning():
            x + 0, integers + 0
        assert torch.equal(x, expected)
    assert torch.equal(integers, torch.arange(20_000))


def test_nested_arguments_are_searched() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    found = list(tensors_in((a, [None, {"b": b, "n": 3}], {"inner": (c,)}, "text")))
    assert [t.numel() for t in found] == [1, 2, 3]


def calibrated(settings: WaitingSettings, folder: Path) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs of both streams, some rows of each target, and all ranges of a whole calibration."""
    quantization_settings = QuantizationSettings(WeightSettings(4, "minmax"))
    unet = micro_unet()
    calls = [unet_call(unet, 3, t, seed=i) for i, t in enumerate(TIMESTEPS)]
    quantize_(unet, quantization_settings, TIMESTEPS, (8, 8))
    start_observing_(unet)
    found = find_blocks(unet, quantization_settings.keep)
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, calls[0])
    places = waiting_places(settings, unet, folder)
    streams = PairedStreams(unet, {name: found[name] for name in order}, calls, places)
    tensors: list[Tensor] = []
    for name in order:
        streams.advance_reference()
        inputs = streams.inputs(torch.tensor([4, 1]))
        tensors += tensors_in((inputs.args, inputs.kwargs))
        tensors.append(streams.references(torch.tensor([0, 5])))
        start_learning_(found[name])
        harden_(found[name])
        streams.advance_quantized()
    results = streams.full_precision.results + streams.quantized.results
    tensors += [result[0] for result in results]
    streams.close()
    return tensors, {n: b for n, b in unet.named_buffers() if "observer" in n}


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.usefixtures("everything_moves")
def test_a_calibration_is_the_same_wherever_its_samples_wait(place: Any, tmp_path: Path) -> None:
    stayed, ranges = calibrated(WaitingSettings(), tmp_path)
    moved, moved_ranges = calibrated(WaitingSettings(place), tmp_path / "waiting")
    assert all(torch.equal(a, b) for a, b in zip(stayed, moved, strict=True))
    assert ranges.keys() == moved_ranges.keys()
    assert all(torch.equal(ranges[name], moved_ranges[name]) for name in ranges)
    gc.collect()
    assert place == "host" or not list((tmp_path / "waiting").iterdir())


@pytest.mark.usefixtures("everything_moves")
def test_lower_precision_stays_near(tmp_path: Path) -> None:
    stayed, _ = calibrated(WaitingSettings(), tmp_path)
    moved, _ = calibrated(WaitingSettings("device", "bfloat16"), tmp_path)
    for a, b in zip(stayed, moved, strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=0.1, atol=0.1 * float(a.float().std()))


@torch.no_grad()
@pytest.mark.usefixtures("everything_moves")
def test_a_suspended_pass_holds_next_to_nothing_in_memory(tmp_path: Path) -> None:
    unet = quantize_(micro_unet(), QuantizationSettings(), TIMESTEPS, (8, 8))
    calls = [unet_call(unet, 3, TIMESTEPS[0])]
    found = find_blocks(unet, ("conv_in", "conv_out"))
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, calls[0])
    places = waiting_places(WaitingSettings("disk"), unet, tmp_path)
    streams = PairedStreams(unet, {name: found[name] for name in order}, calls, places)
    for _ in range(len(order) // 2):
        streams.advance_reference()
    own = {p.untyped_storage()._cdata for p in (*unet.parameters(), *unet.buffers())}
    held = [t for t in held_by(streams.full_precision._passes[0]) if t.numel()]
    moving = [t for t in held if t.untyped_storage()._cdata not in own]
    assert len(moving) > 10
    assert all(t.untyped_storage().nbytes() == 0 for t in moving)
    streams.close()


@pytest.mark.usefixtures("everything_moves")
def test_the_memory_of_the_callers_own_tensors_is_never_moved(tmp_path: Path) -> None:
    """Also of those in lists, as the residuals of a ControlNet: other passes read them too."""
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(WeightSettings(4, "minmax")), TIMESTEPS, (8, 8))
    shapes = ((8, 8), (8, 8), (8, 4), (16, 4))
    call = unet_call(unet, 2, TIMESTEPS[0]) | {
        "mid_block_additional_residual": torch.randn(2, 16, 4, 4),
        "down_block_additional_residuals": [torch.randn(2, c, n, n) for c, n in shapes],
    }
    given_ = list(tensors_in(call))
    before = [tensor.clone() for tensor in given_]
    places = waiting_places(WaitingSettings("host"), unet, tmp_path)
    found = find_blocks(unet, ("conv_in", "conv_out"))
    with Stream(unet, found, [call], places) as stream:
        with quantization(unet, weights=False, activations=False):
            stream.advance()
        assert all(tensor.untyped_storage().nbytes() for tensor in given_)
    assert all(torch.equal(*both) for both in zip(given_, before, strict=True))


def test_a_full_disk_is_an_error_that_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = waiting(WaitingSettings("disk"), tmp_path)

    class FullDisk:
        def __init__(self, open_: Callable[..., Any], **options: Any) -> None:
            self.file = open_(**options)
            self.name = self.file.name

        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _content: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    import tempfile

    original = tempfile.NamedTemporaryFile
    monkeypatch.setattr(
        "dgq.streams.copies.tempfile.NamedTemporaryFile", lambda **o: FullDisk(original, **o)
    )
    with pytest.raises(DGQError, match=r"No space left on device.*free some space"):
        room.park([torch.randn(LARGE)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [{"place": "attic"}, {"dtype": "float64"}])
def test_unknown_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="waiting"):
        WaitingSettings(**bad)


def test_copies_that_somebody_removed_are_one_line(tmp_path: Path) -> None:
    """As of a run whose folder was renamed, or by a program that tidies up."""
    place = waiting(WaitingSettings("disk"), tmp_path)
    x = torch.randn(LARGE)
    place.park([x])
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(DGQError, match="activations that waited there, was removed"):
        place.fetch_(x)
