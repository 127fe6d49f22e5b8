"""Stacks that are updated one matrix after the other, on a mesh."""

import math

import pytest

from hlo.traffic import collectives
from tests.mesh.harness import (
    MESHES,
    ODD_LEAVES,
    ODD_RANK,
    RANDOMIZED,
    RANK,
    SHAPES,
    assert_laws,
    assert_near,
    frozen,
    on_a_mesh,
    on_one_device,
)

# Programs with these loops are compiled and read, and one of several loops that send is not run:
# devices of a CPU begin the sums of independent loops each in an order of its own, and may wait for
# each other for ever (docs/guides/sharding.md).
MAPPED = {"map_stacks": True}


def test_a_stack_updated_matrix_by_matrix_sends_one_matrix_at_a_time():
    """What each device has whole for a moment, S^T G and D, is that of one matrix of the stack and
    not of both.
    """
    leaves = (("stack", SHAPES["stack"]),)
    _, _, n = SHAPES["stack"]

    def sent(options):
        """What has the size of an S^T G and more, at every step."""
        program = on_a_mesh("grassjump", frozen(options), "8", leaves, steps=0).program
        found = [one for one in collectives(program) if not one.conditional and math.prod(one.shape) >= RANK * n]
        return {(one.kind, math.prod(one.shape), one.times) for one in found}

    assert sent({}) == {("all-reduce", 2 * RANK * n, 1), ("all-gather", 2 * RANK * n, 1)}
    assert sent(MAPPED) == {("all-reduce", RANK * n, 2), ("all-gather", RANK * n, 2)}


@pytest.mark.long
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["grassjump", "ldadam", "apollo"])
def test_a_stack_updated_matrix_by_matrix_keeps_the_laws(name, mesh):
    assert_laws(name, on_a_mesh(name, frozen(MAPPED), mesh, steps=0))
    assert_laws(
        name, on_a_mesh(name, frozen(MAPPED), mesh, ODD_LEAVES, rank=ODD_RANK, steps=0), dict(ODD_LEAVES), ODD_RANK
    )


@pytest.mark.parametrize("mesh", ["4x2"])
def test_a_stack_updated_matrix_by_matrix_gets_the_same_numbers(mesh):
    """Of one stack whose residual is dropped: nothing is sent but in loops that wait for each
    other's results.
    """
    leaves, options = (("stack", SHAPES["stack"]),), frozen(RANDOMIZED | MAPPED)
    run = on_a_mesh("golore", options, mesh, leaves)
    assert any(one.times == 2 for one in collectives(run.program) if not one.conditional)
    updates, states = on_one_device("golore", options, leaves)
    assert_near(run.updates, updates)
    assert_near(run.states[-1], states[-1])
