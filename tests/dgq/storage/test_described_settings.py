"""Settings as plain values."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.errors import SettingsError
from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.described_settings import described, quantization_settings

weights = st.builds(
    WeightSettings,
    n_bits=st.integers(2, 8),
    range_method=st.sampled_from(["minmax", "mse"]),
    group_size=st.sampled_from([32, 64]),
)
activations = st.builds(
    ActivationSettings, n_bits=st.integers(2, 8), n_groups=st.integers(1, 16), qkv=st.booleans()
)
layers = st.dictionaries(
    st.sampled_from(["mid.conv", "mid.attn", "up.0.to_out.0"]),
    st.builds(LayerSettings, st.none() | weights, st.none() | activations),
)


@given(st.builds(QuantizationSettings, weights, activations, layers=layers))
def test_they_come_back_through_json(settings: QuantizationSettings) -> None:
    assert quantization_settings(json.loads(json.dumps(described(settings)))) == settings


def test_without_settings_of_single_layers_nothing_is_said_of_them() -> None:
    """So that files are those of versions that knew no such settings."""
    assert "layers" not in described(QuantizationSettings())


def test_of_a_layer_only_what_differs_is_said() -> None:
    three = LayerSettings(WeightSettings(3))
    found = described(QuantizationSettings(layers={"conv": three}))
    assert found["layers"] == {"conv": {"weights": {"n_bits": 3}}}


def test_layers_that_share_an_input_have_that_of_their_attention() -> None:
    six = LayerSettings(activations=ActivationSettings(6))
    settings = QuantizationSettings(layers={"mid.attn1": six})
    for name in ("mid.attn1", "mid.attn1.to_q", "mid.attn1.to_k", "mid.attn1.to_v"):
        assert settings.activations_of(name).n_bits == 6
    assert settings.activations_of("mid.attn1.to_out.0").n_bits == 8
    assert settings.activations_of("mid.attn2.to_q").n_bits == 8


def test_a_layer_whose_operands_do_not_fit_is_named() -> None:
    fits = QuantizationSettings(
        WeightSettings(4, symmetric=True),
        ActivationSettings(8, "multiples", max_exponent=4),
        ScoreSettings(16),
    )
    eight = LayerSettings(WeightSettings(8, symmetric=True))
    with pytest.raises(SettingsError, match=r"mid\.conv"):
        replace(fits, layers={"mid.conv": eight})
