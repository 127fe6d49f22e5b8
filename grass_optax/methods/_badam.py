"""BAdam: Adam on one block of the parameters at a time."""

from collections.abc import Hashable, Sequence

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax._blocks.labels import block_labels
from grass_optax._blocks.turns import Order, active_only, block_coordinate
from grass_optax._inner.transforms import adam, in_float32
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, as_mask, scale_by_rates


def scale_by_badam(
    switch_gap: int = 100,
    *,
    blocks: int | Sequence[str] = 0,
    order: Order = "random",
    freeze_rest: bool = False,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of BAdam: Adam on one block at a time, restarted every `switch_gap` updates.

    With N blocks W_1 ... W_N and K = switch_gap, block i is active for K updates in each cycle of
    N K (Algorithm 1)::

      M, V = 0           when block i becomes active
      U_i = Adam(G_i)    while it is active, and 0 otherwise

    State: 2 numbers for each weight of one block, where AdamW keeps 2 for every weight.

    If `blocks` is an axis, the leaves in blocks are by default those with three axes or more,
    except embeddings and the output head (`layouts.split_labels`); with `weight_dimension_numbers`
    they are those of which `blocks` is a batch axis. So stacked vectors, such as norms, are in no
    block, and a tree without stacked matrices is an error. If `blocks` are path prefixes, every
    leaf below one of them is in its block. The other leaves get Adam. BAdam's released code freezes
    them, as `freeze_rest` does: this suits fine-tuning, but not pretraining, where embeddings would
    stay at their random start.

    Under `optax.inject_hyperparams`, `switch_gap`, `blocks`, `key` and callables that are not
    schedules go to `static_args`.

    Args:
      switch_gap: K; the paper's rule of thumb is n / (B D) for n samples, batch size B and D
        blocks, between 50 and 100.
      blocks: the axis along which leaves stack the layers, or path prefixes (`block_coordinate`).
      order: "random", "ascending" or "descending"; see `block_coordinate`.
      freeze_rest: True gives the leaves outside the blocks no update.
      b1, b2, eps: Adam's constants, in the blocks and elsewhere.
      inner: an Optax transformation to run in the blocks instead of Adam.
      mu_dtype, nu_dtype: storage types of Adam's moments; see `scale_by_grassjump`.
      weight_dimension_numbers: the axes that make each leaf a matrix; see `scale_by_grassjump`.
        Only used if `blocks` is an axis.
      key: an int or a threefry key; the random order is a function of it.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if there are no such blocks (when
        initialised).
      TypeError: if a leaf is not floating point (when initialised).

    Examples:
      One layer of the stack moves at a time, each for two updates:

      >>> grads = {"layers": {"kernel": jax.random.normal(jax.random.key(1), (3, 4, 8))}}
      >>> tx = grass_optax.scale_by_badam(switch_gap=2, order="ascending")
      >>> state, update, moved = tx.init(grads), jax.jit(tx.update), []
      >>> for _ in range(6):
      ...     updates, state = update(grads, state)
      ...     moved.append(jnp.any(updates["layers"]["kernel"] != 0, axis=(1, 2)))
      >>> [jnp.flatnonzero(layers).tolist() for layers in moved]
      [[0], [0], [1], [1], [2], [2]]

    References:
      Luo et al., `BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language
      Models <https://arxiv.org/abs/2404.02827>`_, 2024
    """
    plain_adam = adam(b1, b2, eps, mu_dtype, nu_dtype, key)
    block = block_coordinate(
        plain_adam if inner is None else inner, switch_gap=switch_gap, blocks=blocks, order=order, key=key
    )
    rest = optax.set_to_zero() if freeze_rest else in_float32(plain_adam)
    return optax.partition({layouts.SPLIT: block, layouts.ADAM: rest}, block_labels(blocks, weight_dimension_numbers))


def badam(
    learning_rate: optax.ScalarOrSchedule,
    switch_gap: int = 100,
    *,
    blocks: int | Sequence[str] = 0,
    order: Order = "random",
    freeze_rest: bool = False,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """BAdam: Adam on one block at a time, restarted for the next every `switch_gap` updates.

    With the direction U of `scale_by_badam`, for the active block i and the leaves in no block::

      W_i <- W_i - learning_rate (U_i + weight_decay W_i)

    The other blocks stay as they are, decay included: the paper's base optimizer knows only the
    active block. Schedules count all updates. The arguments not listed here are those of
    `scale_by_badam`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; in blocks, they apply only to the active block.
      adam_learning_rate: the rate of the leaves that are in no block; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With two blocks that take turns of five updates:

      >>> kernel = jax.random.normal(jax.random.key(1), (4, 8))
      >>> params = {"first": kernel, "second": kernel}
      >>> loss = lambda p: jnp.sum(p["first"] ** 2) + jnp.sum(p["second"] ** 2)
      >>> tx = grass_optax.badam(0.1, 5, blocks=["first", "second"], order="ascending")
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::5]]
      [59.1, 41.0, 22.8, 14.8, 6.7]

      Decay acts on the active block alone:

      >>> params = {"layers": {"kernel": jnp.ones((4, 3, 5))}}
      >>> tx = grass_optax.badam(0.1, switch_gap=50, order="ascending", weight_decay=0.5)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(abs(float(x)), 3) for x in updates["layers"]["kernel"][:, 0, 0]]
      [0.15, 0.0, 0.0, 0.0]

    References:
      Luo et al., `BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language
      Models <https://arxiv.org/abs/2404.02827>`_, 2024, Algorithm 1
    """
    direction = scale_by_badam(
        switch_gap, blocks=blocks, order=order, freeze_rest=freeze_rest, b1=b1, b2=b2, inner=inner, eps=eps,
        mu_dtype=mu_dtype, nu_dtype=nu_dtype, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    labels = block_labels(blocks, weight_dimension_numbers)
    decay = optax.add_decayed_weights(weight_decay, as_mask(mask))
    decays: dict[Hashable, optax.GradientTransformation] = {
        layouts.SPLIT: active_only(decay, switch_gap=switch_gap, blocks=blocks, order=order, key=key),
        layouts.ADAM: optax.identity() if freeze_rest else decay,
    }
    rates = scale_by_rates(learning_rate, adam_learning_rate, labels)
    return optax.chain(direction, optax.partition(decays, labels), rates)
