"""BAdam: Adam on one block of the parameters at a time, an expression over `block_coordinate`.

Members: badam, scale_by_badam, block_labels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from optax.contrib import MuonDimensionNumbers

from grass_optax._blocks.cuts import in_block
from grass_optax._blocks.turns import block_coordinate
from grass_optax._inner.transforms import adam, in_float32
from grass_optax._trees import layouts


def badam(
    learning_rate: optax.ScalarOrSchedule,
    switch_every: int = 100,
    *,
    blocks: int | Sequence[str] = 0,
    order: str = "random",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    freeze_rest: bool = False,
    inner: optax.GradientTransformation | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """BAdam: Adam on one block at a time, begun anew for the next every `switch_every` updates.

    With N blocks W_1 ... W_N and K = switch_every, block i is active for K updates in each cycle of
    N K:
      M, V = 0 when it becomes active,  N = Adam(G_i),  W_i <- W_i - learning_rate (N + weight_decay W_i)
    and the other blocks stay as they are, decay included: the paper's base optimizer knows only the
      active block. The learning rate's schedule counts all updates. State: 2 numbers for each
      number of one block, against AdamW's 2 for all.

    Which leaves are in the blocks. With an axis: by default those with three axes or more, except
    embeddings and the output head (`layouts.split_labels`); with `weight_dimension_numbers` those
    of which `blocks` is a batch axis. So vectors that are stacked, norms for one, are not; matrices
    none of which is stacked are an error. With path prefixes: every leaf below one of them. The
    other leaves get plain Adam. In BAdam's released code they are frozen; that is `freeze_rest`,
    for fine-tuning: embeddings frozen at their random start are no basis for pretraining.

    Args:
      learning_rate: a float or a schedule.
      switch_every: K; the paper's rule of thumb is n / (B D) for n batches an epoch and D blocks,
        between 50 and 100.
      blocks: the axis along which leaves stack the layers, or path prefixes (`block_coordinate`).
      order: "random", "ascending" or "descending"; see `block_coordinate`.
      b1, b2, eps: Adam's, in the blocks and elsewhere.
      freeze_rest: True gives the leaves outside the blocks no update.
      inner: any Optax transformation in place of Adam in the blocks.
      weight_decay, mask: as in `optax.adamw`; of the leaves in blocks, those of the active block
        only.
      weight_dimension_numbers: as in `optax.contrib.muon`, see `grassjump`; only where `blocks` is
        an axis.
      adam_learning_rate: of the leaves outside the blocks; `learning_rate` if not given.
      mu_dtype, nu_dtype: of Adam's moments, see `grassjump`.
      key: an int or a threefry key; the order is a function of it.

    Under `optax.inject_hyperparams`, `switch_every`, `blocks`, `key` and callables other than
    schedules go to `static_args`.

    >>> params = {"layers": {"kernel": jnp.ones((4, 3, 5)), "norm": jnp.ones((4, 3))}}
    >>> tx = badam(1e-2, switch_every=50)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.tree_utils.tree_get(state, "BlockCoordinateState").inner[0].nu["layers"]["kernel"].shape
    (1, 3, 5)

    Source: BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language Models,
      arXiv 2404.02827, Algorithm 1.
    """
    turns: dict[str, Any] = {"switch_every": switch_every, "blocks": blocks, "order": order, "key": key}
    plain = adam(b1, b2, eps, mu_dtype, nu_dtype, key)
    rest_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    block = optax.chain(
        _decayed(inner or plain, weight_decay, mask, turns), optax.scale_by_learning_rate(learning_rate)
    )
    decay = optax.add_decayed_weights(weight_decay, mask)
    rest = optax.chain(in_float32(plain), decay, optax.scale_by_learning_rate(rest_rate))
    return _partition(block, rest, freeze_rest, block_labels(blocks, weight_dimension_numbers))


def scale_by_badam(
    switch_every: int = 100,
    *,
    blocks: int | Sequence[str] = 0,
    order: str = "random",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    freeze_rest: bool = False,
    inner: optax.GradientTransformation | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of `badam`, not negated; its arguments without decay and rates.

    >>> params = {"layers": {"0": {"kernel": jnp.ones((3, 5))}, "1": {"kernel": jnp.ones((3, 5))}}}
    >>> tx = scale_by_badam(50, blocks=["layers/0", "layers/1"], order="ascending")
    >>> updates, state = tx.update(params, tx.init(params))
    >>> float(updates["layers"]["0"]["kernel"].max()) > 0, float(updates["layers"]["1"]["kernel"].max())
    (True, 0.0)
    """
    plain = adam(b1, b2, eps, mu_dtype, nu_dtype, key)
    block = block_coordinate(inner or plain, switch_every=switch_every, blocks=blocks, order=order, key=key)
    return _partition(block, in_float32(plain), freeze_rest, block_labels(blocks, weight_dimension_numbers))


