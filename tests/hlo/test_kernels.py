"""Programs whose kernels are known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax

from hlo.kernels import Kernel, all_kernels, regular_kernels

M, R, N = 32, 8, 64
S, G = jax.ShapeDtypeStruct((M, R), jnp.float32), jax.ShapeDtypeStruct((M, N), jnp.float32)


def found(f: Callable[..., Any], *given: Any) -> list[Kernel]:
    return regular_kernels(jax.jit(f).lower(*given).compile().as_text())


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

    due = jax.ShapeDtypeStruct((), jnp.int32)
    program = jax.jit(f).lower(G, due).compile().as_text()
    assert any("sin" in kernel.source for kernel in all_kernels(program))
    assert not any("sin" in kernel.source for kernel in regular_kernels(program))


def test_bytes_depend_on_the_type() -> None:
    narrow = jax.ShapeDtypeStruct((M, N), jnp.bfloat16)
    (one,) = found(lambda x: x.astype(jnp.float32) + 1, narrow)
    assert (one.read, one.written) == (2 * M * N, 4 * M * N)


def test_kernels_of_a_loop_are_among_all() -> None:
    program = """HloModule step
%body {
  %x = f32[4]{0} parameter(0)
  ROOT %y = f32[4]{0} negate(%x)
}
ENTRY %main {
  %a = f32[8,512]{1,0} parameter(0)
  %b = bf16[8]{0} parameter(1)
  %w = f32[4]{0} while(%b), condition=%c, body=%body
  ROOT %c.1 = (f32[8]{0}, pred[3]{0}) fusion(%a, %b), kind=kLoop, metadata={op_name="jit(step)/add" id=1}
}
"""
    fusion = Kernel("c.1", "fusion", "jit(step)/add", 8 * 512 * 4 + 8 * 2, 8 * 4 + 3)
    assert regular_kernels(program) == [fusion]
    assert all_kernels(program) == [Kernel("y", "negate", "", 16, 16), fusion]


def test_text_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        regular_kernels("HloModule")
