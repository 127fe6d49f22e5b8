"""Axis 1: where does the basis go at a refresh?

A rule is a pair `(init, update)`, like everything in Optax, for one leaf: `update` is a pure function of a `Refresh`
to the new basis and the rule's new state. Most rules keep no state and are a `stateless_rule` of one function. The
same type says how the first basis is made. A rule must return a finite basis whatever the gradient is.

Members: random_jump, random_walk, range_finder, frozen; SubspaceRule, Refresh, stateless_rule, positive.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from grass_optax import grassmann


class Refresh(NamedTuple):
    """What a rule may read at a refresh of one leaf."""

    key: Key[Array, ""]  # a function of (key, refresh index, path of the leaf)
    count: Int[Array, ""]  # type: ignore[assignment]  # updates before this one: t - 1
    grad: Float[Array, "*b m n"]
    basis: Float[Array, "*b m r"]  # the old one: its dtype and shape are those of the new one
    inner_state: Any  # the inner optimizer's state, with this leaf in place of each tree of leaves
    rule_state: Any


class SubspaceRule(NamedTuple):
    """A rule: `init(basis_shape, dtype) -> rule_state`, `update(refresh) -> (basis, rule_state)`."""

    init: Callable[[tuple[int, ...], Any], Any]
    update: Callable[[Refresh], tuple[Float[Array, "*b m r"], Any]]
    orthonormal: bool = True  # S^T S = I, so that the norm outside the subspace follows from those inside
    keyed: bool = False  # reads nothing but the key, so that the basis need not be stored


def stateless_rule(
    f: Callable[[Refresh], Float[Array, "*b m r"]], *, orthonormal: bool = True, keyed: bool = False
) -> SubspaceRule:
    """The rule of a pure function of the refresh to the new basis."""

    def init(basis_shape: tuple[int, ...], dtype: Any) -> optax.EmptyState:
        del basis_shape, dtype
        return optax.EmptyState()

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        return f(refresh), refresh.rule_state

    return SubspaceRule(init, update, orthonormal, keyed)


def random_jump(orthonormal: bool = True) -> SubspaceRule:
    """A fresh random basis: the orthonormal basis of a Gaussian, Haar on the Grassmannian (GrassJump, sec. 4).

    With `orthonormal=False` (the paper's "No QR") the Gaussian's columns are only scaled to unit length. Then S^T S
    is not I, and nothing is corrected for it: projection, lift and transport use S literally, with no pseudo-inverse.
    """

    def jump(refresh: Refresh) -> Float[Array, "*b m r"]:
        return grassmann.random_basis(refresh.key, refresh.basis.shape, refresh.basis.dtype, orthonormal)

    return stateless_rule(jump, orthonormal=orthonormal, keyed=True)


def random_walk(step_size: jax.typing.ArrayLike | None = None, walk_rank: int = 1) -> SubspaceRule:
    """A random geodesic from the old basis, turning `walk_rank` of its directions (GrassWalk, eq. 4).

    The paper's direction is a Gaussian projected to the tangent space and truncated to `walk_rank` by an SVD; the
    singular frames of such a matrix are Haar, so they are drawn as what they are. `step_size` is the angle in radians
    of every direction; None draws each angle uniformly from [0, 2 pi), the law of the paper's step of 10^4 times a
    singular value. Needs walk_rank <= min(r, m - r).
    """

    def init(basis_shape: tuple[int, ...], dtype: Any) -> optax.EmptyState:
        del dtype
        m, r = basis_shape[-2:]
        if not 1 <= walk_rank <= min(r, m - r):
            raise ValueError(
                f"walk_rank is {walk_rank}, but a subspace of dimension {r} in {m} dimensions can turn from 1 to "
                f"min(r, m - r) = {min(r, m - r)} of its directions. Change walk_rank, or rank."
            )
        return optax.EmptyState()

    def update(refresh: Refresh) -> tuple[Float[Array, "*b m r"], Any]:
        frames_key, angle_key = jax.random.split(refresh.key)
        basis = refresh.basis
        left, right = grassmann.random_tangent_frames(frames_key, basis, walk_rank)
        shape = (*basis.shape[:-2], walk_rank)
        if step_size is None:
            angles = jax.random.uniform(angle_key, shape, basis.dtype, maxval=2 * math.pi)
        else:
            angles = jnp.broadcast_to(jnp.asarray(step_size, basis.dtype), shape)
        return grassmann.exp(basis, left, angles, right), refresh.rule_state

    return SubspaceRule(init, update)


def range_finder(power_steps: int = 2) -> SubspaceRule:
    """Near the leading left singular vectors of the gradient, by subspace iteration in matrix products only.

    Captured energy against the exact SVD, 512 x 1376 at rank 128: .997/.998 for singular values 1/k, .884/.893 for
    k^(-1/2). A gradient of zero gives a random basis; one that is not finite keeps the basis, and gives a random one
    at the start.
    """

    def find(refresh: Refresh) -> Float[Array, "*b m r"]:
        old, grad = refresh.basis, refresh.grad.astype(refresh.basis.dtype)
        new = grassmann.range_basis(refresh.key, grad, old.shape[-1], power_steps)
        finite = jnp.all(jnp.isfinite(grad), axis=(-2, -1), keepdims=True)
        return jnp.where(finite | (refresh.count == 0), new, old)

    return stateless_rule(find)


def frozen(basis: Float[Array, "m r"] | None = None, orthonormal: bool = True) -> SubspaceRule:
    """The basis stays where it is; as `initial`, or to inject a basis, every matrix starts from the one given.

    Say `orthonormal=False` of one that is not: the norms outside the subspace then follow from its Gram matrix.
    """

    def stay(refresh: Refresh) -> Float[Array, "*b m r"]:
        if basis is None:
            return refresh.basis
        return jnp.broadcast_to(basis.astype(refresh.basis.dtype), refresh.basis.shape)

    return stateless_rule(stay, orthonormal=orthonormal)


def positive(name: str, value: Any) -> int:
    """The value as an int of at least 1, or an error that names it."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name} is {value!r}; it shapes the computation, so it must be a Python integer. "
            "Under optax.inject_hyperparams name it in static_args."
        ) from error
    if value <= 0:
        raise ValueError(f"{name} is {value}; give 1 or more.")
    return int(value)
