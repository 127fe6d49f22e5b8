"""Logits in chunks and batches in parts on eight devices: one device's loss and gradients."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from hlo.traffic import collectives
from models import LlamaConfig
from models.blocks import ANYWHERE
from tests import tolerances
from tests.util import long_but
from train.program.micro_batches import accumulated
from train.program.sharding import batch_sharding, make_mesh, param_shardings, placement
from train.program.task import LanguageModel, Rows

VOCABULARY = 1024
NETWORK = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_heads=4, num_layers=2, init_std=0.2
)
TASK = LanguageModel(network=NETWORK, batch_size=16, seq_len=24, is_packed=True)


def batch() -> Rows:
    rng = np.random.default_rng(0)
    shape = (TASK.batch_size, TASK.seq_len + 1)
    documents = np.sort(rng.integers(0, 3, shape), axis=1).astype(np.int32)
    return Rows(rng.integers(0, VOCABULARY, shape).astype(np.int32), documents, rng.random(shape) < 0.7)


@pytest.mark.parametrize(
    ("spec", "is_tied", "parts"),
    long_but(
        [("data=2,fsdp=2,tensor=2", False, 2)],
        itertools.product(("data=2,fsdp=2,tensor=2", "fsdp=8"), (False, True), (1, 2)),
    ),
)
def test_loss_and_gradients_are_those_of_one_device(spec: str, is_tied: bool, parts: int) -> None:
    whole = dataclasses.replace(TASK, network=dataclasses.replace(NETWORK, tied_head=is_tied))
    params = jax.jit(lambda: whole.draw(0))()
    expected = jax.jit(jax.value_and_grad(whole.loss))(params, batch())
    mesh = make_mesh(spec, TASK.batch_size)
    place, shardings = placement(mesh), param_shardings(mesh, params)
    chunked = dataclasses.replace(whole, chunk=8)
    value_and_grad = accumulated(chunked.weight, parts, place) if parts > 1 else jax.value_and_grad
    step = jax.jit(value_and_grad(functools.partial(chunked.loss, place=place)), out_shardings=(None, shardings))
    program = step.lower(jax.device_put(params, shardings), jax.device_put(batch(), batch_sharding(mesh))).compile()
    found = program(jax.device_put(params, shardings), jax.device_put(batch(), batch_sharding(mesh)))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerances.SHARDED32 * float(np.abs(y).max()))


def test_the_head_is_gathered_once_and_its_gradient_is_summed_once() -> None:
    """However many chunks there are: for a chunk (1, 4, 2) of a device, parts of the vocabulary
    exchange numbers of each token and the gradient of its hidden state.
    """
    mesh = make_mesh("data=2,fsdp=2,tensor=2", TASK.batch_size)
    place = placement(mesh)
    task = dataclasses.replace(TASK, chunk=2)
    abstract = jax.eval_shape(lambda: task.draw(0))
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, param_shardings(mesh, abstract)
    )
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), task.batch)
    loss = functools.partial(task.loss, place=place)
    shardings = jax.tree.map(lambda x: x.sharding, params)
    program = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings)).lower(params, rows).compile()
    sent = collectives(str(program.as_text()))
    large = [one for one in sent if any(size >= VOCABULARY // 2 for size in one.shape)]
    assert large
    assert {one.times for one in large} == {1}
    in_chunks = {one.shape for one in sent if one.shape[:3] == (1, 4, 2)}
    assert in_chunks == {(1, 4, 2), (1, 4, 2, 32)}


def test_one_device_has_one_group() -> None:
    assert placement(make_mesh("", 2)).groups == ANYWHERE.groups == 1
