"""What the compiler of a TPU makes of the step that updates inside the backward pass."""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import SingleDeviceSharding

import grass_optax
from grass_optax import Clip
from tests.library.backward.models import dimensions
from train.plan.devices import tpu_devices

# A stack has 132 MiB, more than the fast memory of a v5e, into which its compiler copies smaller
# ones.
LAYERS, WIDTH, INNER, ROWS = 12, 1024, 2816, 512
OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "grassjump": grass_optax.grassjump(0.1, rank=128, update_proj_gap=3, weight_dimension_numbers=dimensions),
}
loss = grass_optax.ScannedLoss(
    embed=lambda w, x: (x @ w["in"], None),
    block=lambda layer, x, _: x + jnp.tanh(x @ layer["up"]) @ layer["down"],
    head=lambda w, x, batch: jnp.mean((x @ w["in"].T - batch) ** 2),
)


@pytest.mark.long
@pytest.mark.timeout(900)  # it compiles for minutes
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the compiler of TPUs is not installed: pip install 'jax[tpu]'")
@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in OPTIMIZERS), ("adam", "bfloat16")])
def test_no_stack_is_copied(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a copy, nor by a fusion that returns a stack and writes no slice of one. All that one
    layer has is in the fast memory.
    """
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")  # nothing is run
    (device,) = tpu_devices("v5e:1x1", 1)

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    inner = INNER if dtype == "float32" else 2 * INNER  # the same bytes
    tx, layers = OPTIMIZERS[name], {"up": array(LAYERS, WIDTH, inner), "down": array(LAYERS, inner, WIDTH)}
    params = {"in": array(8, WIDTH), "layers": layers}
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device)),
        (params, jax.eval_shape(tx.init, params), array(ROWS, 8)),
    )
    step = grass_optax.update_in_backward(loss, tx, clip=Clip(max_norm=1.0))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    lines = str(compiled.as_text()).splitlines()
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    of_stacks = [line for line in lines if re.search(rf"= \(?{short}\[{LAYERS},\d\d+,\d\d+\]", line)]
    writes = [line for line in of_stacks if " fusion(" in line]
    assert len(writes) >= 2
    assert all("dynamic-update-slice" in line for line in writes)
    assert not [line for line in of_stacks if re.search(r" copy(-start)?\(", line)]
    layer, saved = 2 * WIDTH * INNER * 4, LAYERS * ROWS * WIDTH * 2  # the saved inputs in bfloat16
    # Weights in float32 are converted once, for all products of the forward and the first backward
    # pass. For one of the two stacks there is room in the fast memory.
    converted = LAYERS * layer / 4 if dtype == "float32" else 0
    assert compiled.memory_analysis().temp_size_in_bytes < converted + saved + layer / 4
