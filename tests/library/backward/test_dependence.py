"""Which inputs each output depends on, through everything that a program can call."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from grass_optax._backward.dependence import dependences

X = jax.ShapeDtypeStruct((3,), jnp.float32)


def read(f, count=3):
    return [set(inputs) for inputs in dependences(f, *[X] * count)]


def test_an_operation_depends_on_what_it_reads():
    assert read(lambda a, b, c: (a + 1, a * b, jnp.zeros(3), c)) == [{0}, {0, 1}, set(), {2}]


def test_a_jitted_function_is_looked_into():
    assert read(jax.jit(lambda a, b, c: (a * b, c))) == [{0, 1}, {2}]


def test_a_checkpointed_function_is_looked_into():
    assert read(lambda a, b, c: jax.checkpoint(lambda a, b: (jnp.sin(a), b * 2))(a, b) + (c,)) == [{0}, {1}, {2}]


def test_a_conditional_depends_on_what_decides_it():
    def f(a, b, c):
        return lax.cond(a[0] > 0, lambda: (b, c), lambda: (b + 1, b))

    assert read(f) == [{0, 1}, {0, 1, 2}]


def test_a_scan_hands_on_what_its_carry_read_before():
    """The third of the carry reads the first only after two turns."""

    def f(a, b, c):
        def turn(carry, x):
            a, b, c = carry
            return (a, a + b, b + c), x * 2

        (a, b, c), out = lax.scan(turn, (a, b, c), jnp.ones((4, 3)))
        return a, b, c, out

    assert read(f) == [{0}, {0, 1}, {0, 1, 2}, set()]


def test_a_scan_depends_on_its_constants_and_slices():
    def f(a, b, c):
        carry, out = lax.scan(lambda x, y: (x + c[0], y * 2), a[0], b)
        return carry, out

    assert read(f) == [{0, 2}, {1}]


def test_constants_of_a_scan_are_not_its_carry():
    """Of those that are read, the carry has none: a slip in their order would give it one."""

    def f(a, b, c):
        return lax.scan(lambda x, y: (x + 1, y * c[0]), a[0], b)

    assert read(f) == [{0}, {1, 2}]


def test_a_loop_depends_on_its_condition():
    def f(a, b, c):
        return lax.while_loop(lambda s: s[0][0] < c[0], lambda s: (s[0] + 1, s[1] * 2), (a, b))

    assert read(f) == [{0, 2}, {0, 1, 2}]


def test_what_is_not_understood_depends_on_everything():
    def f(a, b, c):
        return jax.pure_callback(lambda a, b: (a, b), (X, X), a, b) + (c,)

    assert read(f) == [{0, 1}, {0, 1}, {2}]


@pytest.mark.parametrize("call", [jax.custom_jvp, jax.custom_vjp])
def test_a_function_with_a_derivative_of_its_own_is_looked_into(call):
    @call
    def own(a, b):
        return a + 1, a * b

    if call is jax.custom_jvp:
        own.defjvp(lambda primals, tangents: (own(*primals), own(*tangents)))
    else:
        own.defvjp(lambda a, b: (own(a, b), None), lambda _, cotangents: cotangents)
    assert read(lambda a, b, c: own(a, b)) == [{0}, {0, 1}]
