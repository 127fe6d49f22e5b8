"""How much of a gradient the subspaces hold."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from grass_optax._linalg.dtypes import wide
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import unboxed
from grass_optax._trees.matrix_layout import MatrixLayout, is_layout
from grass_optax._trees.paths import leaf_path
from grass_optax.bases import as_basis
from grass_optax.state.owners import parts_of


class CapturedEnergy(NamedTuple):
    """The part of a gradient inside a subspace, as a ratio of norms.

    Attributes:
      captured: ||S^T G|| / ||G|| (...) of each matrix of the leaf; 0 if G is zero.
      of_random: sqrt(r/m), the root of its mean square for a uniformly random subspace.
    """

    captured: Float[Array, "*b"]
    of_random: float


def captured_energy(state: optax.OptState, grads: optax.Updates) -> dict[str, CapturedEnergy]:
    """Return the part of each gradient that lies in the subspace of its leaf.

    For orthonormal bases it is between 0 and 1 (eq. 3 of the paper below)::

      ||S^T G|| / ||G||

    Before the first update there are no bases yet, and it is 0.

    Args:
      state: the state of a method, or of any transformation around `split_by_subspace`, such as
        `optax.chain`, `optax.masked` or `optax.MultiSteps`.
      grads: a tree like params. What a chain does to gradients before the split matters only if it
        changes more than their size.

    Returns:
      A dict from the path of each split leaf, such as "a/b/c", to its `CapturedEnergy`. It works
      under `jax.jit`.

    Raises:
      ValueError: the state has no split, does not store its bases, or has a leaf that grads has
        not.

    Examples:
      >>> grads = {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}
      >>> tx = grass_optax.scale_by_galore(rank=1)
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> energy = grass_optax.captured_energy(state, grads)["kernel"]
      >>> round(float(energy.captured), 4), energy.of_random
      (1.0, 0.5)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025
    """
    grad_of = {leaf_path(path): x for path, x in jax.tree.leaves_with_path(unboxed(grads))}
    energies = {}
    for _, split in parts_of(unboxed(state), SplitState):
        for path, layout, basis in _leaves_of(split):
            if path not in grad_of:
                raise ValueError(f"grads has no leaf {path!r}, which the state has. Give a tree like params.")
            energies[path] = _energy(layout, basis, grad_of[path])
    if not energies:
        raise ValueError("the state holds no subspace. Give the state of a method that splits its leaves.")
    return energies


def _leaves_of(split: SplitState) -> Iterator[tuple[str, MatrixLayout, Any]]:
    """The path, the layout and the basis of every leaf."""
    layouts = jax.tree.leaves_with_path(split.layouts, is_leaf=is_layout)
    structure: Any = jax.tree.structure(split.layouts, is_leaf=is_layout)
    for (path, layout), basis in zip(layouts, structure.flatten_up_to(split.basis), strict=True):
        if isinstance(basis, optax.MaskedNode):
            raise ValueError(
                f"the basis of leaf {leaf_path(path)!r} is drawn again at each step, so the state does not have it. "
                "Use a method that stores its bases, by store_basis=True if it has that argument."
            )
        yield leaf_path(path), layout, basis


def _energy(layout: MatrixLayout, basis: Any, grad: Array) -> CapturedEnergy:
    basis = as_basis(basis)
    matrix = layout.to_matrix(grad.astype(wide(grad.dtype)))
    inside, whole = (jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1))) for x in (basis.project(matrix), matrix))
    captured = jnp.where(whole == 0, 0, inside / jnp.where(whole == 0, 1, whole))
    return CapturedEnergy(captured, (basis.rank / layout.m) ** 0.5)
