"""A residual transformation and how the step feeds it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
    """How the step feeds a residual transformation.

    Attributes:
      per_column: give it the column norms (..., 1, n) instead of R.
      removed_fraction: c in R = G - c S S^T G.
      feedback: a function from the residual's state to the tree of (..., m, n) that is added to the
        next gradient; None for no feedback.

    Raises:
      ValueError: `per_column` and `feedback` together.
    """

    per_column: bool = False
    removed_fraction: ArrayLike = 1.0
    feedback: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        if self.per_column and self.feedback is not None:
            raise ValueError(
                "a residual marked per_column sees column norms alone, so it has no error to feed "
                "back. Leave out per_column or feedback."
            )


class Residual(optax.GradientTransformationExtraArgs):
    """An Optax transformation of the residual that carries its `Marks`.

    Attributes:
      marks: how the step feeds the transformation.
    """

    marks: Marks

    def __new__(cls, init: Callable[..., Any], update: Callable[..., Any], marks: Marks = Marks()) -> "Residual":
        """Return a transformation with these marks. `marked` makes one of a transformation."""
        self = super().__new__(cls, init, update)
        self.marks = marks
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What copying and pickling need."""
        return self.init, self.update, self.marks


def marked(
    tx: optax.GradientTransformation,
    *,
    per_column: bool = False,
    removed_fraction: ArrayLike = 1.0,
    feedback: Callable[[PyTree], PyTree] | None = None,
) -> Residual:
    """Mark an Optax transformation: tell the step how to feed it.

    Args:
      tx: a transformation of the residual.
      per_column, removed_fraction, feedback: see `Marks`.

    Returns:
      The transformation as a `Residual`.

    Raises:
      ValueError: `per_column` and `feedback` together.

    Examples:
      >>> residual.marked(optax.scale(0.5), per_column=True).marks.per_column
      True
    """
    marks = Marks(per_column=per_column, removed_fraction=removed_fraction, feedback=feedback)
    return Residual(tx.init, optax.with_extra_args_support(tx).update, marks)


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`.

    Attributes:
      error: (..., m, n) per leaf, added to the next gradient.
    """

    error: PyTree


def as_residual(tx: optax.GradientTransformation | None) -> Residual | None:
    """Return any Optax transformation as a residual: without marks, it is given R.

    An `error_feedback` inside, in a chain or under a mask, still feeds its error back.
    """
    if tx is None or isinstance(tx, Residual):
        return tx
    return marked(tx, feedback=errors_in)


def per_column(tx: optax.GradientTransformation) -> Residual:
    """Mark a transformation that multiplies each column of the residual by a number.

    Examples:
      >>> halved = residual.per_column(optax.chain(residual.recovery(), optax.scale(0.5)))
      >>> halved.marks.per_column
      True
    """
    marks = tx.marks if isinstance(tx, Residual) else Marks()
    return marked(tx, **(vars(marks) | {"per_column": True}))


def split_of(extra_args: dict[str, Any]) -> Any:
    """The extra argument `split` of a residual transformation.

    Raises:
      TypeError: there is none, since the transformation runs outside of a split.
    """
    if "split" not in extra_args:
        raise TypeError(
            "this transformation needs the extra argument `split`, which split_by_subspace passes "
            "to its residual. Give it as the residual of a split."
        )
    return extra_args["split"]


def map_present(f: Callable[..., Array], updates: PyTree, *trees: PyTree) -> PyTree:
    """`jax.tree.map` over the leaves that `optax.masked` or `optax.partition` left in `updates`."""

    def of_present(x: Any, *others: Any) -> Any:
        return x if _is_masked(x) else f(x, *others)

    return jax.tree.map(of_present, updates, *trees, is_leaf=_is_masked)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def errors_in(state: PyTree) -> PyTree | None:
    """The sum of the errors in every `ErrorFeedbackState` of a state; None if there is none."""

    def is_feedback(x: Any) -> bool:
        return isinstance(x, ErrorFeedbackState)

    def add(a: Any, b: Any) -> Any:
        if _is_masked(a) or _is_masked(b):
            return b if _is_masked(a) else a
        return a + b

    states = [x for x in jax.tree.leaves(state, is_leaf=is_feedback) if is_feedback(x)]
    errors = [x.error for x in states]
    sum_of = functools.partial(jax.tree.map, add, is_leaf=_is_masked)
    return functools.reduce(sum_of, errors) if errors else None