def _partition(
    block: optax.GradientTransformation,
    rest: optax.GradientTransformation,
    freeze_rest: bool,
    labels: Callable[[optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    return optax.partition({layouts.SPLIT: block, layouts.ADAM: optax.set_to_zero() if freeze_rest else rest}, labels)


def _decayed(
    adam: optax.GradientTransformation,
    weight_decay: optax.ScalarOrSchedule,
    mask: Any | Callable[[optax.Params], Any] | None,
    turns: dict[str, Any],
) -> optax.GradientTransformationExtraArgs:
    """Blocks in turn, and decay for the parameters of the active one alone.

    The inner optimizer is told the decay of the day: a schedule inside it would begin anew with
      every block. Parameters that the mask leaves out are zeros to it, since a mask need not fit a
      window.
    """
    if isinstance(weight_decay, int | float) and weight_decay == 0:  # reading the weights would copy them
        return block_coordinate(optax.chain(adam, optax.identity()), **turns)
    blocks = block_coordinate(optax.chain(adam, _decay_as_told()), **turns)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any) -> tuple[optax.Updates, Any]:
        rate = weight_decay(state.count) if callable(weight_decay) else weight_decay
        return blocks.update(updates, state, _zero_unless(mask, params), weight_decay=rate, **extra_args)

    return optax.GradientTransformationExtraArgs(blocks.init, update)


def _decay_as_told() -> optax.GradientTransformationExtraArgs:
    """`optax.add_decayed_weights` whose rate is an argument of `update`."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("badam decays weights, so it needs them: call update(updates, state, params).")
        rate = extra_args["weight_decay"]
        return jax.tree.map(lambda u, p: u + jnp.asarray(rate, u.dtype) * p, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _zero_unless(mask: Any | Callable[[optax.Params], Any] | None, params: Any) -> Any:
    """The params where a mask, a tree of booleans like them or a prefix of it, is true."""
    if mask is None or params is None:
        return params
    mask = mask(params) if callable(mask) else mask
    return jax.tree.map(lambda m, part: part if m else jax.tree.map(jnp.zeros_like, part), mask, params)


def block_labels(
    blocks: int | Sequence[str], dims: layouts.DimensionNumbersOrFn = None
) -> Callable[[optax.Params], Any]:
    """A function of params for `optax.partition`: "split" for the leaves that are in blocks, "adam"
    for the others.
    """
    if not isinstance(blocks, Sequence):
        return lambda params: _stacked_labels(params, blocks, dims)
    if dims is not None:
        raise ValueError(
            "weight_dimension_numbers say which leaves stack the blocks along an axis; with path prefixes every leaf "
            "below one is in a block. Give one or the other."
        )

    def label(path: Any, x: Any) -> str:
        layouts.require_float(path, x)
        return layouts.SPLIT if any(in_block(path, prefix) for prefix in blocks) else layouts.ADAM

    return lambda params: jax.tree.map_with_path(label, params)


def _stacked_labels(params: optax.Params, axis: int, weight_dimension_numbers: layouts.DimensionNumbersOrFn) -> Any:
    def by_default(path: Any, x: Any) -> bool:
        return x.ndim > 2 and not (layouts.is_embedding(path) or layouts.is_head(path))

    def by_dimension_numbers(x: Any, dims: MuonDimensionNumbers | None) -> bool:
        return dims is not None and axis % x.ndim not in {i % x.ndim for i in jax.tree.leaves(dims)}

    jax.tree.map_with_path(layouts.require_float, params)
    if weight_dimension_numbers is None:
        stacked = jax.tree.map_with_path(by_default, params)
        if not any(jax.tree.leaves(stacked)) and any(x.ndim == 2 for x in jax.tree.leaves(params)):
            raise ValueError(
                f"no leaf stacks layers along axis {axis}, so there are no blocks, although there are matrices. Give "
                'the blocks as path prefixes, blocks=["layers/0", ...], or say by weight_dimension_numbers which '
                "leaves are stacked."
            )
    else:
        stacked = jax.tree.map(
            by_dimension_numbers, params, layouts.dimension_numbers(params, weight_dimension_numbers)
        )
    return jax.tree.map(lambda s: layouts.SPLIT if s else layouts.ADAM, stacked)
