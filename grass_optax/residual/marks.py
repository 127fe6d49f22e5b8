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

    def __new__(cls, tx: optax.GradientTransformation, **marks: Any) -> "Residual":
        """Return the transformation `tx` with marks, passed by name."""
        self = super().__new__(cls, tx.init, optax.with_extra_args_support(tx).update)
        self.marks = Marks(**marks)
        return self


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
    return Residual(tx, feedback=errors_in)


def per_column(tx: optax.GradientTransformation) -> Residual:
    """Mark a transformation that multiplies each column of the residual by a number.

    Examples:
      >>> halved = residual.per_column(optax.chain(residual.recovery(), optax.scale(0.5)))
      >>> halved.marks.per_column
      True
    """
    marks = tx.marks if isinstance(tx, Residual) else Marks()
    return Residual(tx, **(vars(marks) | {"per_column": True}))


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
