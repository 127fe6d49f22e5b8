"""Bases that are stored, drawn again or rounded, and what a rule sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import grassmann, split_by_subspace, subspaces, transport
from tests import tolerances
from tests.util import STACK, WIDE, basis_of, long_but, run, stacked_dimensions


@pytest.mark.parametrize(
    "options",
    long_but(
        [{}, {"basis": "blocks", "blocks": 3}],
        [{}, {"basis": "gaussian"}, {"basis": "blocks", "blocks": 3}, {"basis_dtype": "bfloat16"}],
    ),
)
def test_basis_drawn_again_is_the_basis_stored(options):
    params = {"w": jnp.ones(WIDE), "s": jnp.ones(STACK)}

    def make(store):
        dims = stacked_dimensions
        return grass_optax.scale_by_grassjump(3, 3, store_basis=store, weight_dimension_numbers=dims, **options)

    stored, drawn = (run(make(store), params, 8) for store in (True, False))
    for t in range(8):
        for name in params:
            np.testing.assert_allclose(
                drawn[0][t][name], stored[0][t][name], atol=1e-4 if "basis_dtype" in options else 1e-5
            )
    assert jax.tree.leaves(basis_of(drawn[1][-1])) == []
    split = optax.tree_utils.tree_get(drawn[1][-1], "SplitState")
    sizes = {
        name: split.inner_state.mu[name].size
        + split.inner_state.nu[name].size
        + split.residual_state[1].norm[name].size
        + split.residual_state[1].held[name].size
        for name in params
    }
    assert sizes == {"w": 2 * 3 * 16 + 2, "s": 3 * (2 * 3 * 16 + 2)}


def test_bf16_basis_keeps_its_subspace():
    """1000 walks, each rounded to bf16: the drift stays what the format costs."""
    tx = grass_optax.scale_by_grasswalk(4, 1, basis_dtype="bfloat16")

    @jax.jit
    def thousand(state):
        grad = jnp.ones((16, 20))
        return jax.lax.scan(lambda s, _: (tx.update(grad, s)[1], None), state, length=1000)[0]

    basis = basis_of(thousand(tx.init(jnp.ones((16, 20)))))
    assert basis.dtype == jnp.bfloat16
    error = grassmann.orthonormality_error(basis.astype(jnp.float32))
    assert tolerances.ORTHONORMAL32 < error < tolerances.ORTHONORMAL_BF16_AFTER_1000


def test_a_rule_sees_its_leaf_of_the_inner_state():
    """A stateful rule that counts its refreshes and checks what it is shown."""

    def init(basis_shape, dtype):
        return jnp.zeros((), jnp.int32)

    def update(refresh):
        assert refresh.grad.ndim == 2
        assert refresh.inner_state.mu.shape == (3, refresh.grad.shape[-1])
        basis = grassmann.random_basis(refresh.key, refresh.basis.shape, refresh.basis.dtype)
        return basis, refresh.rule_state + 1

    tx = split_by_subspace(
        subspaces.SubspaceRule(init=init, update=update), optax.scale_by_adam(), transport.keep(), None, rank=3,
        update_proj_gap=2, initial=subspaces.random_jump(), weight_dimension_numbers=stacked_dimensions,
    )  # fmt: skip
    states = run(tx, {"w": jnp.ones(WIDE), "s": jnp.ones(STACK)}, 6)[1]
    assert [int(s.rule_state["w"]) for s in states] == [0, 0, 1, 1, 2, 2]
    assert states[-1].rule_state["s"].tolist() == [2, 2, 2]


def test_a_switch_between_keyed_rules_must_store_its_basis():
    rule = subspaces.switch(subspaces.random_jump(), subspaces.columns(), 5)
    with pytest.raises(ValueError, match="store_basis=False"):
        split_by_subspace(
            rule, optax.scale_by_adam(), transport.keep(), None, rank=2, update_proj_gap=4, store_basis=False
        )
