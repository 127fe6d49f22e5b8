"""Programs whose kernels are known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax

from hlo.passes import Pass, passes

M, R, N = 32, 8, 64
S, G = jax.ShapeDtypeStruct((M, R), jnp.float32), jax.ShapeDtypeStruct((M, N), jnp.float32)


def found(f: Callable[..., Any], *given: Any) -> list[Pass]:
    return passes(jax.jit(f).lower(*given).compile().as_text())


def test_arithmetic_is_one_pass() -> None:
    (one,) = found(lambda x, y: jnp.tanh(x) * 2 + y, G, G)
    assert (one.read, one.written) == (2 * 4 * M * N, 4 * M * N)


def test_a_product_reads_both_factors_and_writes_its_result() -> None:
    kernels = found(lambda s, g: s.T @ g, S, G)
    assert sum(one.written for one in kernels if "dot_general" in one.source) == 4 * R * N
    assert sum(one.read for one in kernels if "dot_general" in one.source) == 4 * (M * R + M * N)


def test_an_operand_that_is_read_twice_by_a_kernel_is_read_once() -> None:
    (one,) = found(lambda x: x * jnp.exp(x), G)
    assert one.read == 4 * M * N


def test_what_a_refresh_does_is_not_counted() -> None:
    def f(x: Array, due: Array) -> Array:
        return lax.while_loop(lambda carry: carry[0] > 0, lambda carry: (carry[0] - 1, jnp.sin(carry[1])), (due, x))[1]

    kernels = found(f, G, jax.ShapeDtypeStruct((), jnp.int32))
    assert not any("sin" in one.source for one in kernels)


def test_bytes_depend_on_the_type() -> None:
    narrow = jax.ShapeDtypeStruct((M, N), jnp.bfloat16)
    (one,) = found(lambda x: x.astype(jnp.float32) + 1, narrow)
    assert (one.read, one.written) == (2 * M * N, 4 * M * N)


def test_text_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        passes("HloModule")
