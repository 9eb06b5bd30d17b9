"""The bit budget of exponents: what low-bit operands leave free in 8 bits.

A layer whose scales differ by powers of two is one integer product of unsigned 8-bit activations
and signed 8-bit weights, if the powers fit into the bits that the codes do not use. All exponents
come from this budget, and nothing else limits them.
"""

from torch import Tensor

from dgq.errors import SettingsError

OPERAND_BITS = 8
"""Bits of both operands of the integer product: u8 activations, s8 weights."""


def spare_activation_bits(n_bits: int) -> int:
    """How far activation codes ``0 .. 2^n_bits - 1`` can be shifted up within u8."""
    return OPERAND_BITS - n_bits


def spare_weight_bits(n_bits: int, symmetric: bool) -> int | None:
    """How far ``code - zero_point`` of a weight can be shifted up within s8.

    Args:
        n_bits: bits of the codes.
        symmetric: ``-2^(n_bits - 1) .. 2^(n_bits - 1) - 1``; otherwise the zero point may be any
            code, and the difference reaches ``2^n_bits - 1`` on either side.

    Returns:
        A number of bits; ``None`` where the difference does not fit at all (asymmetric, 8 bits).
    """
    spare = OPERAND_BITS - n_bits if symmetric else OPERAND_BITS - 1 - n_bits
    return spare if spare >= 0 else None


def check_budget(
    weight_bits: int,
    symmetric: bool,
    weight_exponent: int,
    activation_bits: int,
    activation_exponent: int,
) -> None:
    """Raise SettingsError unless both largest exponents fit into the spare bits.

    Spare bits of the activations can only hold exponents of channels. Exponents of the weights
    differ between output channels, so they always use the weights' own spare bits.
    """
    on_weights = spare_weight_bits(weight_bits, symmetric)
    on_activations = spare_activation_bits(activation_bits)
    if on_weights is None:
        raise SettingsError(
            f"activations.grouping: {weight_bits}-bit weights minus their zero points "
            "need 9 bits, and the integer product has 8: set weights.symmetric to true"
        )
    needed = weight_exponent + max(0, activation_exponent - on_activations)
    if needed > on_weights:
        kind = "symmetric" if symmetric else "asymmetric"
        raise SettingsError(
            f"weights.max_exponent {weight_exponent} and activations.max_exponent "
            f"{activation_exponent} do not fit: {weight_bits}-bit {kind} weights leave "
            f"{on_weights} bits in s8, {activation_bits}-bit activations {on_activations} in u8 "
            "(for activations alone)"
        )


def fraction(exponent: Tensor) -> Tensor:
    """``2^-exponent``; exact."""
    return (-exponent.float()).exp2()
