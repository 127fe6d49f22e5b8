"""How much of a gradient the subspaces hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import unboxed
from grass_optax._trees.matrix_layout import MatrixLayout
from grass_optax._trees.paths import leaf_path
from grass_optax.bases import as_basis


class CapturedEnergy(NamedTuple):
    """The part of a gradient inside a subspace.

    Attributes:
      captured: ||S^T G|| / ||G|| (...) of each matrix of the leaf; 0 if G is zero.
      of_random: sqrt(r/m), the root of its mean square for a uniformly random subspace.
    """

    captured: Float[Array, "*b"]
    of_random: float


def captured_energy(state: optax.OptState, grads: optax.Updates) -> dict[str, CapturedEnergy]:
    """Return the part of each gradient that lies in the subspace of its leaf (eq. 3).

    For orthonormal bases it is between 0 and 1::

      ||S^T G|| / ||G||

    Args:
      state: the state of any transformation that contains `split_by_subspace`.
      grads: the gradients, a tree like params.

    Returns:
      A dict from the path of each split leaf, such as "a/b/c", to its `CapturedEnergy`. It works
      under `jax.jit`.

    Raises:
      ValueError: the state holds no bases, or none for a gradient.

    Examples:
      >>> grads = {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}
      >>> tx = grass_optax.scale_by_galore(rank=1)
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> energy = grass_optax.state.captured_energy(state, grads)["kernel"]
      >>> round(float(energy.captured), 4), energy.of_random
      (1.0, 0.5)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025
    """
    grad_of = {leaf_path(path): x for path, x in jax.tree.leaves_with_path(unboxed(grads))}
    energies = {}
    for split in jax.tree.leaves(unboxed(state), is_leaf=_is_split):
        if _is_split(split):
            for path, layout, basis in _leaves_of(split):
                if path not in grad_of:
                    raise ValueError(f"grads has no leaf {path!r}, which the state has. Give a tree like params.")
                energies[path] = _energy(layout, basis, grad_of[path])
    if not energies:
        raise ValueError("the state holds no subspace. Give the state of a method that splits its leaves.")
    return energies


def _is_split(x: Any) -> bool:
    return isinstance(x, SplitState)


def _is_layout(x: Any) -> bool:
    return isinstance(x, MatrixLayout)


def _leaves_of(split: SplitState) -> list[tuple[str, MatrixLayout, Any]]:
    """The path, the layout and the basis of every leaf."""
    layouts = jax.tree.leaves_with_path(split.layouts, is_leaf=_is_layout)
    structure: Any = jax.tree.structure(split.layouts, is_leaf=_is_layout)
    bases = structure.flatten_up_to(split.basis)
    if any(isinstance(basis, optax.MaskedNode) for basis in bases):
        raise ValueError("the bases are not stored, so the state does not know them. Build it with store_basis=True.")
    return [(leaf_path(path), layout, basis) for (path, layout), basis in zip(layouts, bases, strict=True)]


def _energy(layout: MatrixLayout, basis: Any, grad: Array) -> CapturedEnergy:
    basis = as_basis(basis)
    matrix = layout.to_matrix(grad.astype(wide(grad.dtype)))
    inside, whole = (jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1))) for x in (basis.project(matrix), matrix))
    captured = jnp.where(whole == 0, 0, inside / jnp.where(whole == 0, 1, whole))
    return CapturedEnergy(captured, (basis.rank / layout.m) ** 0.5)
