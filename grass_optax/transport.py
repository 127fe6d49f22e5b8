"""Axis 2: what do the inner moments become when the basis moves?

A transport is a pure function `(inner_state, rotation) -> inner_state`, where `rotation` is the
tree of Q = S_new^T S_old (..., r, r): arrays, or bases (`bases.as_basis`) where those of the split
are not dense. Each is made by a factory, which takes the constants of the inner optimizer if the
transport depends on them. The library knows the moments of Adam, Lion, momentum (`optax.trace`,
`optax.ema`) and Muon, and of chains of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from grass_optax._checks import one_of
from grass_optax._inner.states import cleared, map_moments
from grass_optax._linalg.dtypes import cast, wide
from grass_optax.bases import Basis, BasisLike, as_basis

__all__ = ["keep", "reset", "first_moment_only", "rotate", "Transport", "Rotate", "Completion"]

Transport = Callable[[PyTree, PyTree], PyTree]
Completion = Literal["none", "isotropic"]


def keep() -> Transport:
    """The moments keep their numbers, which belong to the old directions (GaLore, Fira).

    Returns:
      A transport: (inner_state, rotation) -> inner_state, the same one.

    Examples:
      >>> state = optax.TraceState(jnp.array([[1.0], [2.0]]))
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> transport.keep()(state, swap).trace.T
      Array([[1., 2.]], dtype=float32)

    References:
      Zhao et al., `GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection
      <https://arxiv.org/abs/2403.03507>`_, 2024
    """
    return _keep


def reset() -> Transport:
    """The moments and their count start again from zero (FRUGAL).

    Returns:
      A transport: (inner_state, rotation) -> inner_state, the state at the start. It raises a
      TypeError for a state that may start from something other than zero.

    Examples:
      >>> state = optax.TraceState(jnp.array([[1.0], [2.0]]))
      >>> transport.reset()(state, jnp.eye(2)).trace.T
      Array([[0., 0.]], dtype=float32)

    References:
      Zmushko et al., `FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
      Training <https://arxiv.org/abs/2411.07837>`_, 2024
    """
    return _reset


def first_moment_only() -> Transport:
    """Rotate the first moment; the second one keeps its numbers (GoLore, SUMO).

    With Q = S_new^T S_old::

      M' = Q M

    Returns:
      A transport: (inner_state, rotation) -> inner_state, of moments (..., r, n). It raises a
      TypeError for a state whose arrays have no known meaning.

    Examples:
      >>> moment = jnp.array([[1.0], [2.0]])
      >>> state = optax.ScaleByAdamState(jnp.int32(1), mu=moment, nu=moment)
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> new = transport.first_moment_only()(state, swap)
      >>> new.mu.T, new.nu.T
      (Array([[2., 1.]], dtype=float32), Array([[1., 2.]], dtype=float32))

    References:
      He et al., `Subspace Optimization for Large Language Models with Convergence Guarantees
      <https://arxiv.org/abs/2410.11289>`_, 2024
    """
    return _first_moment_only


def rotate(b1: ArrayLike, b2: ArrayLike, completion: Completion = "none") -> "Rotate":
    """Move Adam's moments as estimates of moments of the gradient's coordinates (eq. 7-8, LDAdam).

    With Q = S_new^T S_old, Mh = M / (1 - b1^(t-1)) and Vh = V / (1 - b2^(t-1)), all squares and |.|
    elementwise::

      M' = Q M
      V' = (1 - b2^(t-1)) |Q^2 (Vh - Mh^2) + (Q Mh)^2|

    Q = I leaves (M, V) unchanged. An inner optimizer with only a first moment gets M' = Q M. The
    second moment must be an average of squares. The state of `optax.scale_by_adamax` looks the
    same, but its second moment is not such an average.

    After a jump the rows of Q^2 sum to about r/m. V' then holds only that part of the second
    moment, and steps are too large until it has recovered. `completion="isotropic"` adds the
    missing part, as if the gradient outside the old subspace were like the one inside::

      (1 - b2^(t-1)) max(1 - rowsum(Q^2), 0) mean(Vh),  the mean over rows, per column

    Args:
      b1, b2: those of the inner Adam. `split_by_subspace` compares them when it is initialised.
      completion: "none" (the papers) or "isotropic".

    Returns:
      A transport: (inner_state, rotation) -> inner_state, of moments (..., r, n). It raises a
      TypeError for a state whose arrays have no known meaning.

    Raises:
      ValueError: `completion` is neither of the two.

    Examples:
      >>> grad = jnp.array([[1.0], [2.0]])
      >>> adam = optax.scale_by_adam(b1=0.9, b2=0.999)
      >>> _, state = adam.update(grad, adam.init(grad))
      >>> quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> new = transport.rotate(0.9, 0.999)(state, quarter)
      >>> state.mu.T.round(1), new.mu.T.round(1)
      (Array([[0.1, 0.2]], dtype=float32), Array([[-0.2,  0.1]], dtype=float32))
      >>> state.nu.T.round(3), new.nu.T.round(3)
      (Array([[0.001, 0.004]], dtype=float32), Array([[0.004, 0.001]], dtype=float32))

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025
      Robert et al., `LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics
      <https://arxiv.org/abs/2410.16103>`_, 2024
    """
    one_of("completion", completion, get_args(Completion))
    return Rotate(b1=b1, b2=b2, completion=completion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotate:
    """The transport that `rotate` returns: a function that knows its betas.

    Attributes:
      b1, b2: the decays of the inner Adam.
      completion: "none", or "isotropic" to restore the second moment that a jump leaves behind.
    """

    b1: ArrayLike
    b2: ArrayLike
    completion: Completion = "none"

    @property
    def betas(self) -> tuple[ArrayLike, ArrayLike]:
        """(b1, b2)."""
        return self.b1, self.b2

    def __call__(self, inner_state: PyTree, rotation: PyTree) -> PyTree:
        """Return the inner state in the new basis, for a tree of Q (..., r, r)."""

        def second(state: optax.ScaleByAdamState, new_mu: PyTree) -> PyTree:
            @jax.jit  # traced once for leaves of one shape
            def moved(mu: Array, new_mu: Array, nu: Array, q: BasisLike) -> Array:
                return self._second_moment(as_basis(q), mu, new_mu, nu, jnp.asarray(state.count))

            return jax.tree.map(moved, state.mu, new_mu, state.nu, rotation)

        return map_moments(inner_state, _rotated(rotation), second)

    def _second_moment(
        self,
        rotation: Basis,
        mu: Float[Array, "*b r n"],
        new_mu: Float[Array, "*b r n"],
        nu: Float[Array, "*b r n"],
        count: Int[Array, ""],
    ) -> Float[Array, "*b r n"]:
        """V': the variance moves with the squares, the mean as a vector."""
        dtype, squared = wide(mu.dtype, nu.dtype), rotation.squared()
        correction1, correction2 = (1 - jnp.asarray(b, dtype) ** count.astype(dtype) for b in (self.b1, self.b2))
        mu_hat, new_mu_hat = (x.astype(dtype) / correction1 for x in (mu, new_mu))
        nu_hat = nu.astype(dtype) / correction2
        variance = nu_hat - jnp.square(mu_hat)
        moved = jnp.abs(_product(squared, variance) + jnp.square(new_mu_hat))
        if self.completion == "isotropic":
            moved = moved + _isotropic(squared, nu_hat)
        # One that overflowed stays infinite, and what it moves stays 0: inf - inf would be NaN.
        return jnp.where(jnp.isnan(moved), jnp.inf, correction2 * moved).astype(nu.dtype)


def _keep(inner_state: PyTree, rotation: PyTree) -> PyTree:
    del rotation
    return inner_state


def _reset(inner_state: PyTree, rotation: PyTree) -> PyTree:
    del rotation
    return cleared(inner_state)


def _first_moment_only(inner_state: PyTree, rotation: PyTree) -> PyTree:
    return map_moments(inner_state, _rotated(rotation))


def _rotated(rotation: PyTree) -> Callable[[PyTree], PyTree]:
    def first(moment: PyTree) -> PyTree:
        return jax.tree.map(lambda m, q: _product(as_basis(q), m), moment, rotation)

    return first


def _product(q: Basis, moment: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    """Q M at full precision."""
    with jax.default_matmul_precision("highest"):
        return cast(q, wide(moment.dtype)).lift(moment.astype(wide(moment.dtype))).astype(moment.dtype)


def _isotropic(squared: Basis, nu_hat: Float[Array, "*b r n"]) -> Float[Array, "*b r n"]:
    missing = jnp.maximum(1 - _product(squared, jnp.ones_like(nu_hat[..., :1])), 0)
    return missing * jnp.mean(nu_hat, axis=-2, keepdims=True)
