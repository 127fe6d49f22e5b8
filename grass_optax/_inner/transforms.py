"""Transformations that Optax does not have, for use inside and outside the subspace."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree

from grass_optax._checks import one_of
from grass_optax._inner.narrow import compressed, decoded, encoded, storage_type
from grass_optax._linalg import products
from grass_optax._linalg.dtypes import as_wide_as, wide, widened
from grass_optax._linalg.orthonormal import orthonormalize
from grass_optax._trees.keys import checked_key, typed_key

Orthogonalization = Literal["exact", "newton_schulz"]
# Muon's quintic polynomial and number of steps (Jordan, 2024): singular values end between 0.7 and
# 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 5


def adam(
    b1: ArrayLike,
    b2: ArrayLike,
    eps: ArrayLike,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, with moments stored in narrow dtypes if requested."""
    wide_type = None if storage_type("mu_dtype", mu_dtype) else mu_dtype
    return narrow_moments(optax.scale_by_adam(b1, b2, eps, mu_dtype=wide_type), mu_dtype, nu_dtype, key)


def narrow_moments(
    tx: optax.GradientTransformation,
    mu_dtype: DTypeLike | None,
    nu_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformation:
    """Store the moments of a transformation in bfloat16 or float8_e4m3fn between its updates.

    Its state must hold moments and a count. None, float32 and wider types leave the moments as they
    are. Rounding is stochastic, a function of (key, count, path of the leaf); see
    `grass_optax._inner.narrow`.
    """
    mu_type, nu_type = storage_type("mu_dtype", mu_dtype), storage_type("nu_dtype", nu_dtype)
    if mu_type is None and nu_type is None:
        return tx
    key = checked_key(key)

    def init(params: optax.Params) -> PyTree:
        seed = jax.random.bits(typed_key(key), (), jnp.uint32)
        return compressed(tx.init(params), mu_type, nu_type, seed)

    with_extra = optax.with_extra_args_support(tx)

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, PyTree]:
        updates, plain = with_extra.update(updates, decoded(state), params, **extra)
        return updates, encoded(plain, state)

    return optax.GradientTransformationExtraArgs(init, update)


def orthogonalize(method: Orthogonalization = "exact") -> optax.GradientTransformation:
    """Replace each matrix (..., r, n), r <= n, by its polar factor: A Sigma B^T becomes A B^T.

    "exact" does so up to rounding, if singular values are above 1e-8 of the largest;
    "newton_schulz" takes Muon's five steps, after which all lie between 0.7 and 1.2. Both use only
    matrix products, and both keep zero at zero. What is not finite becomes NaN.
    """
    polar_factor = _exact if one_of("orthogonalization", method, get_args(Orthogonalization)) == "exact" else _quintic

    def orthogonalized(x: Array) -> Array:
        is_finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
        return jnp.where(is_finite, polar_factor(x.astype(wide(x.dtype))), jnp.nan).astype(x.dtype)

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(orthogonalized, updates)

    return optax.stateless(update)


def averaged(new: Array, moment: Array, decay: ArrayLike) -> Array:
    """A moving average of Adam's, as Optax writes it: 1 - 0.999 in float32 would be 1e-5 off."""
    return jnp.asarray(1 - decay, moment.dtype) * new + jnp.asarray(decay, moment.dtype) * moment


def bias_corrections(
    count: Array, b1: ArrayLike, b2: ArrayLike, dtype: DTypeLike
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """1 - b1^t and 1 - b2^t, by which Adam divides its moments. Written as 1 - 0.999^t, the second
    would have lost four of its digits at the first updates.
    """
    t = jnp.asarray(count, dtype)
    first, second = (-jnp.expm1(t * jnp.log1p(jnp.asarray(b - 1, dtype))) for b in (b1, b2))
    return first, second


def without_hats(tx: optax.GradientTransformation, b1: ArrayLike, b2: ArrayLike) -> optax.GradientTransformation:
    """Adam's direction with its bias corrections taken back: M / sqrt(V)."""

    def factor(count: ArrayLike) -> Array:
        first, second = bias_corrections(jnp.asarray(count) + 1, b1, b2, jnp.result_type(float))
        return first / jnp.sqrt(second)

    return optax.chain(tx, optax.scale_by_schedule(factor))


def scaled_by(factor: ArrayLike) -> optax.GradientTransformation:
    """`optax.scale` with the factor in the type of the updates."""

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, updates)

    return optax.stateless(update)


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Run a transformation with its state and arithmetic in float32 at least.

    Gradients and params are converted on the way in, and updates are converted back to the type of
    the gradients, or of the params if that is wider. In bfloat16 a second moment with b2 = 0.999
    rounds back to itself and never decays, and a first moment loses what is below 1/256 of it.

    Args:
      tx: any Optax transformation.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      >>> params = jnp.ones(3, jnp.bfloat16)
      >>> tx = grass_optax.in_float32(optax.scale_by_adam())
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates.dtype, state.nu.dtype
      (dtype(bfloat16), dtype('float32'))
    """
    wide_tx = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> PyTree:
        return wide_tx.init(widened(params))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, PyTree]:
        updates = as_wide_as(updates, params)
        wide_updates, state = wide_tx.update(widened(updates), state, params, **extra_args)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), wide_updates, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _exact(x: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    return products.transpose(orthonormalize(products.transpose(products.scaled_to_one(x))))


def _quintic(x: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    x = products.scaled_to_one(x)
    size = jnp.sum(x * x, axis=(-2, -1), keepdims=True) ** 0.5
    x = x / jnp.where(size > 0, size, 1)
    a, b, c = _QUINTIC
    for _ in range(_QUINTIC_STEPS):
        gram = products.matmul(x, products.transpose(x))
        x = a * x + products.matmul(b * gram + c * products.matmul(gram, gram), x)
    return x
