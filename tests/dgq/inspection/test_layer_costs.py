"""The cost of each layer is counted in every form that a quantized layer can have."""

import pytest
import torch
from torch import nn

from dgq.inference.layers import PackedLayer
from dgq.inference.products.gpu_weights import NibbleWeight, nibbles_of
from dgq.inference.weight_only_layer import WeightOnlyLayer
from dgq.inspection.layer_costs import layer_costs
from dgq.settings import FLOAT_BITS, WeightSettings
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry
from tests.random_layers import packed_layer, random_input

GEOMETRIES = (LinearGeometry(16, 8), ConvGeometry(16, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1))


def packed_alone(geometry: Geometry) -> PackedLayer:
    """A layer of 4-bit weights whose activations are not quantized."""
    formats = {
        "weights": WeightSettings(4, symmetric=True),
        "activation_bits": 8,
        "room": 0,
        "per_step": False,
        "per_tensor": True,
    }
    packed = packed_layer(geometry, formats, torch.zeros(1, dtype=torch.long), seed=0)
    packed.input_quantizer, packed.activation_bits = None, FLOAT_BITS
    return packed


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_layer_unpacked_as_it_is_multiplied_costs_what_its_stored_form_does(
    geometry: Geometry,
) -> None:
    packed = packed_alone(geometry)
    alone = WeightOnlyLayer(packed, NibbleWeight(nibbles_of(packed, None), geometry))
    x = random_input(geometry, 2, seed=0)
    stored, running = (layer_costs(nn.Sequential(m), {"input": x}) for m in (packed, alone))
    assert running == stored
    cost = running["0"]
    n_outputs = packed(x).numel()
    assert cost.macs == n_outputs * packed.fan_in
    assert (cost.weights, cost.weight_bits) == (8 * packed.fan_in, 4)
    assert cost.bops == cost.macs * 4 * FLOAT_BITS
