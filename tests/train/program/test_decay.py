"""Weight decay means one thing: the learning rate times it, times the weight, whatever the
optimizer and its scale. By hand, in float64.
"""

from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.util import long_but
from train.config.optimizer_flags import Decay, OptimizerFlags
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.run import UserError
from train.config.schedule import ScheduleFlags
from train.program.optimizer import make_optimizer, make_schedule

SCHEDULE = ScheduleFlags(steps=20, warmup=4)
RATE, DECAY, SCALE = 0.01, 0.3, 0.25
KERNEL = "layers/up/kernel"
SHAPES = {
    "embed/embedding": (11, 8),
    "layers/narrow/kernel": (2, 8, 2),  # no subspace of rank 2: Adam
    KERNEL: (2, 8, 12),
    "layers/norm/scale": (2, 8),
    "lm_head/kernel": (8, 11),
}
MATRICES = {"layers/narrow/kernel", KERNEL}
EXACT = 1e-12


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def random_tree(seed: int) -> Any:
    draw, tree = np.random.default_rng(seed), {}
    for path, shape in SHAPES.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = jnp.asarray(draw.normal(size=shape))
    return tree


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def updates(name: OptimizerName, params: Any, count: int = 1, **flags: Any) -> list[dict[str, np.ndarray]]:
    """The first updates, all of the same parameters."""
    row = OPTIMIZERS[name]
    settings = {"rank": 2, "scale": SCALE if row.has_scale else row.scale, "clip": 0.0, "learning_rate": RATE} | flags
    tx = make_optimizer(OptimizerFlags(optimizer=name, update_proj_gap=7, **settings), SCHEDULE, seed=0)
    state, found = tx.init(params), []
    for step in range(count):
        update, state = tx.update(random_tree(step + 1), state, params)
        found.append(flat(update))
    return found


@pytest.mark.parametrize("decay", get_args(Decay))
@pytest.mark.parametrize("name", long_but(["adamw"], ["adamw", "muon", "grassjump", "column_sgd", "badam"]))
def test_decay_takes_rate_times_decay_off_a_weight(name: OptimizerName, decay: Decay) -> None:
    params, schedule = random_tree(0), make_schedule(RATE, SCHEDULE)
    plain = updates(name, params, 3)
    decayed = updates(name, params, 3, weight_decay=DECAY, decay=decay)
    for step, (with_decay, without) in enumerate(zip(decayed, plain, strict=True)):
        for path, weight in flat(params).items():
            decays = decay == "all" or path in MATRICES
            # badam updates, and decays, one layer at a time.
            active = without[path] != 0 if name == "badam" else np.ones_like(weight)
            expected = without[path] - decays * active * float(schedule(step)) * DECAY * weight
            np.testing.assert_allclose(with_decay[path], expected, rtol=EXACT, atol=EXACT, err_msg=path)


@pytest.mark.parametrize("adam_rate", [None, 0.04])
def test_an_update_of_adamw_is_that_of_its_formula(adam_rate: float | None) -> None:
    params, grads = flat(random_tree(0)), [flat(random_tree(step + 1)) for step in range(2)]
    found = updates("adamw", random_tree(0), 2, weight_decay=DECAY, decay="all", adam_learning_rate=adam_rate)
    for path, weight in params.items():
        is_matrix = path in MATRICES
        schedule = make_schedule(RATE if is_matrix else adam_rate or RATE, SCHEDULE)
        mu, nu = np.zeros_like(weight), np.zeros_like(weight)
        for step in range(2):
            grad = grads[step][path]
            mu, nu = 0.9 * mu + 0.1 * grad, 0.999 * nu + 0.001 * grad**2
            direction = mu / (1 - 0.9 ** (step + 1)) / (np.sqrt(nu / (1 - 0.999 ** (step + 1))) + 1e-8)
            direction *= SCALE if is_matrix else 1
            expected = -float(schedule(step)) * (direction + DECAY * weight)
            np.testing.assert_allclose(found[step][path], expected, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("decay", long_but(["matrices"], get_args(Decay)))
def test_the_factors_of_lora_decay_and_its_head_with_all_parameters(decay: Decay) -> None:
    """In the first update B is 0, so that only B has a gradient, and only A decays."""
    params = random_tree(0) | {"head": {"kernel": jnp.ones((8, 3))}}
    grads = random_tree(1) | {"head": {"kernel": jnp.ones((8, 3))}}
    flags = OptimizerFlags(
        optimizer="lora", rank=2, scale=2.0, clip=0.0, learning_rate=RATE, weight_decay=DECAY, decay=decay
    )
    tx = make_optimizer(flags, SCHEDULE, seed=0)
    state = tx.init(params)
    a = optax.tree_utils.tree_get(state, "LoraState").factors["layers"]["up"]["kernel"].a
    found, rate = flat(tx.update(grads, state, params)[0]), float(make_schedule(RATE, SCHEDULE)(0))
    a = np.asarray(a, np.float64)
    grad_b = 2.0 * np.swapaxes(a, 1, 2) @ np.asarray(grads["layers"]["up"]["kernel"])
    new_b = -rate * grad_b / (np.abs(grad_b) + 1e-8)
    np.testing.assert_allclose(found[KERNEL], 2.0 * (1 - rate * DECAY) * a @ new_b, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(found["head/kernel"], -rate * (1 + (DECAY if decay == "all" else 0)), rtol=1e-6)
    assert not np.any(found["embed/embedding"])


def test_lora_refuses_to_train_nothing() -> None:
    tx = make_optimizer(OptimizerFlags(optimizer="lora", rank=2), SCHEDULE, seed=0)
    with pytest.raises(UserError, match="lora trains kernels and a new head, of which --freeze leaves none"):
        tx.init({"embed": random_tree(0)["embed"]})
