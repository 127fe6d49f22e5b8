"""How a method is put together: a direction from the three axes, then decay and learning rates."""

import numbers
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from grass_optax._inner.transforms import adam, in_float32
from grass_optax._split.split import split_by_subspace
from grass_optax._trees import layouts
from grass_optax._trees.paths import is_function
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import Transport

Mask: TypeAlias = PyTree[bool] | Callable[[optax.Params], PyTree[bool]]
Labels: TypeAlias = Callable[[optax.Params], PyTree[str]]


def assemble(
    rule: SubspaceRule,
    transport: Transport,
    residual: optax.GradientTransformation | None,
    *,
    rank: int,
    update_proj_gap: int,
    scale: ArrayLike = 1.0,
    initial: SubspaceRule | None = None,
    lift: bool = True,
    store_basis: bool = True,
    inner: optax.GradientTransformation | None = None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Make the direction of a method from its axes: rule, transport and residual.

    The leaves that `layouts.split_labels` names are split by `split_by_subspace`; the others get
    Adam, in float32 at least. Every `scale_by_<method>` over the split is one call of this
    function.

    Args:
      rule: where the basis goes at a refresh (`subspaces`).
      transport: what the moments become when it moves (`transport`).
      residual: what becomes of the gradient outside the subspace (`residual`); None drops it.
      rank: r, the dimension of the subspaces.
      update_proj_gap: the number of updates from one refresh to the next.
      scale: multiplies the low-rank part.
      initial: the rule for the first basis; None is `rule`.
      lift: False leaves out the low-rank part and passes the whole gradient to `residual`.
      store_basis: False draws the basis again from its key at each step.
      inner: the optimizer inside the subspace, any Optax transformation; None is Adam.
      b1, b2, eps: Adam's constants, in the subspace and for the leaves that are not split.
      mu_dtype, nu_dtype: storage types of Adam's moments.
      basis_dtype: storage type of the bases; None is float32.
      map_stacks: multiply the matrices of a stack one at a time.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.
      key: an int or a threefry key; all draws are a function of it.

    Returns:
      The direction as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      A random subspace with momentum inside it, and the sign of the gradient outside:

      >>> tx = grass_optax.assemble(
      ...     subspaces.random_jump(), transport.first_moment_only(), optax.scale_by_sign(),
      ...     rank=2, update_proj_gap=100, inner=optax.trace(0.9),
      ... )
      >>> state = tx.init({"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)})
      >>> optax.tree_utils.tree_get(state, "trace")["kernel"].shape
      (2, 8)
    """
    plain_adam = adam(b1, b2, eps, mu_dtype, nu_dtype, key)
    split = split_by_subspace(
        rule,
        plain_adam if inner is None else inner,
        transport,
        residual,
        rank=rank,
        update_proj_gap=update_proj_gap,
        scale=scale,
        initial=initial,
        lift=lift,
        store_basis=store_basis,
        basis_dtype=basis_dtype,
        map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )
    labels = layouts.split_labels(rank, weight_dimension_numbers)
    return warn_if_nothing_is_split(adam_elsewhere(split, plain_adam, labels), labels, rank)


def warn_if_nothing_is_split(
    tx: optax.GradientTransformationExtraArgs, labels: Labels, rank: int
) -> optax.GradientTransformationExtraArgs:
    """The same transformation, whose `init` warns if Adam gets all leaves although some are
    matrices or more.
    """

    def init(params: optax.Params) -> optax.OptState:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(params)]
        has_matrices = any(sum(size > 1 for size in shape) > 1 and 0 not in shape for shape in shapes)
        if has_matrices and layouts.SPLIT not in jax.tree.leaves(labels(params)):
            warnings.warn(
                f"no leaf is split at rank {rank}: all get Adam. Lower rank, or say by weight_dimension_numbers which "
                "axes make the matrices (layouts.split_labels has the rule).",
                stacklevel=2,
            )
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def adam_elsewhere(
    tx: optax.GradientTransformation, plain_adam: optax.GradientTransformation, labels: Labels
) -> optax.GradientTransformationExtraArgs:
    """`tx` for the leaves labelled "split", and Adam, in float32 at least, for the others."""
    return optax.partition({layouts.SPLIT: tx, layouts.ADAM: in_float32(plain_adam)}, labels)


def with_rates(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    labels: Labels | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer from a direction: weight decay, learning rate and sign.

    With U the direction::

      W <- W - learning_rate (U + weight_decay W)

    Args:
      direction: a transformation whose updates are U.
      learning_rate: a float or a schedule.
      weight_decay: a float or a schedule.
      mask: as in `optax.adamw`, the leaves that decay; None is all.
      adam_learning_rate: the rate of the leaves that `labels` calls "adam"; None is
        `learning_rate`.
      labels: a function of params to a tree of "split" and "adam", such as `layouts.split_labels`
        makes. Only needed with `adam_learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: if `adam_learning_rate` is given without `labels`.

    Examples:
      >>> params = {"kernel": jnp.ones((4, 8))}
      >>> tx = grass_optax.with_rates(optax.scale_by_sign(), 0.1, weight_decay=0.5)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["kernel"][0, 0]), 4)
      -0.15
    """
    decay = optax.add_decayed_weights(weight_decay, as_mask(mask))
    return optax.chain(direction, decay, scale_by_rates(learning_rate, adam_learning_rate, labels))


def require_rate(name: str, rate: Any) -> None:
    """Raise a TypeError for what is neither a number nor a schedule, such as a string."""
    if not (callable(rate) or isinstance(rate, numbers.Real | np.ndarray | np.generic | jax.Array)):
        raise TypeError(f"{name} is {rate!r}. Give a number, or a schedule: a function of the count.")


def as_mask(mask: Mask | None) -> Mask | None:
    """A mask as Optax takes it: one that is a tree, but callable too, is not to be called."""
    return (lambda _: mask) if callable(mask) and not is_function(mask) else mask


def scale_by_rates(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule | None,
    labels: Labels | None,
) -> optax.GradientTransformation:
    """Multiply the updates by the negative rate of their leaf."""
    require_rate("learning_rate", learning_rate)
    rate = optax.scale_by_learning_rate(learning_rate)
    if adam_learning_rate is None:
        return rate
    require_rate("adam_learning_rate", adam_learning_rate)
    if labels is None:
        raise ValueError(
            "adam_learning_rate is the rate of the leaves that `labels` calls 'adam', so labels are needed. Give a "
            "function of params, such as layouts.split_labels(rank)."
        )
    return optax.partition(
        {layouts.SPLIT: rate, layouts.ADAM: optax.scale_by_learning_rate(adam_learning_rate)}, labels
    )
