"""Stochastic rounding: to one of the two neighbours in a narrow type, so that the mean is right."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_LOWEST_EXPONENT = -119  # below it the spacing of bfloat16 is no normal float32, and may be flushed to 0


def stochastically_rounded(x: Float[Array, "*s"], dtype: DTypeLike, uniform: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """One of the two neighbours of x in a floating type, still in float32; the mean is x.

    With k the exponent of x, p mantissa bits and `uniform` from [0, 1)::

      spacing = 2^(k - p)
      x / spacing is rounded up where its fraction is above `uniform`

    A number above the largest becomes the largest; inf and NaN are NaN.
    """
    info = jnp.finfo(dtype)
    spacing = jnp.maximum(power_of_two(jnp.abs(x)), 2.0 ** max(info.minexp, _LOWEST_EXPONENT)) * 2.0**-info.nmant
    rounded = rounded_to_multiple(x, spacing, uniform)
    return jnp.copysign(jnp.minimum(jnp.abs(rounded), float(info.max)), x)


def rounded_to_multiple(x: Float[Array, "*s"], spacing: Float[Array, "*#s"], uniform: Float[Array, "*s"]) -> Array:
    """One of the two multiples of a spacing next to x: rounded away from 0 where the fraction of
    x / spacing is above `uniform`, so that the mean is x. Exact for a power of two.
    """
    steps = jnp.abs(x) / spacing
    below = jnp.floor(steps)
    return jnp.copysign((below + (steps - below > uniform).astype(steps.dtype)) * spacing, x)


def power_of_two(size: Array) -> Array:
    """The largest power of two up to a number >= 0, its bits without the mantissa: 0 below 2^-126,
    inf for NaN.
    """
    bits = lax.bitcast_convert_type(size, jnp.uint32) & np.uint32(0x7F800000)
    return lax.bitcast_convert_type(bits, jnp.float32)


def uniform(shape: tuple[int, ...], seed: Array, first: Array | None = None) -> Array:
    """Multiples of 2^-24 in [0, 1): of the seed and an entry's index, whatever its sharding.

    A stack, of three axes or more, begins at the index `first` of a longer one; None for 0.
    """
    for axis, size in enumerate(shape):
        index = jnp.arange(size, dtype=jnp.uint32).reshape((1,) * axis + (size,))
        if axis == 0 and len(shape) > 2 and first is not None:
            index += first.astype(jnp.uint32)
        seed = mixed(seed[..., None] ^ index)
    return (seed >> np.uint32(8)).astype(jnp.float32) * 2.0**-24


def mixed(x: Array) -> Array:
    """A bijection of 32 bits in which each bit of x changes half of the others: the finaliser of
    MurmurHash3 (A. Appleby), with its shifts and factors. Threefry takes several times as many
    operations an entry.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))
