"""What zero points contribute to integer products, and which weights fit into them."""

import pytest
import torch

from dgq.inference.folding import fits, zero_point_sums
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


@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums_of_zero_points_are_the_product_of_an_activation_of_zeros(name: str) -> None:
    """As large as the kernel, without padding: every weight meets the code of zero once."""
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
