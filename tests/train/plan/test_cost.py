"""What a step costs, from its program."""

import dataclasses

import pytest

from tests.train.program.test_backward import NETWORK, SCHEDULE, TASK
from train.config.optimizer_flags import OptimizerFlags
from train.plan.cost import step_operations
from train.program.program import make_program
from train.program.sharding import make_mesh


def operations(task=TASK, weights="float", **flags):
    optimizer = OptimizerFlags(optimizer="grassjump", rank=4, clip=0.0, **flags)
    return step_operations(make_program(make_mesh("", 4), task, optimizer, SCHEDULE, seed=0, weights=weights))


@pytest.mark.long
def test_an_update_in_backward_has_the_operations_of_a_step_that_computes_blocks_again():
    """And one product a layer more, which the compiler drops: the last, whose result nothing
    reads.
    """
    again = dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, remat="block"))
    last = 2 * TASK.tokens * NETWORK.intermediate_size * NETWORK.hidden_size * NETWORK.num_layers
    assert operations(update_in_backward=True) == operations(again) + last
    assert operations(again) > operations()
    assert operations(update_in_backward=True, weights="int8") == operations(update_in_backward=True)
