"""The gradient of the head as the compiler of a TPU plans it; nothing is run."""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from models.cross_entropy import Head, weighted_loss
from train.plan.devices import tpu_devices

B, T, D, V = 8, 256, 4096, 32000  # LLaMA-7B's head is larger than the fast memory, 128 MiB


@pytest.mark.long
@pytest.mark.skipif(find_spec("libtpu") is None, reason="the compiler of TPUs is not installed: pip install 'jax[tpu]'")
@pytest.mark.parametrize("axes", ["DV", "VD"])
def test_by_slices_nothing_of_the_size_of_the_head_is_temporary(axes, monkeypatch):
    """By chunks its gradient is, in float32."""
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    (device,) = tpu_devices("v5e:1x1", 1)

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    def compiled(head_gradient):
        def loss(hidden, head, targets, weights):
            return weighted_loss(hidden, Head(head, axes), targets, weights, chunk=128, head_gradient=head_gradient)

        head = array((D, V) if axes == "DV" else (V, D), jnp.bfloat16)
        arguments = array((B, T, D), jnp.bfloat16), head, array((B, T), jnp.int32), array((B, T), jnp.float32)
        return jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()

    by_chunks, by_slices = (compiled(form) for form in ("by_chunks", "by_slices"))
    assert by_chunks.memory_analysis().temp_size_in_bytes > 4 * D * V
    assert by_slices.memory_analysis().temp_size_in_bytes < D * V / 2
    assert not re.search(rf"= bf16\[({D},{V}|{V},{D})\]\S* (copy|transpose)\(", str(by_slices.as_text()))
