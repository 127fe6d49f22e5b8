"""Arguments of a split that cannot work, and what to do about them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import PyTree

from grass_optax._split.records import SplitConfig, SplitState, block_count, by_leaf
from grass_optax._trees.matrix_layout import is_layout
from grass_optax._trees.paths import leaf_path
from grass_optax.bases import Basis, BasisLike
from grass_optax.residual.marks import errors_in
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import first_moment_only, keep, reset, rotate


def require_axes(rule: Any, inner: Any, transport: Any, residual: Any, initial: Any) -> None:
    """Raise a TypeError for what is not an axis, such as a factory that was not called."""
    transformation = optax.GradientTransformation
    checks = [
        ("rule", rule, isinstance(rule, SubspaceRule), "subspaces.random_jump()"),
        ("inner", inner, isinstance(inner, transformation), "optax.scale_by_adam()"),
        ("transport", transport, callable(transport), "transport.keep()"),
        (
            "residual",
            residual,
            residual is None or isinstance(residual, transformation),
            "residual.recovery(), or None",
        ),
        (
            "initial",
            initial,
            initial is None or isinstance(initial, SubspaceRule),
            "subspaces.range_finder(), or None",
        ),
    ]
    for name, value, is_right, example in checks:
        if not is_right:
            raise TypeError(f"{name} is {value!r}. Give what fits there, such as {example}.")


def require_consistent(config: SplitConfig) -> None:
    """Raise a ValueError for arguments that contradict each other."""
    if config.transport in (keep, reset, first_moment_only, rotate):
        call = "rotate(b1, b2)" if config.transport is rotate else f"{config.transport.__name__}()"
        raise ValueError(f"transport is a function that makes a transport. Call it: transport.{call}.")
    if not config.store_basis and not (config.rule.keyed and config.initial is config.rule):
        raise ValueError(
            "store_basis=False draws the basis again from its key at each step, so the rule may "
            "read nothing but the key (as subspaces.random_jump does), and makes the first basis "
            "too. Store the basis, or give such a rule and no `initial`."
        )
    if config.initial.moves:
        raise ValueError(
            "the rule starts from the previous basis, so another rule must make the first one. "
            "Give `initial`, such as subspaces.range_finder() or subspaces.random_jump()."
        )
    if not config.lift and config.residual is None:
        raise ValueError(
            "lift=False leaves only what the residual returns, and residual=None drops that. Give "
            "a residual, such as residual.channel_scaling(), or lift=True."
        )


def require_stateless_initial(config: SplitConfig, grads: PyTree) -> None:
    """Raise a ValueError if the rule of the first basis would be given another rule's state, or
    makes bases of another form.
    """
    if config.initial is config.rule:
        return
    for grad in jax.tree.leaves(grads):
        shape = grad.shape[-2], config.rank
        of_rule, of_initial = (_described_forms(rule, (), shape) for rule in (config.rule, config.initial))
        if of_rule != of_initial:
            raise ValueError(
                f"the rule of the first basis makes a basis that is {of_initial}, and `rule` one that is {of_rule}. "
                "Give an `initial` that makes bases of the same form."
            )
        if jax.tree.leaves(config.initial.init(shape, grad.dtype)):
            raise ValueError(
                "the rule of the first basis keeps a state, but the state of a split is that of "
                "`rule`. Give an `initial` without state, such as subspaces.range_finder()."
            )


def require_form(basis: BasisLike, expected: BasisLike) -> None:
    """Raise a ValueError if a rule did not return what its `form` says."""
    if described(basis) != described(expected):
        raise ValueError(
            f"a rule returned {described(basis)}, but its bases are of the form {described(expected)}. Give "
            "SubspaceRule or stateless_rule a `form` that makes a basis like those that it returns."
        )


@functools.lru_cache(maxsize=1024)
def _described_forms(rule: SubspaceRule, batch: tuple[int, ...], basis_shape: tuple[int, int]) -> str:
    """What `described` says of the bases of a stack; kept, for updates that are not jitted."""
    return described(jax.eval_shape(lambda: rule.forms(batch, basis_shape, jnp.float32)))


def described(basis: BasisLike) -> str:
    """The form of a basis in an error: "array of (8, 4)", or "Blocks of (2, 4, 2)"."""
    kind = type(basis).__name__ if isinstance(basis, Basis) else "array"
    return f"{kind} of {' and '.join(str(x.shape) for x in jax.tree.leaves(basis))}"


def require_same_split(config: SplitConfig, layout: PyTree, state: SplitState) -> None:
    """Raise a ValueError for gradients or a state that belong to another split.

    `layout` is that of the gradients, by the dimension numbers of this one.
    """
    initialised = dict(jax.tree.leaves_with_path(state.layouts, is_leaf=is_layout))
    for path, now in jax.tree.leaves_with_path(layout, is_leaf=is_layout):
        name, before = leaf_path(path), initialised.get(path)
        if before is None:
            raise ValueError(
                f"leaf {name!r} has a gradient, but no place in the state. Initialise it with these leaves."
            )
        if now.shape != before.shape:
            raise ValueError(
                f"the gradient of leaf {name!r} is of shape {now.shape}, but the leaf was of shape {before.shape} "
                "when the state was initialised. Give gradients shaped like the parameters."
            )
        if now != before:
            raise ValueError(
                f"the state of leaf {name!r} is for a matrix of axes {before.m_axes} and {before.n_axes}, but the "
                f"dimension numbers of this transformation name {now.m_axes} and {now.n_axes}. Give the state the "
                "dimension numbers that it was initialised with, or initialise it again."
            )
    _require_rank(config, layout, state)
    if config.store_basis:
        _require_bases(config, layout, state)
    else:
        _require_block_counts(config, layout, state)


def _require_rank(config: SplitConfig, layout: PyTree, state: SplitState) -> None:
    """Read off the moments (..., r, n)."""
    structure: Any = jax.tree.structure(layout, is_leaf=is_layout)
    moments, _ = by_leaf(state.inner_state, structure)
    for spec, arrays in zip(jax.tree.leaves(layout, is_leaf=is_layout), moments, strict=True):
        for x in arrays:
            *batch, before, n = (0, 0, *jnp.shape(x))
            is_moment = (*batch, n) == (0, 0, *spec.batch, spec.n)
            if is_moment and before not in (config.rank, 1):  # scales of narrow moments have one row
                raise ValueError(
                    f"the state is of rank {before}, but this transformation is of rank {config.rank}. "
                    "Give the rank that the state was initialised with, or initialise it again."
                )


def _require_bases(config: SplitConfig, layout: PyTree, state: SplitState) -> None:
    structure: Any = jax.tree.structure(layout, is_leaf=is_layout)
    specs = jax.tree.leaves_with_path(layout, is_leaf=is_layout)
    for (path, spec), basis in zip(specs, structure.flatten_up_to(state.basis), strict=True):
        expected = _described_forms(config.rule, spec.batch, (spec.m, config.rank))
        if isinstance(basis, optax.MaskedNode) or described(basis) != expected:
            found = "no basis" if isinstance(basis, optax.MaskedNode) else f"a basis that is {described(basis)}"
            raise ValueError(
                f"the state of leaf {leaf_path(path)!r} has {found}, but this transformation needs one that is "
                f"{expected}. Give the arguments that the state was initialised with, or initialise it again."
            )


@functools.lru_cache(maxsize=1024)
def _block_count(rule: SubspaceRule, basis_shape: tuple[int, int]) -> int:
    """The number of blocks of a rule's bases; kept, for updates that are not jitted."""
    return block_count(jax.eval_shape(lambda: rule.form(basis_shape, jnp.float32)))


