"""What the methods share: the options that all of them take, and how an expression over the axes
becomes an optimizer.

Members: Options, with_options, direction_of, assemble, assemble_blocks.
"""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypedDict, TypeVar

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax._blocks.turns import block_coordinate
from grass_optax._inner.transforms import adam, in_float32
from grass_optax._split.split import split_by_subspace
from grass_optax._trees import layouts
from grass_optax.methods._badam import block_labels
from grass_optax.subspaces import SubspaceRule
from grass_optax.transport import Transport

Mask = Any | Callable[[optax.Params], Any]
P = ParamSpec("P")
Method = TypeVar("Method", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The keyword arguments that every method over the split takes."""

    inner: optax.GradientTransformation | None  # inside the subspace, in place of the method's own (Adam)
    eps: ArrayLike  # Adam's
    mu_dtype: DTypeLike | None  # of Adam's first moments
    nu_dtype: DTypeLike | None  # of its second moments
    basis_dtype: DTypeLike | None  # of the stored bases
    map_stacks: bool  # multiply the matrices of a stack one after the other
    weight_dimension_numbers: layouts.DimensionNumbersOrFn
    key: jax.Array | int
    weight_decay: optax.ScalarOrSchedule
    mask: Mask | None  # of the weight decay
    adam_learning_rate: optax.ScalarOrSchedule | None  # of the leaves that are not split


_DEFAULTS = Options(
    inner=None,
    eps=1e-8,
    mu_dtype=None,
    nu_dtype=None,
    basis_dtype=None,
    map_stacks=False,
    weight_dimension_numbers=None,
    key=0,
    weight_decay=0.0,
    mask=None,
    adam_learning_rate=None,
)
_RATES = ("weight_decay", "mask", "adam_learning_rate")
_NO_RATE: Any = object()  # in place of a learning rate: the direction is wanted, without rates, decay and sign


def with_options(method: Method) -> Method:
    """Show each of the `Options` in the signature of a method, where `optax.inject_hyperparams` and
    readers look.
    """
    signature = inspect.signature(method)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    types = Options.__annotations__
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in _DEFAULTS.items()
    ]
    setattr(method, "__signature__", signature.replace(parameters=[*own, *options]))  # noqa: B010
    return method


def direction_of(method: Callable[Concatenate[optax.ScalarOrSchedule, P], Any]) -> Callable[P, Any]:
    """`scale_by_<method>`: what the method multiplies by the negative learning rate."""
    signature = inspect.signature(method)
    parameters = [p for name, p in signature.parameters.items() if name not in ("learning_rate", *_RATES)]
    own = signature.replace(parameters=parameters)

    def scale_by(*args: P.args, **kwargs: P.kwargs) -> Any:
        own.bind(*args, **kwargs)  # an unknown name is an error that tells this function's, not the method's
        return method(_NO_RATE, *args, **kwargs)

    name = getattr(method, "__name__")  # noqa: B009
    scale_by.__name__ = scale_by.__qualname__ = f"scale_by_{name}"
    scale_by.__module__ = method.__module__
    scale_by.__doc__ = f"The direction U of `{name}`, not negated; its arguments without rates and weight decay."
    setattr(scale_by, "__signature__", own)  # noqa: B010
    return scale_by


def assemble(
    learning_rate: optax.ScalarOrSchedule,
    rule: SubspaceRule,
    betas: tuple[ArrayLike, ArrayLike],
    transport: Transport,
    residual: optax.GradientTransformation | None,
    *,
    rank: int,
    update_proj_gap: int,
    scale: ArrayLike = 1.0,
    initial: SubspaceRule | None = None,
    own_inner: optax.GradientTransformation | None = None,
    lift: bool = True,
    store_basis: bool = True,
    options: Options | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer from its axes: the split for the leaves that `layouts.split_labels` names, Adam
    for the others.

    Inside the subspace stands `options["inner"]`, if it is given, else `own_inner`, else Adam with
    these betas. The other arguments are those of `split_by_subspace`; the `options` those that
    every method takes (see `grassjump`). All methods of this package are made with it, and one of
    your own can be:

    >>> tx = grass_optax.assemble(
    ...     1e-3, subspaces.random_jump(), (0.9, 0.999), transport.reset(), None, rank=2, update_proj_gap=100
    ... )
    >>> tx.init({"w": jnp.ones((4, 8))}) is not None
    True
    """
    given = _complete(options or {})
    plain_adam = adam(*betas, given["eps"], given["mu_dtype"], given["nu_dtype"], given["key"])
    split = split_by_subspace(
        rule,
        given["inner"] or own_inner or plain_adam,
        transport,
        residual,
        rank=rank,
        update_proj_gap=update_proj_gap,
        scale=scale,
        initial=initial,
        lift=lift,
        store_basis=store_basis,
        basis_dtype=given["basis_dtype"],
        map_stacks=given["map_stacks"],
        key=given["key"],
        weight_dimension_numbers=given["weight_dimension_numbers"],
    )
    labels = layouts.split_labels(rank, given["weight_dimension_numbers"])
    return _with_rates(learning_rate, split, plain_adam, labels, given)


def assemble_blocks(
    learning_rate: optax.ScalarOrSchedule,
    betas: tuple[ArrayLike, ArrayLike],
    inactive: optax.GradientTransformation,
    *,
    switch_every: int,
    active: int,
    scale: ArrayLike = 1.0,
    options: Options | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A method over whole layers in turn in place of subspaces: `block_coordinate` for the leaves
    that stack them.
    """
    given = _complete(options or {})
    plain_adam = adam(*betas, given["eps"], given["mu_dtype"], given["nu_dtype"], given["key"])
    inner = optax.chain(given["inner"] or plain_adam, optax.scale(scale))
    blocks = block_coordinate(inner, inactive, switch_every=switch_every, active=active, key=given["key"])
    return _with_rates(learning_rate, blocks, plain_adam, block_labels(0, given["weight_dimension_numbers"]), given)


def _complete(options: Options) -> Options:
    unknown = sorted(set(options) - set(_DEFAULTS))
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}: beside its own, a method takes {', '.join(_DEFAULTS)}."
        )
    return _DEFAULTS | options


def _with_rates(
    learning_rate: optax.ScalarOrSchedule,
    split: optax.GradientTransformation,
    rest: optax.GradientTransformation,
    labels: Callable[[optax.Params], Any],
    options: Options,
) -> optax.GradientTransformationExtraArgs:
    """`split` where the labels say so and `rest` (Adam) elsewhere, each followed by weight decay
    and its rate.
    """
    rest = in_float32(rest)
    if learning_rate is not _NO_RATE:
        decay = optax.add_decayed_weights(options["weight_decay"], options["mask"])
        adam_rate = options["adam_learning_rate"]
        split = optax.chain(split, decay, optax.scale_by_learning_rate(learning_rate))
        rest = optax.chain(rest, decay, optax.scale_by_learning_rate(learning_rate if adam_rate is None else adam_rate))
    return optax.partition({layouts.SPLIT: split, layouts.ADAM: rest}, labels)
