"""Small programs whose collectives are known by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from hlo.traffic import Sent, collectives, total_bytes

X = jax.ShapeDtypeStruct((8, 16), jnp.float32)
ROWS = P("x", "y")


def sent(body: Callable[..., Any], *given: Any, out_specs: Any = ROWS, axes: tuple[int, int] = (8, 1)) -> list[Sent]:
    """What `body` sends, one row of the first argument on each device (on each of four pairs, for
    axes of 4 and 2).
    """
    mesh = jax.make_mesh(axes, ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    specs = (ROWS, *(P() for _ in given))
    mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return collectives(jax.jit(mapped).lower(X, *given).compile().as_text())


def summed(x: Array) -> Array:
    return lax.psum(x, "x") * 0.5


def test_a_sum_is_one_all_reduce() -> None:
    assert sent(summed) == [Sent("all-reduce", "f32", (1, 16), 8, False, 1, 2 * 7 * 64 // 8)]


def test_a_sum_over_one_of_two_axes_is_over_its_devices() -> None:
    (one,) = sent(summed, axes=(4, 2))
    assert (one.shape, one.group_size, one.bytes) == ((2, 8), 4, 2 * 3 * 64 // 4)


def test_a_scan_multiplies_and_scans_in_scans_do_too() -> None:
    def twice(x: Array, _: None) -> tuple[Array, None]:
        return lax.scan(lambda y, _: (summed(y), None), x, length=3)[0] + lax.all_gather(x, "x").sum(0), None

    found = sent(lambda x: lax.scan(twice, x, length=5)[0])
    assert {(one.kind, one.times, one.conditional) for one in found} == {
        ("all-reduce", 15, False),
        ("all-gather", 5, False),
    }
    assert total_bytes(found) == 15 * 2 * 7 * 64 // 8 + 5 * 7 * (8 * 64) // 8


def test_a_loop_of_unknown_turns_is_a_refresh() -> None:
    """One turn of it, with all of a scan inside; what stands after it is of every step."""

    def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        due, x = carry
        return due - 1, lax.scan(lambda y, _: (summed(y), None), x, length=3)[0]

    def body(x: Array, due: Array) -> Array:
        x = lax.while_loop(lambda carry: carry[0] > 0, turn, (due, x))[1]
        return lax.all_gather(x, "x").sum(0)

    found = sent(body, jax.ShapeDtypeStruct((), jnp.int32))
    assert {(one.kind, one.times, one.conditional) for one in found} == {
        ("all-reduce", 3, True),
        ("all-gather", 1, False),
    }
    assert total_bytes(found, conditional=True) == 3 * 2 * 7 * 64 // 8


def test_what_the_condition_of_a_loop_sends_is_of_every_step() -> None:
    def body(x: Array) -> Array:
        return lax.while_loop(lambda y: lax.psum(y.sum(), "x") < 1, lambda y: y + lax.ppermute(y, "x", [(0, 1)]), x)

    assert {(one.kind, one.conditional) for one in sent(body)} == {("all-reduce", False), ("collective-permute", True)}


def test_both_branches_of_a_conditional_are_a_refresh() -> None:
    def body(x: Array, due: Array) -> Array:
        return lax.cond(due > 0, summed, lambda y: lax.all_gather(y, "x").sum(0), x)

    found = sent(body, jax.ShapeDtypeStruct((), jnp.int32))
    assert {(one.kind, one.times, one.conditional) for one in found} == {
        ("all-reduce", 1, True),
        ("all-gather", 1, True),
    }
    assert total_bytes(found) == 0


@pytest.mark.parametrize(
    ("body", "kind", "shape", "group", "size"),
    [
        (lambda x: lax.all_gather(x, "x"), "all-gather", (8, 1, 16), 8, 7 * 64),
        (lambda x: lax.psum_scatter(x, "x", scatter_dimension=1, tiled=True), "reduce-scatter", (1, 2), 8, 7 * 8),
        (lambda x: lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]), "collective-permute", (1, 16), 2, 64),
    ],
)
def test_each_kind_of_collective_is_read_with_its_bytes(
    body: Callable[[Array], Array], kind: str, shape: tuple[int, ...], group: int, size: int
) -> None:
    assert sent(body, out_specs=P("x")) == [Sent(kind, "f32", shape, group, False, 1, size)]


def test_an_exchange_sends_all_but_what_a_device_keeps() -> None:
    found = sent(lambda x: lax.all_to_all(x, "x", 1, 0, tiled=True), out_specs=P("x"))
    assert {one.kind for one in found} == {"all-to-all"}
    assert total_bytes(found) == 7 * 8


def test_one_sum_of_several_arrays_is_counted_array_by_array() -> None:
    def body(x: Array) -> tuple[Array, Array]:
        return lax.psum((x, x[0, :4].astype(jnp.int16)), "x")

    found = sent(body, out_specs=P())
    assert {(one.dtype, one.shape, one.bytes) for one in found} == {("f32", (1, 16), 112), ("s16", (4,), 14)}
