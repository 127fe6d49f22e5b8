"""GrassJump: a random subspace, rotated moments, and a rescaled residual."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from grass_optax import subspaces, transport
from grass_optax._trees import layouts
from grass_optax.methods._common import Mask, assemble, with_rates
from grass_optax.residual import recovery


def scale_by_grassjump(
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: transport.Completion = "none",
    basis: subspaces.RandomBasis = "haar",
    blocks: int | None = None,
    store_basis: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """The direction of GrassJump: Adam in a random subspace of each matrix.

    At t = 1 + j T the basis S (m x r) of each matrix is drawn anew, and Adam's moments are rotated
    by S_t^T S_{t-1} (eq. 7-8). Then, for the gradient G (m x n)::

      g = S^T G,   N = Adam(g)
      L_i = (||N_i|| / ||g_i||) (G - S g)_i   for each column i (eq. 9)
      ||L_t|| <= zeta ||L_{t-1}||             (eq. 10)
      U = scale S N + L                       (eq. 11)

    State per matrix: mr + 2nr + 2 numbers, where AdamW keeps 2mn. Of the mr, blocks keep mr/a, and
    columns and cosine waves r + m integers.

    By default the 2-D leaves with min(m, n) > rank are split, except embeddings and the output
    head, which are recognised by their paths (`layouts.split_labels`). With
    `weight_dimension_numbers` exactly the leaves that it names are split, stacked and multi-axis
    kernels included. The other leaves get Adam.

    Under `optax.inject_hyperparams`, integers that shape the computation (`rank`, `update_proj_gap`
    and `blocks`), `key` and callables that are not schedules go to `static_args`.

    Args:
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, the number of updates from one refresh of the basis to the next.
      scale: multiplies only the low-rank part S N.
      max_norm_growth: zeta, the largest growth of ||L|| from one update to the next; None sets no
        limit.
      completion: "none" is the papers' transport; "isotropic" restores the second moment that a
        jump leaves behind (`transport.rotate`).
      basis: how a basis is drawn (`subspaces.random_jump`): "haar" is the paper's; "gaussian" its
        "No QR"; "blocks" is block-diagonal, with a fraction of the arithmetic; "columns" are
        coordinate axes; "cosine" are waves.
      blocks: the number of blocks of "blocks"; None is `bases.number_of_blocks`, which is 1, a
        dense basis, at ranks below 64.
      store_basis: False draws the basis again at each step, so that the state is 2nr + 2 numbers.
      b1, b2, eps: Adam's constants, in the subspace and for the leaves that are not split.
      inner: an Optax transformation to run inside the subspace instead of Adam. It gets shapes
        instead of weights, so it cannot decay them. The transport must be able to rotate its state:
        Adam's with the same b1 and b2, Lion's, Muon's, or a momentum.
      mu_dtype, nu_dtype: storage types of Adam's first and second moments, in the subspace and
        elsewhere: None for float32, "bfloat16", or "float8_e4m3fn" (8 bits, and a float32 scale for
        each column). Both round stochastically. In 8 bits an entry whose gradients are 2.5 decades
        below the largest of its column moves less than it would; vectors and moments of one row
        stay float32. An `inner` of your own keeps its own types.
      basis_dtype: storage type of the bases that are floats; None is float32.
      map_stacks: multiply the matrices of a stack one at a time. This saves memory on a mesh whose
        devices are not CPUs, if the first axis of the stacks is not sharded.
      weight_dimension_numbers: the axes that make each leaf a matrix, as in `optax.contrib.muon`: a
        tree of `MuonDimensionNumbers`, a prefix of one, or a function of params; None for a leaf
        that is not split. Params passed to a function may hold `MaskedNode`.
      key: an int or a threefry key; all draws are a function of it.

    Returns:
      The direction U as an `optax.GradientTransformationExtraArgs`, neither negated nor scaled by a
      learning rate.

    Raises:
      ValueError: if an argument is invalid (when built), or if a leaf cannot be split (when
        initialised).
      TypeError: if a leaf is not real floating point (when initialised).

    Examples:
      The basis is drawn anew after three updates. The moments are of shape (r, n):

      >>> grads = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> tx = grass_optax.scale_by_grassjump(rank=2, update_proj_gap=3)
      >>> state, update, bases = tx.init(grads), jax.jit(tx.update), []
      >>> for _ in range(4):
      ...     updates, state = update(grads, state)
      ...     split = optax.tree_utils.tree_get(state, "SplitState")
      ...     bases.append(split.basis["kernel"])
      >>> [bool(jnp.all(basis == bases[0])) for basis in bases]
      [True, True, True, False]
      >>> split.inner_state.mu["kernel"].shape, split.inner_state.nu["kernel"].shape
      ((2, 8), (2, 8))

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """
    return assemble(
        subspaces.random_jump(basis, blocks), transport.rotate(b1, b2, completion), recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, store_basis=store_basis,
        inner=inner, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, basis_dtype=basis_dtype,
        map_stacks=map_stacks, weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip


def grassjump(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    scale: ArrayLike = 0.25,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: transport.Completion = "none",
    basis: subspaces.RandomBasis = "haar",
    blocks: int | None = None,
    store_basis: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    inner: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    basis_dtype: DTypeLike | None = None,
    map_stacks: bool = False,
    weight_dimension_numbers: layouts.DimensionNumbersOrFn = None,
    key: jax.Array | int = 0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GrassJump: Adam in a random subspace of each matrix, redrawn every `update_proj_gap` updates.

    With the direction U of `scale_by_grassjump`::

      W <- W - learning_rate (U + weight_decay W)

    The leaves that are not split get Adam. The arguments not listed here are those of
    `scale_by_grassjump`.

    Args:
      learning_rate: a float or a schedule.
      weight_decay, mask: as in `optax.adamw`; they apply to all leaves.
      adam_learning_rate: the rate of the leaves that are not split; None is `learning_rate`.

    Returns:
      The corresponding `optax.GradientTransformationExtraArgs`.

    Examples:
      With warm-up and a cosine schedule:

      >>> params = {"kernel": jax.random.normal(jax.random.key(1), (4, 8)), "bias": jnp.ones(8)}
      >>> loss = lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2)
      >>> rate = optax.warmup_cosine_decay_schedule(0.0, 0.2, warmup_steps=4, decay_steps=20)
      >>> tx = grass_optax.grassjump(rate, rank=2, update_proj_gap=5)
      >>> state, update, losses = tx.init(params), jax.jit(tx.update), [loss(params)]
      >>> for _ in range(20):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     losses.append(loss(params))
      >>> [round(float(x), 1) for x in losses[::4]]
      [37.6, 26.0, 10.9, 5.5, 4.2, 3.9]

    References:
      Rajabi et al., `Randomized Gradient Subspaces for Efficient Large Language Model Training
      <https://arxiv.org/abs/2510.01878>`_, 2025, Algorithm 1
    """
    direction = scale_by_grassjump(
        rank, update_proj_gap, scale=scale, max_norm_growth=max_norm_growth, completion=completion,
        basis=basis, blocks=blocks, store_basis=store_basis, b1=b1, b2=b2, inner=inner, eps=eps, mu_dtype=mu_dtype,
        nu_dtype=nu_dtype, basis_dtype=basis_dtype, map_stacks=map_stacks,
        weight_dimension_numbers=weight_dimension_numbers, key=key,
    )  # fmt: skip
    return with_rates(
        direction, learning_rate, weight_decay=weight_decay, mask=mask, adam_learning_rate=adam_learning_rate,
        labels=layouts.split_labels(rank, weight_dimension_numbers),
    )  # fmt: skip
