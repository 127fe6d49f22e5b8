"""Alice and Alice-0 against a float64 oracle of the paper, except directions that are drawn."""

import functools

import jax
import numpy as np
import pytest

import grass_optax
from tests.oracles.alice import Alice
from tests.oracles.drive import GAP, RANK, close, history, stored, turned
from tests.util import stacked_dimensions

SHAPES = (("stack", (2, 6, 16)), ("tall", (16, 6)))
OPTIONS = dict(rank=RANK, scale=0.3, leading=2, b1=0.8, b2=0.9, eps=1e-6)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("b3", [0.7, None])
def test_alice_follows_its_oracle_and_its_limit_limits(b3):
    tx = grass_optax.scale_by_alice(
        update_proj_gap=GAP, b3=b3, compensation_scale=0.4, weight_dimension_numbers=stacked_dimensions, **OPTIONS
    )
    steps = history(tx, SHAPES)
    make = functools.partial(Alice, compensation=0.4, growth=1.01, b3=b3 or 0.0, **OPTIONS)
    oracles = [make() for _ in turned(steps[0].grads)]
    last = [None] * len(oracles)
    for t, step in enumerate(steps):
        four = zip(oracles, turned(step.grads), turned(step.updates), stored(t, step), strict=True)
        for i, (oracle, grad, update, basis) in enumerate(four):
            if t % GAP == 0:
                close(basis.T @ basis, np.eye(RANK))
                if t > 0:
                    kept = oracle.switched(grad)
                    kept = kept * np.sign(np.sum(kept * basis[:, :2], axis=0))
                    close(basis[:, :2], kept, 1e-8)
                    assert np.abs(basis[:, 2] - last[i][:, 2]).max() > 1e-2  # drawn anew
                last[i] = basis
            else:
                close(basis, last[i])
            close(update, oracle.step(grad, basis), 1e-9)
    assert all(0 < oracle.limit.fired < len(steps) - 1 for oracle in oracles)
