"""What zero points contribute to integer products, and which weights fit into them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgq.inference.folding import fits, zero_point_sums
from dgq.inference.integer_layer import fold
from dgq.inference.layers import PackedLayer
from dgq.math.packing import pack_codes
from dgq.settings import WeightSettings
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry

GEOMETRIES: dict[str, Geometry] = {
    "linear": LinearGeometry(6, 4),
    "one output": LinearGeometry(6, 1),
    "kernel": ConvGeometry(6, 4, (3, 2), (2, 1), (1, 1), (1, 1), 1),
    "1x1": ConvGeometry(6, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "groups": ConvGeometry(6, 4, (3, 2), (1, 1), (1, 1), (1, 1), 2),
    "1x1 groups": ConvGeometry(6, 4, (1, 1), (1, 1), (0, 0), (1, 1), 2),
    "depthwise": ConvGeometry(6, 6, (3, 3), (1, 1), (1, 1), (1, 1), 6),
}


@pytest.mark.parametrize("at_once", [1, 50, 2**18])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums_of_zero_points_are_the_product_of_an_activation_of_zeros(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large as the kernel, without padding: every weight meets the code of zero once."""
    monkeypatch.setattr("dgq.inference.folding.FOLDED_AT_ONCE", at_once)
    geometry, generator = GEOMETRIES[name], torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, geometry.weight_shape, generator=generator)
    zero_point = torch.randint(-255, 511, (3, 6), generator=generator)
    rows = weight.flatten(1).to(torch.int8)
    found = zero_point_sums(rows, zero_point.to(torch.int32), geometry)
    if isinstance(geometry, ConvGeometry):
        codes = zero_point[:, :, None, None].expand(3, 6, *geometry.kernel).double()
        product = torch.nn.functional.conv2d(codes, weight.double(), groups=geometry.groups)
    else:
        product = zero_point.double() @ weight.double().T
    assert torch.equal(found, product.flatten(1))


@pytest.mark.parametrize(
    ("lowest", "highest", "inputs", "expected"),
    [
        (-128, 127, 100, True),
        (-129, 0, 100, False),
        (0, 128, 100, False),
        (-128, 127, 65_793, True),
        (-128, 127, 65_794, False),
    ],
)
def test_weights_fit_into_bytes_and_sums_into_32_bits(
    lowest: int, highest: int, inputs: int, expected: bool
) -> None:
    assert fits(torch.tensor([[lowest, 0, highest]]), inputs) == expected


@given(
    n_bits=st.sampled_from([2, 4, 8]),
    largest_factor=st.sampled_from([1, 3, 8, 130, 256]),
    max_exponent=st.sampled_from([0, 1, 4, 9, 40, 255]),
    seed=st.integers(0, 2**16),
)
def test_a_weight_is_folded_exactly_or_not_at_all(
    n_bits: int, largest_factor: int, max_exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def below(n: int, *shape: int) -> Tensor:
        return torch.randint(0, n, shape, generator=generator)

    settings = WeightSettings(n_bits, group_size=2 * (max_exponent > 0), max_exponent=max_exponent)
    layer = PackedLayer(LinearGeometry(6, 4), None, 32, weights=settings, has_bias=False)
    # Most codes lie at the zero point, so that some weights fit although their factors are large.
    zero_point = below(2**n_bits, 4)
    codes = torch.where(below(4, 4, 6) > 0, zero_point[:, None], below(2**n_bits, 4, 6))
    layer.store("codes", pack_codes(codes, n_bits))
    layer.store("zero_point", zero_point.float())
    exponent = below(max_exponent + 1, 4, 3)
    if max_exponent:
        layer.store("exponent", exponent.to(torch.uint8))
    factor = 1 + below(largest_factor, 6)
    powers = [2 ** int(exponent.max() - e) for e in exponent.repeat_interleave(2, 1).flatten()]
    whole = ((codes - zero_point[:, None]) * factor).flatten().tolist()
    expected = [v * power for v, power in zip(whole, powers, strict=True)]
    folded = fold(layer, factor.to(torch.int32))
    if min(expected) >= -128 and max(expected) <= 127:
        assert folded is not None
        assert folded.flatten().tolist() == expected
    else:
        assert folded is None


def test_products_that_wrap_around_16_bits_are_refused() -> None:
    settings = WeightSettings(8, group_size=1, max_exponent=1)
    layer = PackedLayer(LinearGeometry(2, 1), None, 32, weights=settings, has_bias=False)
    layer.store("codes", torch.tensor([[128, 0]], dtype=torch.uint8))
    layer.store("zero_point", torch.zeros(1))
    layer.store("exponent", torch.tensor([[0, 1]], dtype=torch.uint8))
    assert fold(layer, torch.tensor([256, 1], dtype=torch.int32)) is None  # 2^16
