"""What the models share: rotary positions, attention over a row of texts, layers of one block.

Shape suffixes of local names, here and in the models:
    B batch   T position   S position of a key   V vocabulary   D hidden   F intermediate   L layer
    N heads   K key and value heads              H features of a head      C = H / 2 rotated pairs
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models.config import Remat, RopeScaling

Layer = TypeVar("Layer", bound=nnx.Module)
Kernel = Literal["xla", "cudnn"]  # of attention


class Shared(Protocol):
    """What the blocks read of a configuration."""

    @property
    def dtype(self) -> str:
        """Of matrix products and the residual stream."""

    @property
    def param_dtype(self) -> str:
        """Of the parameters."""

    @property
    def init_std(self) -> float:
        """The standard deviation of the first weights."""


def _anywhere(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Sharding constraints to apply to activations; by default none."""

    embedded: Callable[[Array], Array] = _anywhere  # the embeddings (B, T, D) after the look-up
    stream: Callable[[Array], Array] = _anywhere  # the residual stream (B, T, D) between blocks, and the logits
    heads: Callable[[Array], Array] = _anywhere  # the output of the heads (B, T, N H), and its gradient
    head: Callable[[Array], Array] = _anywhere  # the output head (D, V), for a loss in chunks
    by_group: Callable[[Array], Array] = _anywhere  # arrays whose first axis counts `groups`
    groups: int = 1  # of rows, on devices of their own


ANYWHERE = Placement()


def linear(config: Shared, inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = False) -> nnx.Linear:
    """A product with a kernel (inputs, outputs), in the compute dtype."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        kernel_init=jax.nn.initializers.normal(config.init_std),
        dot_general=_over_rows,
        rngs=rngs,
    )


def _over_rows(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """`jax.lax.dot_general` of rows: the axes of `x` before its last become one, and come back.

    The gradient of the kernel is then a sum over one axis. XLA's CPU backend transposes a whole
    operand to sum over two.
    """
    del dimension_numbers  # of `nnx.Linear`: the last axis of `x`, the first of the kernel
    return jnp.dot(x.reshape(-1, x.shape[-1]), kernel, **options).reshape(*x.shape[:-1], kernel.shape[-1])


def embedding(config: Shared, count: int, features: int, rngs: nnx.Rngs) -> nnx.Embed:
    """A table (count, features)."""
    return nnx.Embed(
        count,
        features,
        param_dtype=jnp.dtype(config.param_dtype),
        embedding_init=jax.nn.initializers.normal(config.init_std),
        rngs=rngs,
    )


def stacked(make: Callable[[nnx.Rngs], Layer], count: int, rngs: nnx.Rngs) -> Layer:
    """Layers of one kind as one module, whose parameters have a leading axis of size `count`."""
    layers: Layer = jax.vmap(lambda key: make(nnx.Rngs(key)))(jax.random.split(rngs.params(), count))
    return layers


def rematerialized(step: Callable[..., Any], policy: Remat) -> Callable[..., Any]:
    """Return the body of a scan over layers that stores what `policy` says for the backward pass.

    "block" stores its input alone and computes the block again. "dots" also stores the products
    with weights, and computes again what is cheap, attention included. "none" stores everything.
    """
    if policy == "none":
        return step
    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    # A scan separates the two passes, so the barrier against merging them is not needed.
    return jax.checkpoint(step, prevent_cse=False, policy=saved)


def within_documents(documents_BT: Array) -> tuple[Array, Array]:
    """Return the position (B, T) of each token in its document, which is a run of one number, and
    which tokens (B, T, S) are of the same document.
    """
    index_BT = jnp.broadcast_to(jnp.arange(documents_BT.shape[1]), documents_BT.shape)
    is_first_BT = jnp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    start_BT = jax.lax.cummax(jnp.where(is_first_BT, index_BT, 0), axis=1)
    return index_BT - start_BT, start_BT[:, :, None] == start_BT[:, None, :]


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    *,
    kernel: Kernel,
    is_causal: bool = False,
    mask_BTS: Array | None = None,
) -> Array:
    """Return the mixed values (B, T, N, H); a query T sees the keys S where the mask is true."""
    mask_B1TS = None if mask_BTS is None else mask_BTS[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=mask_B1TS, is_causal=is_causal, implementation=kernel
    )


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Return theta^(-2c / head_dim) for each pair c, scaled, in float64 (Su et al. 2021)."""
    frequency_C = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return frequency_C
    if scaling.kind == "linear":
        return frequency_C / scaling.factor
    turns_C = frequency_C * scaling.original_positions / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept_C = np.clip((turns_C - low) / (high - low), 0, 1)
    return frequency_C * (kept_C + (1 - kept_C) / scaling.factor)


class Rotation(NamedTuple):
    """The sine and cosine (B, T, C), float32, of each angle; B is 1 if all rows have the same."""

    sin_BTC: Array
    cos_BTC: Array


def rope_tables(positions_BT: Array, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
    """Return the sine and cosine of position * frequency."""
    frequency_C = jnp.asarray(rope_frequencies(head_dim, theta, scaling), jnp.float32)
    angle_BTC = positions_BT.astype(jnp.float32)[..., None] * frequency_C[None, None]
    return Rotation(jnp.sin(angle_BTC), jnp.cos(angle_BTC))


def rotate(x_BTNH: Array, rotation: Rotation) -> Array:
    """Rotate each pair (x[c], x[c + H/2]) by its angle; returns the same shape, in float32."""
    sin_BT1C, cos_BT1C = (table_BTC[:, :, None] for table_BTC in rotation)
    a_BTNC, b_BTNC = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = (a_BTNC * cos_BT1C - b_BTNC * sin_BT1C, b_BTNC * cos_BT1C + a_BTNC * sin_BT1C)
    return jnp.concatenate(rotated, axis=-1)
