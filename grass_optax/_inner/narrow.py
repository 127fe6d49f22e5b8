"""How moments are kept in fewer bits: bfloat16, or 8-bit floats with a scale for each block.

Arithmetic stays float32: a state is decoded, used, and encoded again, all entry by entry. Rounding
is stochastic, up or down so that the mean is right: an average that changes by less than half a
spacing in a step would never move if it were rounded to the nearest.

A block is one column of a moment (..., r, n), r <= n, and one row where the last axis is the
shorter: a token's, in an embedding. Its scale is a power of two, so that the numbers that can be
stored stay the same while the largest entry moves within a factor of 2, and one that does not
change is not rounded: rounded anew by a new scale at every step, a second moment with b2 = 0.999
would be noise.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from grass_optax._linalg.rounding import mixed, power_of_two, stochastically_rounded, uniform
from grass_optax._trees.boxes import boxed_like, unboxed
from grass_optax._trees.keys import first_index, numbers_of

_NARROW = _BFLOAT16, _FLOAT8 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float8_e4m3fn)
# The moments in Optax's states, and the fields of `CompressedState` that have their scales.
_SCALES = {"mu": "first_scale", "ema": "first_scale", "nu": "second_scale"}
_SECOND = "nu"
_TYPES = "Give bfloat16, float8_e4m3fn (with a scale for each column), or None for float32."
# The smallest number beside this scale, 2^-9 of it, is the smallest normal float32.
_SMALLEST_SCALE = 2.0**-117
_LARGEST_SECOND = 2.0**126  # instead of one that overflowed: finite when rounded up


class CompressedState(NamedTuple):
    """State of an Optax transformation whose moments are kept in narrow types.

    Attributes:
      seed: (), uint32; in the state because a transport rounds too, and knows nothing else.
      narrow: the transformation's own state, with moments (..., r, n) in narrow types.
      first_scale: (..., 1, n) per leaf, float32; MaskedNode for a leaf without scale.
      second_scale: the same of second moments.
    """

    seed: jax.Array
    narrow: PyTree
    first_scale: PyTree
    second_scale: PyTree


def storage_type(name: str, dtype: DTypeLike | None) -> np.dtype | None:
    """The narrow type that an argument names; None for float32 and wider, which change nothing.

    Raises:
      ValueError: another type.
    """
    if dtype is None:
        return None
    try:
        given = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"{name} is {dtype!r}, which is no type. {_TYPES}") from error
    if given in _NARROW:
        return given
    if not jnp.issubdtype(given, jnp.floating) or given.itemsize < 4:
        raise ValueError(
            f"{name} is {given.name}, a type in which moments are not kept: they cover more decades than float16 or "
            f"integers do. {_TYPES}"
        )
    return None


def compressed(state: Any, mu_dtype: np.dtype | None, nu_dtype: np.dtype | None, seed: jax.Array) -> CompressedState:
    """A transformation's first state, all zero, with its moments in narrow types.

    Complex leaves are unchanged, and in 8 bits also vectors and single rows, which have no blocks
    of two numbers or more.

    Raises:
      TypeError: a state that is not known to have moments and a count.
    """
    if not _moments(state) or "count" not in state._fields:
        raise TypeError(
            f"the state {type(state).__name__} is not known to hold moments and a count, so they cannot be kept in "
            "narrow types. Give one transformation that has them, such as optax.scale_by_adam, not a chain."
        )
    narrow, scales = {}, {scale: optax.MaskedNode() for scale in _SCALES.values()}
    for field in _moments(state):
        dtype = nu_dtype if field == _SECOND else mu_dtype
        narrow[field] = jax.tree.map(lambda x, to=dtype: _narrow_zeros(x, to), getattr(state, field))
        scales[_SCALES[field]] = unboxed(jax.tree.map(_scale, narrow[field], narrow[field]))
    return CompressedState(seed, state._replace(**narrow), **scales)


def decoded(state: CompressedState) -> Any:
    """The transformation's own state, moments in float32."""

    def wide(code: Array, scale: Any) -> Array:
        if code.dtype == _FLOAT8:
            return code.astype(jnp.float32) * scale
        return code.astype(jnp.float32) if code.dtype == _BFLOAT16 else code

    own, moments = state.narrow, {}
    for field in _moments(own):
        codes = getattr(own, field)
        moments[field] = jax.tree.map(wide, codes, boxed_like(getattr(state, _SCALES[field]), codes))
    return own._replace(**moments)


