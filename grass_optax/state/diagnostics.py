"""How much of a gradient the subspaces hold, and how to read what a state says by layer."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from grass_optax._linalg.dtypes import wide
from grass_optax._linalg.norms import frobenius_norm, over_largest
from grass_optax._linalg.products import project
from grass_optax._linalg.spectral import range_basis
from grass_optax._split.records import SplitState
from grass_optax._trees.boxes import unboxed
from grass_optax._trees.keys import checked_key, folded, matrix_numbers, numbers_of, typed_key
from grass_optax._trees.matrix_layout import MatrixLayout, is_layout
from grass_optax._trees.paths import leaf_path
from grass_optax.bases.basis import Basis, as_basis
from grass_optax.state.owners import parts_of

# Power steps for the best subspace, four times those of a rule: a diagnosis is rare, and what the
# best lacks would look like a method's merit. `captured_energy` has what was measured.
_POWER_STEPS = 8


class CapturedEnergy(NamedTuple):
    """The part of a gradient inside a subspace, as a ratio of norms.

    Attributes:
      captured: ||S^T G|| / ||G|| (...) of each matrix of the leaf; 0 if G is zero, NaN if it is not
        finite.
      of_random: sqrt(r/m), the root of its mean square for a uniformly random subspace.
      of_best: the same as `captured` (...) for the best subspace of dimension r, nearly; None if it
        was not asked for.
    """

    captured: Float[Array, "*b"]
    of_random: float
    of_best: Float[Array, "*b"] | None = None


def captured_energy(
    state: optax.OptState, grads: optax.Updates, *, key: jax.Array | int | None = None
) -> dict[str, CapturedEnergy]:
    """Return the part of each gradient that lies in the subspace of its leaf.

    For orthonormal bases it is between 0 and 1 (eq. 3 of the paper below)::

      ||S^T G|| / ||G||

    Before the first update it is 0, as there are no bases yet; a fold (FOAM, GWT) is there at once.

    The best subspace is that of the leading singular vectors, found by subspace iteration from a
    random start, in products only. What it captures is never above the best. Found against exact,
    512 x 1376 at rank 128: .998/.998 for singular values 1/k, .892/.893 for k^(-1/2), .681/.684 for
    a Gaussian matrix.

    Args:
      state: the state of a method, or of any transformation around `split_by_subspace`, such as
        `optax.chain`, `optax.masked` or `optax.MultiSteps`.
      grads: a tree like params. What a chain does to gradients before the split matters only if it
        changes more than their size.
      key: an int or a threefry key, from which the best subspace of each matrix is found; None for
        no `of_best`.

    Returns:
      A dict from the path of each split leaf, such as "a/b/c", to its `CapturedEnergy`. It works
      under `jax.jit`.

    Raises:
      ValueError: the state has no split, has bases that are drawn again at each step, or has a leaf
        that grads has not.

    Examples:
      >>> grads = {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}
      >>> tx = grass_optax.scale_by_galore(rank=1)
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> energy = grass_optax.captured_energy(state, grads, key=0)["kernel"]
      >>> round(float(energy.captured), 4), energy.of_random, round(float(energy.of_best), 4)
      (1.0, 0.5, 1.0)

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025
    """
    key = None if key is None else typed_key(checked_key(key))
    return {leaf.path: _energy(leaf, key) for leaf in leaves_of(state, grads)}


def by_layer(values: Mapping[str, Array], trailing: int = 0) -> dict[str, dict[tuple[int, ...], Array]]:
    """Sort numbers of leaves by the type of their layer, then by the layer.

    The type of a layer is the path of its leaf without the integers in it; which layer it is, these
    integers and then the place in the batch axes of the leaf. So a stack of layers and a list of
    layers read alike.

    Args:
      values: a dict from paths to arrays, one number or more for each matrix of the leaf.
      trailing: how many of the last axes belong to a single matrix, such as 1 for singular values.

    Returns:
      A dict from types to dicts from layers to arrays, in order.

    Examples:
      >>> stack = {"layers/up/kernel": jnp.array([0.3, 0.2])}
      >>> apart = {"layers/0/up/kernel": jnp.array(0.3), "layers/1/up/kernel": jnp.array(0.2)}
      >>> grass_optax.by_layer(stack) == grass_optax.by_layer(apart)
      True
      >>> [round(float(x), 1) for x in grass_optax.by_layer(stack)["layers/up/kernel"].values()]
      [0.3, 0.2]
    """
    layers: dict[str, dict[tuple[int, ...], Array]] = {}
    for path, x in values.items():
        parts = path.split("/")
        kind = "/".join(part for part in parts if not part.isdecimal())
        first = tuple(int(part) for part in parts if part.isdecimal())
        batch = x.shape[: x.ndim - trailing]
        for place in _places(batch):
            layers.setdefault(kind, {})[first + place] = x[place]
    return {kind: dict(sorted(of_type.items())) for kind, of_type in layers.items()}


class SplitLeaf(NamedTuple):
    """A leaf whose space is split.

    Attributes:
      path: its path, "a/b/c".
      basis: S (..., m, r).
      grad: G (..., m, n), in float32 at least.
      numbers: what identifies the leaf in keys.
    """

    path: str
    basis: Basis
    grad: Float[Array, "*b m n"]
    numbers: tuple[int, ...]


def leaves_of(state: optax.OptState, grads: optax.Updates) -> Iterator[SplitLeaf]:
    """Every leaf that is split, with its basis and its gradient.

    Raises:
      ValueError: as `captured_energy`.
    """
    grad_of = matrices_of(grads)
    for path, numbers, layout, basis in bases_of(state):
        yield SplitLeaf(path, basis, grad_of(path, layout), numbers)


def bases_of(state: optax.OptState) -> Iterator[tuple[str, tuple[int, ...], MatrixLayout, Basis]]:
    """The path, the numbers, the layout and the basis of every leaf that is split."""
    is_empty = True
    for _, split in parts_of(unboxed(state), SplitState):
        layouts = jax.tree.leaves_with_path(split.layouts, is_leaf=is_layout)
        structure: Any = jax.tree.structure(split.layouts, is_leaf=is_layout)
        numbers = numbers_of(path for path, _ in layouts)
        for (path, layout), basis in zip(layouts, structure.flatten_up_to(split.bases), strict=True):
            if isinstance(basis, optax.MaskedNode):
                raise ValueError(_not_stored(leaf_path(path)))
            is_empty = False
            yield leaf_path(path), numbers[path], layout, as_basis(basis)
    if is_empty:
        raise ValueError("the state holds no subspace. Give the state of a method that splits its leaves.")


def _not_stored(path: str) -> str:
    # A state has a count, but no key, no interval and no rule: its bases cannot be drawn from it.
    return (
        f"the state does not have the basis of leaf {path!r}: it is made again at each step, by a rule and a key that "
        "only the transformation has. Give store_basis=True to grassjump, apollo, apollo_mini, assemble or "
        "split_by_subspace; give frugal, which does not store the columns that it draws, projection='random' or "
        "'svd'; leave fixed=True out of a rule of your own."
    )


def matrices_of(grads: optax.Updates) -> Any:
    """A function of the path and the layout of a leaf to its gradient (..., m, n), in float32 at
    least.
    """
    grad_of = {leaf_path(path): x for path, x in jax.tree.leaves_with_path(unboxed(grads))}

    def matrix(path: str, layout: MatrixLayout) -> Float[Array, "*b m n"]:
        if path not in grad_of:
            raise ValueError(f"grads has no leaf {path!r}, which the state has. Give a tree like params.")
        grad = jnp.asarray(grad_of[path])
        return layout.to_matrix(grad.astype(wide(grad.dtype)))

    return matrix


def ratio(part: Float[Array, "*b"], whole: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """part / whole; 0 if the whole is zero."""
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _energy(leaf: SplitLeaf, key: Key[Array, ""] | None) -> CapturedEnergy:
    grad, _ = over_largest(leaf.grad)
    whole, rank = frobenius_norm(grad), leaf.basis.rank
    captured = ratio(frobenius_norm(leaf.basis.project(grad)), whole)
    best = None if key is None else ratio(_best_norm(key, leaf._replace(grad=grad)), whole)
    return CapturedEnergy(captured, (rank / leaf.grad.shape[-2]) ** 0.5, best)


def _best_norm(key: Key[Array, ""], leaf: SplitLeaf) -> Float[Array, "*b"]:
    """The norm of each gradient in the best subspace. Each matrix has a start of its own, whatever
    stack it is in.
    """

    def of_one(numbers: Array, grad: Array) -> Array:
        found = range_basis(folded(key, numbers), grad, leaf.basis.rank, _POWER_STEPS, in_order=False)
        return frobenius_norm(project(found, grad))

    *batch, m, n = leaf.grad.shape
    numbers = matrix_numbers(leaf.numbers, tuple(batch))
    norms = jax.vmap(of_one)(numbers.reshape(-1, numbers.shape[-1]), leaf.grad.reshape(-1, m, n))
    return norms.reshape(batch)


def _places(batch: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The indices of all matrices of a stack, the last axis fastest."""
    if not batch:
        yield ()
    for i in range(batch[0] if batch else 0):
        yield from ((i, *rest) for rest in _places(batch[1:]))
