"""How many blocks, and what a number of blocks must divide."""

import jax.numpy as jnp
import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st

import grass_optax
from grass_optax.bases import Blocks, number_of_blocks

SIZES = st.integers(1, 5000)


@given(m=SIZES, rank=SIZES, width=st.integers(1, 200))
def test_blocks_are_of_one_size_and_no_narrower_than_asked(m, rank, width):
    number = number_of_blocks(m, rank, width)
    assert number >= 1
    assert (m % number, rank % number) == (0, 0)
    assert number == 1 or rank // number >= width


@given(m=SIZES, rank=SIZES, width=st.integers(1, 200))
def test_no_larger_number_of_blocks_would_do(m, rank, width):
    number = number_of_blocks(m, rank, width)
    assert not any(m % a == rank % a == 0 and rank // a >= width for a in range(number + 1, min(m, rank) + 1))


@pytest.mark.parametrize(
    ("m", "rank", "number"), [(512, 128, 4), (2048, 512, 16), (127, 31, 1), (509, 256, 1), (96, 64, 2)]
)
def test_the_number_of_blocks_of_some_shapes(m, rank, number):
    assert number_of_blocks(m, rank) == number


def test_a_block_has_its_own_rows_and_columns():
    basis = Blocks(jnp.arange(1.0, 13.0).reshape(2, 3, 2))
    expected = jnp.zeros((6, 4)).at[:3, :2].set(basis.blocks[0]).at[3:, 2:].set(basis.blocks[1])
    assert jnp.array_equal(basis.to_matrix(), expected)


@pytest.mark.parametrize(("shape", "rank"), [((13, 17), 5), ((7, 9), 5), ((11, 16), 7)])
def test_any_shape_and_rank_can_be_split_in_blocks(shape, rank):
    """Primes, and ranks above m/2."""
    tx = grass_optax.scale_by_grassjump(rank, basis="blocks")
    params = {"kernel": jnp.ones(shape)}
    updates, _ = tx.update(params, tx.init(params))
    assert jnp.all(jnp.isfinite(updates["kernel"]))


def test_a_number_of_blocks_that_does_not_divide_is_an_error():
    tx = grass_optax.scale_by_grassjump(4, basis="blocks", blocks=3)
    with pytest.raises(
        ValueError, match="blocks is 3, but a basis of 16 x 4 cannot be cut into 3 blocks.*divisor of 4"
    ):
        tx.init({"kernel": jnp.ones((16, 24))})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("haar", 2), "blocks is 2, but basis 'haar' has none"),
        (("qr",), "basis is 'qr'"),
        (("blocks", 0), "blocks"),
        (("blocks", 1.5), "blocks"),
    ],
)
def test_wrong_kinds_and_blocks_are_errors_when_built(arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first
    with pytest.raises(ValueError, match=message):
        grass_optax.subspaces.random_jump(*arguments)