def encoded(own: Any, like: CompressedState, moved: bool = False) -> CompressedState:
    """What `decoded` returned, with other numbers in it, in the types of `like`.

    `moved` is for a transport. It rounds at the same count as the update before it, so it needs
    draws of its own.
    """
    narrow, scales = {}, {}
    for field in _moments(own):
        values, codes = getattr(own, field), getattr(like.narrow, field)
        if field == _SECOND:
            values = jax.tree.map(
                lambda x, c: jnp.minimum(x, _LARGEST_SECOND) if c.dtype in _NARROW else x, values, codes
            )
        scale_of = jax.tree.map(_scale, values, codes)
        numbers = numbers_of(path for path, _ in jax.tree.leaves_with_path(values))

        def code(path: Any, x: Array, before: Array, scale: Any, field: str = field, numbers: Any = numbers) -> Array:
            purpose = f"{field}{' moved' if moved else ''}"
            seed = like.seed ^ np.uint32(zlib.crc32(purpose.encode()))
            seed = mixed(seed + own.count.astype(jnp.uint32))
            for number in numbers[path]:  # last, as an index in the leaf follows them
                seed = mixed(seed ^ np.uint32(number))
            return _code(x, scale, before.dtype, seed, field == _SECOND)

        narrow[field] = jax.tree.map_with_path(code, values, codes, scale_of)
        scales[_SCALES[field]] = unboxed(scale_of)
    return like._replace(narrow=own._replace(**narrow), **scales)


def _moments(state: Any) -> list[str]:
    """The fields of a state that are moments."""
    return [field for field in _SCALES if field in getattr(state, "_fields", ())]


def _narrow_zeros(x: Array, dtype: np.dtype | None) -> Array:
    is_kept = dtype is None or not jnp.issubdtype(x.dtype, jnp.floating)
    return x if is_kept or (dtype == _FLOAT8 and _block_axis(x) is None) else jnp.zeros(x.shape, dtype)


def _block_axis(x: Array) -> int | None:
    """The shorter of the last two axes; None if there are no blocks."""
    if x.ndim < 2 or min(x.shape[-2:]) < 2:
        return None
    return -2 if x.shape[-2] <= x.shape[-1] else -1


def _scale(x: Array, code: Array) -> Any:
    """The power of two that puts the largest finite entry of each block into [128, 256): rounded up
    it is below the largest number of the type, 448, beyond which is NaN. MaskedNode where the type
    of `code` needs none.
    """
    if code.dtype != _FLOAT8:
        return optax.MaskedNode()
    size = jnp.abs(x.astype(jnp.float32))
    largest = jnp.max(jnp.where(jnp.isfinite(size), size, 0), axis=_block_axis(x), keepdims=True)
    return jnp.maximum(power_of_two(largest) * 2.0 ** (2 - jnp.finfo(_FLOAT8).maxexp), _SMALLEST_SCALE)


def _code(x: Array, scale: Any, dtype: np.dtype, seed: Array, second: bool) -> Array:
    """x / scale rounded to a narrow type; x itself in the type of a leaf that is not narrow.

    A second moment above 0 is not rounded to 0: a first moment divided by that would be a leap.
    """
    if dtype not in _NARROW:
        return x.astype(dtype)
    x = x.astype(jnp.float32)
    code = stochastically_rounded(x / scale if dtype == _FLOAT8 else x, dtype, uniform(x.shape, seed, first_index()))
    if second:
        smallest = float(jnp.finfo(dtype).smallest_subnormal) if dtype == _FLOAT8 else 2.0**-126
        code = jnp.where(x > 0, jnp.maximum(code, smallest), code)
    return code.astype(dtype)
