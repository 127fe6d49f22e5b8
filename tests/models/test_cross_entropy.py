"""The loss in chunks: the plain loss and its gradients, from logits that are never whole."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cross_entropy import Head, token_losses, weighted_loss

B, T, D, V = 3, 10, 7, 23
ORACLE64 = 1e-12  # hundreds of roundings of 1e-16
ROUNDED32 = 2e-6  # roundings of 6e-8 in sums over D and V, relative to the largest entry


def case(axes, dtype, size=V):
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (D, size) if axes == "DV" else (size, D)
    hidden = jax.random.normal(keys[0], (B, T, D), dtype)
    head = jax.random.normal(keys[1], shape, dtype)
    targets = jax.random.randint(keys[2], (B, T), 0, size)
    weights = jnp.where(jnp.arange(T)[None] > 1, jax.random.uniform(keys[3], (B, T), dtype), 0)  # masked, and more
    return hidden, head, targets, weights


def oracle(hidden, head, targets, weights, axes):
    """Loss and gradients in float64, by the formula, in NumPy."""
    x, w, a = (np.asarray(each, np.float64) for each in (hidden, head if axes == "DV" else head.T, weights))
    logits = x @ w
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    one_hot = np.eye(w.shape[1])[np.asarray(targets)]
    losses = -np.log((p * one_hot).sum(-1))
    d = a[..., None] * (p - one_hot)
    d_head = np.einsum("btd,btv->dv", x, d)
    return losses, (a * losses).sum(), (d @ w.T, d_head if axes == "DV" else d_head.T, losses)


def assert_near(actual, expected, tolerance):
    assert np.abs(np.asarray(actual) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("head_gradient", ["by_chunks", "by_slices"])
@pytest.mark.parametrize(
    ("axes", "chunk", "dtype", "tolerance"),
    [
        ("DV", 4, "float64", ORACLE64),  # the last chunk is not full
        ("VD", 5, "float64", ORACLE64),
        ("DV", 99, "float32", ROUNDED32),  # one chunk, longer than the rows
        ("VD", 1, "float32", ROUNDED32),
    ],
)
def test_loss_and_gradients_are_those_of_the_formula(axes, chunk, dtype, tolerance, head_gradient):
    with jax.enable_x64(dtype == "float64"):
        hidden, head, targets, weights = case(axes, dtype)
        losses, total, gradients = oracle(hidden, head, targets, weights, axes)

        def loss(hidden, head, weights):
            return 3 * weighted_loss(
                hidden, Head(head, axes), targets, weights, chunk=chunk, head_gradient=head_gradient
            )

        value, found = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(hidden, head, weights)
        assert_near(value, 3 * total, tolerance)
        for actual, expected in zip(found, gradients, strict=True):
            assert actual.dtype == dtype
            assert_near(actual, 3 * expected, tolerance)
        assert_near(loss(hidden, head, weights), 3 * total, tolerance)
        assert_near(token_losses(hidden, Head(head, axes), targets, chunk=chunk), losses, tolerance)


@pytest.mark.parametrize(("size", "slices"), [(5, 5), (24, 8), (1030, 5), (2048, 8)])
def test_slices_of_any_vocabulary(size, slices):
    """Uneven ones overlap, and wide ones are of 128 tokens, or a multiple."""
    with jax.enable_x64(True):
        hidden, head, targets, weights = case("DV", "float64", size)
        _, _, gradients = oracle(hidden, head, targets, weights, "DV")

        def loss(hidden, head, weights):
            return weighted_loss(hidden, Head(head), targets, weights, chunk=4, head_gradient="by_slices")

        gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
        for actual, expected in zip(gradient(hidden, head, weights), gradients, strict=True):
            assert_near(actual, expected, ORACLE64)
        assert f"length={slices}" in str(jax.make_jaxpr(gradient)(hidden, head, weights))


@pytest.mark.parametrize("head_gradient", ["by_chunks", "by_slices"])
def test_products_of_bfloat16_accumulate_in_float32(head_gradient):
    """Losses and sums have the roundings of the factors alone; gradients have their types."""
    hidden, head, targets, weights = case("DV", "bfloat16")
    weights = weights.astype(jnp.float32)
    losses, total, (d_hidden, d_head, _) = oracle(hidden, head, targets, weights, "DV")
    assert_near(token_losses(hidden, Head(head), targets, chunk=4), losses, ROUNDED32)
    wide = head.astype(jnp.float32)

    def loss(x, w):
        return weighted_loss(x, Head(w), targets, weights, chunk=4, head_gradient=head_gradient)

    value, found = jax.value_and_grad(loss, (0, 1))(hidden, wide)
    assert_near(value, total, ROUNDED32)
    assert [x.dtype for x in found] == ["bfloat16", "float32"]
    # The derivatives of the logits are rounded to 8 bits, and d_hidden once more.
    assert_near(found[0].astype(jnp.float32), d_hidden, 2**-7)
    assert_near(found[1], d_head, 2**-8)


@pytest.mark.parametrize("head_gradient", ["by_chunks", "by_slices"])
def test_logits_are_never_whole(head_gradient):
    """Neither in the loss nor in its gradient; in the plain loss they are."""
    rows, length, size = 4, 64, 512
    x, w = jnp.ones((rows, length, D)), jnp.ones((D, size))
    targets, weights = jnp.zeros((rows, length), jnp.int32), jnp.ones((rows, length))

    def plain(x, w):
        log_p = jax.nn.log_softmax(x @ w)
        return -jnp.sum(weights * jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0])

    def temporaries(loss):
        return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, w).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * rows * length * size
    chunked = temporaries(
        lambda x, w: weighted_loss(x, Head(w), targets, weights, chunk=4, head_gradient=head_gradient)
    )
    assert temporaries(plain) >= logits
    assert chunked <= logits / 3  # a sixteenth for each array of a chunk, and the rest


def test_the_gradient_of_the_head_is_not_kept_in_float32():
    """Of narrow weights a compiler would keep the sum until it is read."""
    hidden, head, targets, weights = case("DV", "bfloat16")

    def loss(head):
        return weighted_loss(hidden, Head(head), targets, weights, chunk=4)

    program = jax.jit(jax.grad(loss)).lower(head).as_text()
    assert re.findall(r"stablehlo.optimization_barrier %\w+ : (.*)", program) == [f"tensor<{D}x{V}xbf16>"]


@pytest.mark.parametrize(("head_gradient", "is_whole"), [("by_chunks", True), ("by_slices", False)])
@pytest.mark.parametrize("axes", ["DV", "VD"])
def test_by_slices_the_gradient_of_the_head_is_never_whole_in_float32(axes, head_gradient, is_whole):
    hidden, head, targets, weights = case(axes, "bfloat16")

    def loss(head):
        return weighted_loss(hidden, Head(head, axes), targets, weights, chunk=4, head_gradient=head_gradient)

    program = jax.jit(jax.grad(loss)).lower(head).as_text()
    assert bool(re.search("tensor<(1x)?{}x{}xf32>".format(*head.shape), program)) == is_whole
