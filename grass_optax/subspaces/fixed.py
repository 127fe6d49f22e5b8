"""Rules whose basis stays where it is."""

from typing import Any

from jaxtyping import Array, Float, PyTree

from grass_optax.bases import Fold
from grass_optax.subspaces.rule import Refresh, SubspaceRule, no_state, stateless_rule


def fold() -> SubspaceRule:
    """Block means: r blocks of m/r neighbouring rows, the same at every step (FOAM, GWT).

    Nothing is stored, drawn or refreshed, and the transport never runs. A paper's level l is the
    rank r = m / 2^l. The block sizes differ by one row at most (`bases.Fold`).

    Both papers fold a weight along its inputs. Here m is the smaller side of a matrix, and the
    inputs of a square one. So the state has the same size, but in a matrix with more inputs than
    outputs, such as the last of an MLP, neighbouring outputs share their moments.

    Returns:
      A rule without state; its S (m, r) is a `bases.Fold`, orthonormal.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.fold(), optax.identity(), transport.keep(), None, rank=1, update_proj_gap=1,
      ... )
      >>> grad = jnp.arange(16.0).reshape(4, 4)
      >>> tx.update(grad, tx.init(grad))[0]  # S S^T G
      Array([[6., 7., 8., 9.],
             [6., 7., 8., 9.],
             [6., 7., 8., 9.],
             [6., 7., 8., 9.]], dtype=float32)

    References:
      Wen et al., `FOAM: Blocked State Folding for Memory-Efficient LLM Training
      <https://arxiv.org/abs/2512.07112>`_, 2025
    """

    def form(basis_shape: tuple[int, int], dtype: Any) -> Fold:
        del dtype
        return Fold(*basis_shape)

    def same(refresh: Refresh) -> tuple[Fold, PyTree]:
        return refresh.basis, refresh.rule_state

    return SubspaceRule(init=no_state, update=same, form=form, keyed=True, fixed=True)


def frozen(basis: Float[Array, "m r"] | None = None, orthonormal: bool = True) -> SubspaceRule:
    """The basis does not move.

    Every refresh returns `basis`, or without it the old one.

    Args:
      basis: the basis (m, r) of every matrix; None keeps the old basis.
      orthonormal: pass False if `basis` is not orthonormal; the norms of the residual are then
        corrected with its Gram matrix.

    Returns:
      A rule without state. Without `basis` it needs a first one.

    Examples:
      >>> tx = grass_optax.split_by_subspace(
      ...     subspaces.frozen(jnp.eye(2, 1)), optax.identity(), transport.keep(), None,
      ...     rank=1, update_proj_gap=100,
      ... )
      >>> grad = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> tx.update(grad, tx.init(grad))[0]  # S S^T G
      Array([[1., 2.],
             [0., 0.]], dtype=float32)
    """

    def stay(refresh: Refresh) -> Float[Array, "m r"]:
        return refresh.basis if basis is None else basis.astype(refresh.basis.dtype)

    return stateless_rule(stay, orthonormal=orthonormal, moves=basis is None)