def _require_block_counts(config: SplitConfig, layout: PyTree, state: SplitState) -> None:
    """Bases that are not stored leave their number of blocks behind."""
    specs = jax.tree.leaves_with_path(layout, is_leaf=is_layout)
    for (path, spec), before in zip(specs, jax.tree.leaves(state.block_counts), strict=True):
        now = _block_count(config.rule, (spec.m, config.rank))
        if now != before:
            raise ValueError(
                f"the moments of leaf {leaf_path(path)!r} are in a basis of {before} blocks, but this transformation "
                f"makes {now}. Give the arguments that the state was initialised with, or initialise it again."
            )


def require_feedback(config: SplitConfig, residual_state: PyTree) -> None:
    """Raise a ValueError if an error would be fed back that cannot be known."""
    if errors_in(residual_state) is None:
        return
    if not config.store_basis:
        raise ValueError(
            "error feedback compares the bases before and after a refresh, so they must be stored. "
            "Leave out store_basis=False, or give another residual."
        )
    if config.residual is not None and config.residual.marks.per_column:
        raise ValueError(
            "a residual marked per_column sees column norms alone, so it has no error to feed "
            "back. Leave out per_column or error_feedback."
        )


def floating_type(dtype: DTypeLike | None) -> DTypeLike | None:
    """Return the type of the stored bases.

    Raises:
      ValueError: not a floating type.
    """
    try:
        is_floating = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        is_floating = False
    if not is_floating:
        raise ValueError(
            f"basis_dtype is {dtype!r}, but a basis is kept in a floating type. Give one, such as "
            "bfloat16, or None for float32."
        )
    return dtype
