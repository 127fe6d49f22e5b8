"""A residual is an Optax transformation, and its marks say how it may be run."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grass_optax import residual, split_by_subspace, subspaces, transport
from tests.util import WIDE, long_but, run

COMBINED = {
    "chain": lambda tx: optax.chain(tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, {"w": True, "v": False}),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.set_to_zero()}, {"w": "a", "v": "b"}),
}


@pytest.mark.parametrize(
    ("name", "combined"),
    long_but(
        [("recovery", "chain"), ("recovery", "partition")],
        itertools.product(("recovery", "channel", "tensor", "feedback"), COMBINED),
    ),
)
def test_a_residual_is_an_optax_transformation(name, combined):
    """Its chain halves what lies outside; a mask and a partition reach the leaf that they name."""
    params = {"w": jnp.ones(WIDE), "v": jnp.ones(WIDE)}
    lift = name in ("recovery", "feedback")
    tx = {
        "recovery": residual.recovery(1.0001), "channel": residual.channel_scaling(None, 2.0),
        "tensor": residual.tensor_scaling(None, 2.0), "feedback": residual.error_feedback(0.9),
    }[name]  # fmt: skip

    def updates(part):
        axes = subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999)
        return run(split_by_subspace(*axes, part, rank=3, update_proj_gap=2, lift=lift), params, 5)[0]

    none = updates(optax.set_to_zero())[4]
    alone, parts = updates(tx)[4], updates(COMBINED[combined](tx))[4]
    factor = 0.5 if combined == "chain" and name != "feedback" else 1.0
    np.testing.assert_allclose(parts["w"] - none["w"], factor * (alone["w"] - none["w"]), atol=1e-5)
    assert np.abs(alone["w"] - none["w"]).max() > 0.01
    if combined == "partition":
        np.testing.assert_allclose(parts["v"], none["v"], atol=1e-6)


def test_a_chain_of_a_residual_can_be_marked_again():
    tx = optax.chain(residual.recovery(), optax.scale(0.5))
    axes = subspaces.random_jump(), optax.scale_by_adam(), transport.rotate(0.9, 0.999)
    options = dict(rank=3, update_proj_gap=2)
    dense, marked = (
        run(split_by_subspace(*axes, form, **options), jnp.ones(WIDE), 5) for form in (tx, residual.per_column(tx))
    )
    np.testing.assert_allclose(marked[0][4], dense[0][4], atol=1e-5)
    with pytest.raises(ValueError, match="per_column"):
        residual.per_column(residual.error_feedback(0.9))
