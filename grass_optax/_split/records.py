"""The records of a split: its configuration, its state, and what it passes to residuals."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from grass_optax._trees.layouts import map_layouts
from grass_optax._trees.matrix_layout import MatrixLayout
from grass_optax.bases import BasisLike, Blocks, Fold
from grass_optax.residual import Residual
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import Transport


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """The arguments of `split_by_subspace`, checked."""

    rule: SubspaceRule
    initial: SubspaceRule
    inner: optax.GradientTransformationExtraArgs
    transport: Transport
    residual: Residual | None
    rank: int
    update_proj_gap: int
    lift: bool
    scale: ArrayLike
    key: jax.Array | int
    basis_dtype: DTypeLike | None
    store_basis: bool
    map_stacks: bool

    @property
    def orthonormal(self) -> bool:
        """Whether every basis is orthonormal, including the first."""
        return self.rule.orthonormal and self.initial.orthonormal

    @property
    def inner_takes_split(self) -> bool:
        """Whether the inner optimizer takes extra arguments without a name, as Optax's do."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.inner.update).parameters.values())


class SplitState(NamedTuple):
    """State of `split_by_subspace`: trees shaped like params, matrices as (..., m, n) with m <= n.

    Attributes:
      count: (), int32: the number of updates so far.
      basis: (..., m, r) per leaf; `optax.MaskedNode` where the basis is not stored. `bases` reads
        fixed ones, too.
      inner_state: the state of the inner optimizer, over leaves (..., r, n).
      residual_state: the state of the residual transformation, over column norms (..., 1, n) or
        residuals (..., m, n).
      rule_state: the state of the rule, per leaf; every array has the batch axes of the leaf.
      layout: per leaf its `MatrixLayout` and what its basis has besides arrays, the rank of a fold
        or the number of blocks, in a form that every library can save; `layouts`, `bases` and
        `block_counts` read it.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    basis: PyTree
    inner_state: PyTree
    residual_state: PyTree
    rule_state: PyTree
    layout: PyTree

    @property
    def layouts(self) -> PyTree:
        """`layouts.MatrixLayout` per leaf."""
        return _read(_layout, self.layout)

    @property
    def bases(self) -> PyTree:
        """The basis per leaf: that of the state, or a fold, which has no arrays to store.
        `optax.MaskedNode` for any other that is not stored.
        """
        return _read(lambda spec, stored: _fold(spec) or stored, self.layout, self.basis)

    @property
    def block_counts(self) -> PyTree:
        """The number of blocks of the basis per leaf; 1 if it has none (`block_count`)."""

        def count(spec: dict[str, Any]) -> int:
            fold = _fold(spec)
            return int(spec.get(_BLOCKS, 1)) if fold is None else block_count(fold)

        return _read(count, self.layout)


_BLOCKS, _FOLD = "blocks", "fold"


def _layout(spec: dict[str, Any]) -> MatrixLayout:
    return MatrixLayout(**{field: tuple(axes) for field, axes in spec.items() if field not in (_BLOCKS, _FOLD)})


def _fold(spec: dict[str, Any]) -> Fold | None:
    """The basis of a leaf, if it is a fold: it follows from its rank and the layout."""
    return Fold(_layout(spec).m, spec[_FOLD]) if _FOLD in spec else None


def _read(f: Callable[..., Any], layout: PyTree, *trees: PyTree) -> PyTree:
    """A function of every record of `SplitState.layout`, and of one part of each tree."""

    def is_stored(x: Any) -> bool:
        return isinstance(x, dict) and any(isinstance(value, optax.EmptyState) for value in x.values())

    def read(stored: dict[str, optax.EmptyState], *parts: Any) -> Any:
        (spec,) = map(json.loads, stored)
        return f(spec, *parts)

    return jax.tree.map(read, layout, *trees, is_leaf=is_stored)


def block_count(basis: BasisLike) -> int:
    """The number of blocks of a basis of one size, in rows and columns; 1 if there are none."""
    if isinstance(basis, Fold):
        return basis.rank if basis.m % basis.rank == 0 else 1
    return basis.blocks.shape[-3] if isinstance(basis, Blocks) else 1


def stored_layouts(layouts: PyTree, bases: PyTree) -> PyTree:
    """Layouts, and what bases have besides arrays, as `SplitState.layout` holds them: each as the
    key of a dict.

    Keys of a dict are static for every library that saves or edits states. `flax.serialization`
    takes a static node for data, Orbax replaces what is empty in a `jax.tree_util.Partial`, and
    `optax.tree_utils.tree_set` looks into a static NamedTuple.
    """

    def stored(spec: MatrixLayout, basis: BasisLike) -> dict[str, optax.EmptyState]:
        of_basis = {}
        if isinstance(basis, Fold):
            of_basis = {_FOLD: basis.rank}
        elif isinstance(basis, Blocks):
            of_basis = {_BLOCKS: block_count(basis)}
        return {json.dumps(dataclasses.asdict(spec) | of_basis, default=int): optax.EmptyState()}

    return map_layouts(stored, layouts, bases)


class Split(NamedTuple):
    """What one step knows: the extra argument `split` of a residual transformation.

    The inner optimizer gets it too, without what that optimizer makes: it is None there.

    Attributes:
      grad: G (..., m, n) per leaf, with the error that was fed back.
      projected: g = S^T G (..., r, n) per leaf.
      basis: S (..., m, r) per leaf.
      previous_basis: S of the step before; zero at the first step.
      inner_state: the inner state after the transport.
      removed_fraction: c of the R = G - c S g that the residual transformation is given.
      previous_inner_state: the inner state before the transport.
      direction: D (..., r, n) per leaf, what `inner` returned for g.
      updated_inner_state: the inner state that `inner` returned with it.
    """

    grad: PyTree
    projected: PyTree
    basis: PyTree
    previous_basis: PyTree
    inner_state: PyTree
    previous_inner_state: PyTree
    removed_fraction: ArrayLike
    direction: PyTree = None
    updated_inner_state: PyTree = None


def by_leaf(state: PyTree, treedef: Any) -> tuple[list[list[Array]], Callable[[list[Array]], PyTree]]:
    """The arrays of every leaf in an inner state, and the function that makes a state of them.

    The parts of a state that are shaped like `treedef` are split up by leaf; the others, such as
    counts, are in the state of every leaf.
    """

    def is_part(x: PyTree) -> bool:
        return bool(jax.tree.structure(x) == treedef)

    parts = jax.tree.leaves(state, is_leaf=is_part)
    outer: Any = jax.tree.structure(state, is_leaf=is_part)
    split = [jax.tree.leaves(part) for part in parts if is_part(part)]
    arrays = [[part[i] for part in split] for i in range(treedef.num_leaves)]

    def state_of(own: list[Array]) -> PyTree:
        leaves = iter(own)
        return outer.unflatten([next(leaves) if is_part(part) else part for part in parts])

    return arrays, state_of
