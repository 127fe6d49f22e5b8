"""The published methods, each one expression over the three axes: rule, inner, transport, residual.

For each there is `<method>`, an optimizer, and `scale_by_<method>`, the direction U that it
multiplies by the negative learning rate. Both are one `optax.partition`: the leaves that
`layouts.split_labels` names are split, the others get plain Adam. What all of them take is said
once, at `grassjump`.
"""

from typing import Unpack

import optax
from jax.typing import ArrayLike

from grass_optax import subspaces, transport
from grass_optax._checks import one_of, positive
from grass_optax._inner.transforms import orthogonalize
from grass_optax.methods._assembly import Options, assemble, assemble_blocks, direction_of, with_options
from grass_optax.residual import channel_scaling, error_feedback, recovery, sign, tensor_scaling


@with_options
def grassjump(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    orthonormal: bool = True,
    store_basis: bool = True,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """GrassJump: Adam in a random subspace of each matrix, redrawn every `update_proj_gap` updates.

    At t = 1 + j T the basis S (m x r) is drawn anew and Adam's moments are rotated by S_t^T S_{t-1}
    (eq. 7-8); then
      g = S^T G,  N = Adam(g),  L_i = (||N_i|| / ||g_i||) (G - S g)_i  (eq. 9),  ||L_t|| <= zeta ||L_{t-1}||  (eq. 10)
      W <- W - learning_rate (scale S N + L + weight_decay W)  (eq. 11)
    State per matrix: mr + 2nr + 1 numbers, against AdamW's 2mn.

    Which leaves are split: see `layouts.split_labels`. By default the 2-D leaves with min(m, n) >
      rank, except embeddings and the output head (a part of their path contains "embed", or is one
      of "wte", "wpe", "head", "lm_head", "output_head", "logits", "logits_dense"); with
      `weight_dimension_numbers` exactly those it names, stacked and multi-axis kernels included.

    Args:
      learning_rate: a float or a schedule.
      rank: r, the dimension of the subspaces.
      update_proj_gap: T, updates from one jump to the next.
      scale: multiplies the low-rank part S N only; the recovered part L is not scaled.
      b1, b2, eps: Adam's, in the subspace and elsewhere.
      max_norm_growth: zeta; None switches the limit off.
      completion: "none" is the papers' transport; "isotropic" restores the second moment that a
        jump leaves behind (`transport.rotate`).
      orthonormal: False skips the orthonormalisation of the bases (`subspaces.random_jump`).
      store_basis: False draws the basis again each step; the state is 2nr + 1 numbers.
      inner: any Optax transformation in place of Adam inside the subspace; it gets shapes in place
        of the weights, so it may not decay them. A transport that rotates knows the states listed
        in `inner_states`, and takes b1 and b2 to be those of an `inner` that is Adam too.
      weight_decay, mask: as in `optax.adamw`; for all leaves.
      weight_dimension_numbers: as in `optax.contrib.muon`: a tree of `MuonDimensionNumbers`, a
        prefix of it or a function of params; None for a leaf that is not split. In params that a
        function gets, leaves may be MaskedNode.
      adam_learning_rate: of the leaves that are not split; `learning_rate` if not given.
      mu_dtype, nu_dtype: the types in which Adam's first and second moments are kept, in the
        subspace and elsewhere: None for float32, "bfloat16", or "float8_e4m3fn" (8 bits, with a
        float32 scale for each column), both rounded stochastically (`compressed`). In 8 bits the
        two take 2nr bytes and 8n for scales, in place of 8nr, and an entry whose gradients are 2.5
        decades below the largest of its column moves less than it would; vectors and moments of one
        row stay float32. An `inner` that is given keeps its own types.
      basis_dtype: of the stored bases.
      map_stacks: True multiplies the matrices of a stack one after the other: less memory on a mesh
        (`products.Products`), where the first axis of stacks is not sharded and devices are not a
        CPU's.
      key: an int or a threefry key; the run is a function of it.

    Under `optax.inject_hyperparams`, integers that shape the computation (here `rank` and
    `update_proj_gap`), `key` and callables other than schedules go to `static_args`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), grass_optax.grassjump(1e-2, rank=2))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.tree_utils.tree_get(state, "basis")["dense"]["kernel"].shape
    (4, 2)

    Source: Randomized Gradient Subspaces for Efficient LLM Training, arXiv 2510.01878, Algorithm 1.
    """
    return assemble(
        learning_rate, subspaces.random_jump(orthonormal), (b1, b2), transport.rotate(b1, b2, completion),
        recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, store_basis=store_basis, options=options,
    )  # fmt: skip


@with_options
def grasswalk(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 100,
    *,
    step_size: ArrayLike | None = None,
    walk_rank: int = 1,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """GrassWalk: Adam in a subspace of each matrix that takes a random step every `update_proj_gap`
    updates.

    The first basis is near the leading left singular vectors of the first gradient
    (`subspaces.range_finder`); at t = 1 + j T, j > 0, it moves along a random geodesic (eq. 4) that
    turns `walk_rank` of its r directions. The rest of the step is that of `grassjump`. State per
    matrix: mr + 2nr + 1 numbers, against AdamW's 2mn.

    Args:
      step_size: the length of the step in radians, the angle of each direction that turns; None
        draws each angle uniformly.
      walk_rank: how many directions turn at a step, at most min(r, m - r); 1 in the paper.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.grasswalk(optax.cosine_decay_schedule(1e-2, 1000), rank=2, step_size=0.3)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.tree_utils.tree_get(state, "SplitState").inner.mu["dense"]["kernel"].shape
    (2, 8)

    Source: Randomized Gradient Subspaces for Efficient LLM Training, arXiv 2510.01878, Algorithm 1.
    """
    return assemble(
        learning_rate, subspaces.random_walk(step_size, walk_rank), (b1, b2), transport.rotate(b1, b2, completion),
        recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(), options=options,
    )  # fmt: skip


@with_options
def subtrack(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    step_size: ArrayLike | None = None,
    tracking_rank: int = 1,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    completion: str = "none",
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """SubTrack++: Adam in a subspace that follows the gradient along geodesics of the Grassmann
    manifold.

    The first basis is near the leading singular vectors of the first gradient; at t = 1 + j T it
    moves along the tangent H = 2 (G - S S^T G) (S^T G)^T, truncated to `tracking_rank` (eq. 3-6 of
    arXiv 2502.01586). The rest of the step is that of `grassjump`. The released code moves the
    basis of wide matrices only; this moves all. State per matrix: mr + 2nr + 1 numbers.

    Args:
      step_size: eta, which multiplies the singular value to give the angle (10 in the paper); None
        takes the angle that captures most of the gradient (`subspaces.tracking`).
      tracking_rank: how many directions turn at a step; 1 in the paper.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.subtrack(1e-2, rank=2, update_proj_gap=50)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: SubTrack++, arXiv 2502.01586.
    """
    return assemble(
        learning_rate, subspaces.tracking(step_size, tracking_rank), (b1, b2), transport.rotate(b1, b2, completion),
        recovery(max_norm_growth),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(), options=options,
    )  # fmt: skip


@with_options
def subtrack_grad(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    step_size: ArrayLike | None = None,
    tracking_rank: int = 1,
    scale: ArrayLike = 0.25,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """SubTrack-Grad: the subspace of `subtrack` without its transport and recovery, U = scale S
    Adam(S^T G) (eq. 3-6).

    State per matrix: mr + 2nr numbers. The arguments are those of `subtrack`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.subtrack_grad(1e-2, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: SubTrack your Grad, arXiv 2502.01586v1.
    """
    return assemble(
        learning_rate, subspaces.tracking(step_size, tracking_rank), (b1, b2), transport.keep(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(), options=options,
    )  # fmt: skip


@with_options
def galore(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: str = "exact",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """GaLore: Adam in the span of the gradient's leading left singular vectors; what is outside is
    dropped.

      U = scale S Adam(S^T G),  S anew from G at t = 1 + j T  (Algorithm 2)
    As in the authors' code the basis lives on the smaller dimension; that of `optax.contrib.galore`
    lives on the larger one, and its `scale` is 1.0 by default, where this has the paper's 0.25. On
    square matrices, and with the same scale and the same SVD, both are the same. State per matrix:
    mr + 2nr numbers.

    Args:
      scale: alpha.
      svd: "exact", or "randomized" for a range finder in matrix products only, which runs anywhere
        and needs a fraction of the time (`subspaces.svd`).

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.galore(1e-2, rank=2, svd="randomized")
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: GaLore, arXiv 2403.03507.
    """
    return assemble(
        learning_rate, subspaces.svd(svd), (b1, b2), transport.keep(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, options=options,
    )  # fmt: skip


@with_options
def golore(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    random_start: ArrayLike,
    scale: ArrayLike = 0.25,
    svd: str = "exact",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """GoLore: GaLore's bases at first and random ones later, when noise rules; the first moment is
    carried.

      U = scale S Adam(S^T G),  M <- S_t^T S_{t-1} M at t = 1 + j T  (Algorithm 1, momentum projection)
    The released code computes the carried moment and then loses it; this keeps it.
    State per matrix: mr + 2nr numbers.

    Args:
      random_start: the number of updates after which the next refresh is random. The paper's
        GoLore@20% on a run of N updates is 0.8 N; 0 is random from the start.
      scale: 0.25, as for `galore`; 1.0 in the released code.
      svd: of the first phase: see `galore`.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.golore(1e-2, rank=2, random_start=800)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: Subspace Optimization for Large Language Models with Convergence Guarantees, arXiv
      2410.11289.
    """
    return assemble(
        learning_rate, subspaces.switch(subspaces.svd(svd), subspaces.random_jump(), random_start), (b1, b2),
        transport.first_moment_only(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, options=options,
    )  # fmt: skip


@with_options
def fira(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 0.25,
    svd: str = "exact",
    residual: str = "exact",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """Fira: GaLore, and outside its subspace the gradient scaled column by column as Adam scaled it
    inside.

      U = scale S N + L,  L_i = (||N_i|| / ||g_i||) (G - S g)_i,  ||L_t|| <= zeta ||L_{t-1}||  (Algorithm 1)
    State per matrix: mr + 2nr + 1 numbers.

    Args:
      scale: alpha; as in the released code it multiplies the low-rank part only.
      svd: see `galore`.
      residual: "exact" is the paper's; "scaled" is what the released code does, G - scale S g,
        which leaves 1 - scale of the gradient inside the subspace in the residual.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.fira(1e-2, rank=2, residual="scaled")
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: Fira, arXiv 2410.01623.
    """
    removed = 1.0 if one_of("residual", residual, ("exact", "scaled")) == "exact" else scale
    return assemble(
        learning_rate, subspaces.svd(svd), (b1, b2), transport.keep(),
        recovery(max_norm_growth, removed),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, options=options,
    )  # fmt: skip


@with_options
def apollo(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    store_basis: bool = False,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """APOLLO: the raw gradient, each column scaled as Adam scales it in a random projection.

      g = P^T G,  N = Adam(g),  U_i = sqrt(scale) (||N_i|| / ||g_i||) G_i,  ||U_t|| <= zeta ||U_{t-1}||  (Algorithm 1)
    with P Gaussian of variance 1/r, redrawn every T updates. Nothing is lifted. State per matrix:
    2nr + 1 numbers: P is drawn again each step from its key, as the paper says; the released code
    stores it, as `store_basis=True` does.

    Args:
      scale: enters as its square root, as in the released code.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.apollo(1e-2, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: APOLLO, arXiv 2412.05270.
    """
    return assemble(
        learning_rate, subspaces.random_projection(), (b1, b2), transport.keep(),
        channel_scaling(max_norm_growth, scale),
        rank=rank, update_proj_gap=update_proj_gap, lift=False, store_basis=store_basis, options=options,
    )  # fmt: skip


@with_options
def apollo_mini(
    learning_rate: optax.ScalarOrSchedule,
    *,
    update_proj_gap: int = 200,
    scale: ArrayLike = 128.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    max_norm_growth: ArrayLike | None = 1.01,
    store_basis: bool = False,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """APOLLO-Mini: the raw gradient times one number for each matrix, measured in a random
    projection of rank 1.

      U = sqrt(scale) (||N||_F / ||g||_F) G,  ||U_t|| <= zeta ||U_{t-1}||  (Algorithm 1)
    State per matrix: 2n + 1 numbers. `scale` makes up for the rank: its square root is 11.3 by
      default. The arguments are those of `apollo`, without `rank`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.apollo_mini(1e-2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: APOLLO, arXiv 2412.05270.
    """
    return assemble(
        learning_rate, subspaces.random_projection(), (b1, b2), transport.keep(),
        tensor_scaling(max_norm_growth, scale),
        rank=1, update_proj_gap=update_proj_gap, lift=False, store_basis=store_basis, options=options,
    )  # fmt: skip


@with_options
def ldadam(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 1,
    *,
    scale: ArrayLike = 1.0,
    blend: ArrayLike = 0.908,
    feedback: bool = True,
    b1: ArrayLike = 0.908,
    b2: ArrayLike = 0.99,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """LDAdam: Adam in a subspace that follows momentum and gradient by a power iteration at every
    step.

      A = G + E,  S' = power iteration of rho S M + (1 - rho) A,  moments rotated by S'^T S,  U = scale S' Adam(S'^T A)
      E <- A - S' S'^T A + b1 / (1 - b1) (S M_old - S' M)  (Algorithm 1, generalised error feedback)
    State per matrix: mn + mr + 2nr numbers, the mn for E, which the released code keeps in the
      gradient's own buffer; a gradient clip before this transformation therefore does not see E.
      The first basis is that of `subspaces.range_finder`, where the released code takes an SVD;
      later ones see `subspaces.power_iteration`.

    Args:
      blend: rho.
      feedback: False drops E, and its mn numbers.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.ldadam(1e-3, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: LDAdam, arXiv 2410.16103.
    """
    return assemble(
        learning_rate, subspaces.power_iteration(b1, blend), (b1, b2), transport.rotate(b1, b2),
        error_feedback(b1) if feedback else None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, initial=subspaces.range_finder(), options=options,
    )  # fmt: skip


@with_options
def frugal(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    projection: str = "columns",
    active: int = 1,
    sign_scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """FRUGAL: Adam inside the subspace, the sign of the gradient outside, and moments from zero
    after each refresh.

      U = scale (S Adam(S^T G) + sign_scale sign(G - S S^T G))  (Algorithm 1)
    State per matrix: 2nr numbers, and the basis, mr, if `projection` is "random" or "svd". With
      "blocks" it is 2mn for each of `active` layers, whatever the number of layers.

    Args:
      projection: "columns" (r coordinate axes at random, drawn again from their key each step),
        "random" (a random subspace), "svd", or "blocks": Adam for `active` whole layers at a time,
        in random order, and the sign for all others. Layers are axis 0 of stacked leaves, chosen as
        by `badam`; the others get Adam, and `rank` says nothing.
      scale: of both parts, as in the released code.
      sign_scale: of the part outside beside that; 1.0 for pre-training, 0.1 for fine-tuning in the
        paper.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.frugal(1e-3, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: FRUGAL, arXiv 2411.07837.
    """
    rules = {"columns": subspaces.columns(), "random": subspaces.random_jump(), "svd": subspaces.svd()}
    if one_of("projection", projection, (*rules, "blocks")) == "blocks":
        return assemble_blocks(
            learning_rate, (b1, b2), sign(scale * sign_scale),
            switch_every=update_proj_gap, active=active, scale=scale, options=options,
        )  # fmt: skip
    return assemble(
        learning_rate, rules[projection], (b1, b2), transport.reset(), sign(scale * sign_scale),
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, store_basis=projection != "columns", options=options,
    )  # fmt: skip


@with_options
def online_subspace_descent(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """Online Subspace Descent: GaLore with a basis that learns by gradient steps of its own, one at
    every update.

      U = scale S Adam(S^T G),  S <- an AdamW step of size 1/T down ||S S^T G' - G'||_F^2  (Algorithm 1)
    State per matrix: 3mr + 2nr + 1 numbers.

    Args:
      update_proj_gap: T, some hundreds: 1/T is the learning rate of the basis, and one near 1 tears
        it apart. The released code multiplies it by the current part of the learning rate's
        schedule.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.online_subspace_descent(1e-2, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: Memory-Efficient LLM Training with Online Subspace Descent, arXiv 2408.12857.
    """
    return assemble(
        learning_rate, subspaces.online_descent(1 / positive("update_proj_gap", update_proj_gap)), (b1, b2),
        transport.keep(), None,
        rank=rank, update_proj_gap=1, scale=scale, options=options,
    )  # fmt: skip


@with_options
def coap(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 32,
    *,
    recompute_gap: int = 5,
    scale: ArrayLike = 1.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """COAP: GaLore with a basis that takes a step towards gradient and momentum every T updates.

      U = scale S Adam(S^T G); every T updates a step of SGD on S, every `recompute_gap` T an SVD  (Algorithm 1)
    `subspaces.coap` has both. State per matrix: mr + 2nr numbers.

    Args:
      recompute_gap: lambda.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.coap(1e-2, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: COAP, arXiv 2412.00071.
    """
    every = positive("update_proj_gap", update_proj_gap) * positive("recompute_gap", recompute_gap)
    return assemble(
        learning_rate, subspaces.coap(every), (b1, b2), transport.keep(), None,
        rank=rank, update_proj_gap=update_proj_gap, scale=scale, options=options,
    )  # fmt: skip


@with_options
def sumo(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    *,
    scale: ArrayLike = 1.0,
    momentum: ArrayLike = 0.95,
    orthogonalization: str = "exact",
    svd: str = "randomized",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """SUMO: momentum in the span of the gradient's leading singular vectors, orthogonalised; no
    second moment.

      M <- mu M + S^T G,  U = scale S O,  O = A B^T where M = A Sigma B^T;  M <- S_t^T S_{t-1} M at t = 1 + j T
      (Algorithm 1; its norm-growth limit is left out, for ||O|| is constant)
    State per matrix: mr + nr numbers.

    Args:
      momentum: mu.
      orthogonalization: "exact", or "newton_schulz" for Muon's five steps, which are near it.
      svd: see `galore`.
      b1, b2, eps: Adam's, of the leaves that are not split.

    The other arguments are those of `grassjump`.

    >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
    >>> tx = grass_optax.sumo(1e-2, rank=2)
    >>> updates, state = tx.update(params, tx.init(params), params)

    Source: SUMO, arXiv 2505.24749.
    """
    return assemble(
        learning_rate, subspaces.svd(svd), (b1, b2), transport.first_moment_only(), None,
        own_inner=optax.chain(optax.trace(momentum), orthogonalize(orthogonalization)), rank=rank,
        update_proj_gap=update_proj_gap, scale=scale, options=options,
    )  # fmt: skip


scale_by_grassjump = direction_of(grassjump)
scale_by_grasswalk = direction_of(grasswalk)
scale_by_subtrack = direction_of(subtrack)
scale_by_subtrack_grad = direction_of(subtrack_grad)
scale_by_galore = direction_of(galore)
scale_by_golore = direction_of(golore)
scale_by_fira = direction_of(fira)
scale_by_apollo = direction_of(apollo)
scale_by_apollo_mini = direction_of(apollo_mini)
scale_by_ldadam = direction_of(ldadam)
scale_by_frugal = direction_of(frugal)
scale_by_online_subspace_descent = direction_of(online_subspace_descent)
scale_by_coap = direction_of(coap)
scale_by_sumo = direction_of(sumo)
