"""Group norms by pixels compute what torch's do, and are used by a compiler alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dgq.inference.group_norm import GroupNormByPixels, norm_by_pixels_, norm_pixels


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99)
)
def test_it_is_torchs_group_norm(
    batch: int, size: int, n_groups: int, of_group: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    channels = n_groups * of_group
    x = torch.randn(batch, channels, size, size + 1, generator=generator) + 3
    weight, bias = torch.randn(2, channels, generator=generator)
    expected = F.group_norm(x, n_groups, weight, bias, 1e-3)
    normed = norm_pixels(x.permute(0, 2, 3, 1), n_groups, weight, bias, 1e-3).permute(0, 3, 1, 2)
    torch.testing.assert_close(normed, expected, rtol=1e-4, atol=1e-4)


def test_it_stays_exact_far_from_zero() -> None:
    x = torch.randn(2, 8, 8, 64, generator=torch.Generator().manual_seed(0)) + 1000
    planes = x.permute(0, 3, 1, 2)
    expected = F.group_norm(planes.double(), 4, eps=1e-5).float()
    normed = norm_pixels(x, 4, None, None, 1e-5).permute(0, 3, 1, 2)
    assert (normed - expected).abs().max() < 1e-3


def test_half_precision_is_added_up_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 64, 32, generator=generator).bfloat16()
    normed = norm_pixels(x, 4, None, None, 1e-5)
    expected = norm_pixels(x.float(), 4, None, None, 1e-5)
    assert normed.dtype == torch.bfloat16
    assert torch.equal(normed, expected.bfloat16())


def graph_of(model: nn.Module, x: Tensor) -> str:
    """What a compiler is given."""
    graphs: list[str] = []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(str(module.graph))
        return module.forward

    torch.compile(model, backend=backend, fullgraph=True)(x)
    return graphs[0]


@pytest.mark.parametrize("by_pixels", [True, False])
def test_a_compiler_gets_it_for_images_by_pixels_alone(by_pixels: bool) -> None:
    layout = torch.channels_last if by_pixels else torch.contiguous_format
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=layout)
    model = nn.Sequential(nn.GroupNorm(2, 8))
    expected = model(x)
    norm_by_pixels_(model, wanted=True)
    assert torch.equal(model(x), expected)  # torch's own kernel when it is not compiled
    assert ("var_mean" in graph_of(model, x)) is by_pixels
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)


def test_stock_norms_come_back() -> None:
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.LayerNorm(8))
    before = dict(model.state_dict())
    norm_by_pixels_(model, wanted=True)
    assert type(model[0]) is GroupNormByPixels
    assert model.state_dict().keys() == before.keys()
    norm_by_pixels_(model, wanted=False)
    assert type(model[0]) is nn.GroupNorm
