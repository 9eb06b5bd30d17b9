"""Running ranges against minima and maxima of everything at once."""

import torch
from torch import Tensor

from dgq.quantizers.observer import RangeObserver, Ranges, merge_steps


def observed(x: Tensor, step: Tensor, n_steps: int, per_tensor: bool = False) -> RangeObserver:
    observer = RangeObserver(n_steps, per_tensor)
    observer.update(x, step)
    return observer


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_image_ranges_are_by_channel_and_by_pixel_of_each_step() -> None:
    x, step = randn(4, 3, 2, 5), torch.tensor([0, 1, 1, 0])
    observer = observed(x, step, 2)
    for s in range(2):
        samples = x[step == s]
        assert torch.equal(observer.channels.low[s], samples.amin((0, 2, 3)))
        assert torch.equal(observer.channels.high[s], samples.amax((0, 2, 3)))
        assert observer.pixels is not None
        assert torch.equal(observer.pixels.low[s], samples.amin((0, 1)).flatten())
        assert torch.equal(observer.pixels.high[s], samples.amax((0, 1)).flatten())


def test_token_ranges_are_by_channel_and_by_token() -> None:
    x = randn(3, 7, 4)
    observer = observed(x, torch.tensor([0]), 1)
    assert torch.equal(observer.channels.high[0], x.amax((0, 1)))
    assert observer.pixels is not None
    assert torch.equal(observer.pixels.low[0], x.amin((0, 2)))


def test_two_dimensional_inputs_have_one_range_for_the_tensor() -> None:
    x, step = randn(4, 6), torch.tensor([1, 0, 1, 1])
    observer = observed(x, step, 2)
    assert observer.pixels is None
    assert observer.channels.low.tolist() == [[x[1].min()], [x[step == 1].min()]]


def test_per_tensor_ignores_channels_and_pixels() -> None:
    x = randn(2, 3, 4, 4)
    observer = observed(x, torch.tensor([0]), 1, per_tensor=True)
    assert observer.pixels is None
    assert observer.channels.high.tolist() == [[x.max()]]


def test_batch_after_batch_equals_all_at_once() -> None:
    x, step = randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    whole, parts = observed(x, step, 3), RangeObserver(3, False)
    for i in range(0, 6, 2):
        parts.update(x[i : i + 2], step[i : i + 2])
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), parts.buffers(), strict=True))


def test_a_step_without_samples_is_recognisable() -> None:
    observer = observed(randn(2, 3, 2, 2), torch.tensor([0]), 2)
    assert observer.channels.low[1].isinf().all()


def test_merged_steps_span_all_of_them() -> None:
    ranges = Ranges(randn(3, 5), randn(3, 5) + 4)
    merged = merge_steps(ranges)
    assert torch.equal(merged.low[0], ranges.low.amin(0))
    assert torch.equal(merged.high[0], ranges.high.amax(0))
