"""What the compiled program of every method has and has not."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers

from tests.util import (
    LEAVES,
    METHODS,
    SPLIT,
    compiled_method,
    long_but,
    make,
    of_each_kind,
)  # fmt: skip


def matrix_axes(params):
    return jax.tree.map(lambda x: MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)


def entry_of(program):
    """The computation of every step, without those that it calls."""
    return program[program.index("\nENTRY ") :]


def hlo(name, options):
    if not options:
        return compiled_method(name)[1].as_text()
    tx = make(name, **options)
    return jax.jit(tx.update).lower(LEAVES, jax.eval_shape(tx.init, LEAVES)).compile().as_text()


@pytest.mark.parametrize(
    ("name", "options"),
    long_but(
        [
            *((name, {}) for name in ("grassjump", "grasswalk", "apollo", "ldadam")),
            ("grassjump", {"store_basis": False}),
            ("galore", {"svd": "randomized"}),
        ],
        [
            *((name, {}) for name in SPLIT if not METHODS[name].has_svd),
            ("grassjump", {"store_basis": False}),
            ("grassjump", {"basis": "gaussian"}),
            ("galore", {"svd": "randomized"}),
            ("fira", {"svd": "randomized"}),
            ("frugal", {"projection": "random"}),
        ],
    ),
)
def test_a_step_between_refreshes_is_products_alone(name, options):
    """One decision for the whole tree, a loop of one turn or none, with one conditional in its
    body; no factorisation and no callback, which would be custom calls. Where no basis is stored
    the conditional goes too.

    Other loops of every step can only be draws, of APOLLO's projections and of bases that are not
    stored (FRUGAL's are not), and SUMO's Newton-Schulz iteration: nothing of a refresh is taken out
    of its loop. A fixed basis has no refresh.
    """
    program, is_fixed = hlo(name, options), name in ("foam", "gwt")
    assert "custom-call" not in program
    drawn = (name in ("apollo", "apollo_mini", "frugal") and not options) or "store_basis" in options
    assert program.count(" conditional(") == (0 if drawn or is_fixed else 1)
    assert " conditional(" not in entry_of(program)
    if is_fixed:
        assert " while(" not in program
    elif name not in ("apollo", "apollo_mini", "frugal", "sumo") and "store_basis" not in options:
        assert entry_of(program).count(" while(") == 1


def test_a_factorisation_is_inside_the_refresh():
    """GaLore's exact SVD shows in the program as what the test above looks for, and only within the
    loop.
    """
    program = hlo("galore", {})
    assert "custom-call" in program
    assert "custom-call" not in entry_of(program)


# The emitters that tests/conftest.py switches off, where there are others.
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else None


@of_each_kind(("grassjump", "fira"), ["grassjump", "grasswalk", "fira"])
def test_a_step_without_a_refresh_copies_no_state(name):
    """Bases and moments of a donated state are updated where they are; a conditional in the same
    place copies them.
    """
    params = {"wide": jnp.ones((4, 8)), "tall": jnp.ones((16, 4)), "stack": jnp.ones((2, 4, 8))}
    tx = make(name, 2, 5, weight_dimension_numbers=matrix_axes)
    step = jax.jit(tx.update, donate_argnums=1).lower(params, jax.eval_shape(tx.init, params)).compile(AS_USERS_DO)
    copied = re.findall(r"= f32\[([\d,]+)\]\S* copy\(", entry_of(step.as_text()))
    assert not {shape for shape in copied if shape.count(",")} - {"1,8", "1,16", "2,1,8"}  # rows of norms may be

    @functools.partial(jax.jit, donate_argnums=0)
    def by_conditional(state, due):
        return jax.lax.cond(due, lambda s: jax.tree.map(lambda x: 2 * x[::-1], s), lambda s: s, state)

    state = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))}
    assert " copy(" in by_conditional.lower(state, True).compile().as_text()


def top_level(jaxpr):
    """The equations of every step: not those of the branches of a refresh, but through calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            continue
        inner = [p for p in equation.params.values() if hasattr(p, "jaxpr") or hasattr(p, "eqns")]
        if inner:
            for sub in inner:
                yield from top_level(getattr(sub, "jaxpr", sub))
        else:
            yield equation


def costs(name, m=7, n=19, rank=2, **options):
    """How many products with a dimension n a step has, and how many other operations on arrays (m,
    n).
    """
    grad = jnp.ones((m, n))
    tx = make(name, rank, 5, weight_dimension_numbers=MuonDimensionNumbers(0, 1), **options)
    jaxpr = jax.make_jaxpr(tx.update)(grad, jax.eval_shape(tx.init, grad)).jaxpr
    equations = list(top_level(jaxpr))
    products = [e for e in equations if e.primitive.name == "dot_general"]
    large = [e for e in products if n in (*e.invars[0].aval.shape, *e.invars[1].aval.shape)]
    idle = (
        "dot_general",
        "transpose",
        "reshape",
        "convert_element_type",
        "copy",
        "copy_p",
        "broadcast_in_dim",
        "stop_gradient",
    )
    return len(large), sum(
        e.primitive.name not in idle and any(getattr(v.aval, "shape", ()) == (m, n) for v in (*e.invars, *e.outvars))
        for e in equations
    )


@pytest.mark.parametrize(
    ("name", "options", "products", "passes"),
    [
        ("galore", {}, 2, 0),  # project and lift: nothing measures or scales the gradient
        ("golore", {}, 2, 0),
        ("subtrack_grad", {}, 2, 0),
        ("sumo", {"orthogonalization": "newton_schulz"}, 2 + 5 * 2, 0),  # and the Gram matrix and product of five steps
        ("apollo", {}, 1, 3),  # no lift: project, square and sum for the norms, scale
        ("apollo_mini", {}, 1, 3),
        ("grassjump", {}, 2, 4),  # square and sum for the norms, scale and add
        ("ldadam", {"feedback": False}, 2, None),
        ("foam", {}, 0, None),  # sums and copies
        ("gwt", {}, 0, None),
    ],
)
def test_a_method_pays_for_nothing_it_does_not_use(name, options, products, passes):
    """Counted in the traced program; what XLA makes of it below."""
    found = costs(name, **options)
    assert found[0] == products
    if passes is not None:
        assert found[1] == passes


@pytest.mark.parametrize("name", ["apollo", "apollo_mini"])
def test_nothing_is_lifted_in_the_compiled_program(name):
    """One product per leaf, the projection, in all of it; where there is a lift there are more."""
    assert hlo(name, {}).count(" dot(") == 3  # wide, head, stack
    assert hlo("galore", {}).count(" dot(") > 3


def test_columns_are_gathered_and_not_multiplied():
    assert hlo("frugal", {}).count(" dot(") == 0


@pytest.mark.parametrize("name", ["grassjump", "fira", "apollo", "galore"])
def test_residual_is_never_written_out(name):
    """Beside the update itself, no buffer of the size of the gradient is alive at once."""
    params = jnp.ones((256, 2048))
    tx = make(name, 8, 100, weight_dimension_numbers=MuonDimensionNumbers(0, 1))
    compiled = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params)).compile()
    if METHODS[name].has_svd:  # its refresh needs the singular vectors; what counts is every other step
        tops = top_level(jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params)).jaxpr)
        assert not any(e.primitive.name == "sub" and e.outvars[0].aval.shape == params.shape for e in tops)
    else:
        assert compiled.memory_analysis().temp_size_in_bytes < params.size * 4


@pytest.mark.parametrize("name", ["grassjump", "apollo"])
def test_leaves_of_one_shape_share_what_is_traced(name):
    """One leaf more adds its products and its moments, some 80 operations, and calls of what
    another leaf of its shape has traced; written out, it would add 150 to 200.
    """

    def operations(leaves):
        params = {f"w{i}": jnp.ones((16, 24)) for i in range(leaves)}
        tx = make(name, 4, 100)
        program = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params)).as_text()
        return len(re.findall(r"^ +(?:%\S+ = |return )", program, re.MULTILINE))

    assert operations(6) - operations(2) < 4 * 100
