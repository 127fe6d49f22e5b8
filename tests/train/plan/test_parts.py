"""What the forward pass leaves for the backward pass, in whole batches, parts and chunks."""

import math

from tests.train.small_run import ROOT
from train.config.changes import changed
from train.config.run import Pretrain, defaults
from train.plan import parts
from train.plan.cost import planned_program
from train.program.program import Program
from train.program.sharding import make_mesh

RUN = changed(defaults(Pretrain(run_dir=ROOT)), {"batch_size": 4, "seq_len": 16})


def program(**flags: object) -> Program:
    run = changed(RUN, flags)
    return planned_program(run, make_mesh("", run.data.batch_size))


def test_a_batch_in_parts_leaves_what_one_part_leaves() -> None:
    half = parts._saved(program(batch_size=2))
    assert parts._saved(program(accumulate=2)) == half
    assert parts._saved(program()) > half


def test_a_loss_in_chunks_leaves_no_logits_and_its_gradient_is_not_counted_twice() -> None:
    whole, chunked = program(logits="whole"), program(logits="chunked")
    (saved, logits), (saved_chunked, none) = parts._saved(whole), parts._saved(chunked)
    assert (logits % (4 * 4 * 16 * 2048), none) == (0, 0)
    assert logits > 0
    head = chunked.state.params["lm_head"]["kernel"]
    assert abs(saved_chunked - saved) < math.prod(head.shape)  # a quarter of its bytes
    found = parts.parts_of(chunked)
    assert found["chunk"] is not None
    assert found["passes"] is not None
    assert found["passes"] > saved_chunked


def test_a_step_that_updates_in_the_backward_pass_leaves_inputs_of_layers() -> None:
    asked = {"update_in_backward": True, "precision": "mixed"}
    network = RUN.model.build()
    one = 4 * 16 * network.hidden_size * 2  # rows, positions, hidden size, bytes
    for keep_every in (1, 2):
        found = parts.parts_of(program(**asked), keep_every)
        saved = network.num_layers // keep_every * one
        assert found == {"saved": saved, "logits": 0, "chunk": None, "passes": None}
