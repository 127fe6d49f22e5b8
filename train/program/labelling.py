"""What a run of an encoder learns: the labels of texts.

Shapes: B texts, T positions, C classes.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from models import Encoder, EncoderConfig
from models.blocks import ANYWHERE, Placement
from train.program.task import Params, drawn, structure


class Texts(NamedTuple):
    """Labelled texts, padded to one length.

    Attributes:
      tokens: (B, T), int32.
      mask: Which tokens are not padding.
      types: The first or the second text of a pair, int32.
      labels: (B,), the number of a class, or a number.
    """

    tokens: Any
    mask: Any
    types: Any
    labels: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelling:
    """Classification, or regression if the network has a single output, of texts by an encoder.

    Attributes:
      network: The network, with a head.
      batch_size, seq_len: B and T.
    """

    network: EncoderConfig
    batch_size: int
    seq_len: int

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[Encoder]:
        """The model without its arrays."""
        return structure(self.network)

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers."""
        return self.network.num_labels == 1

    @property
    def batch(self) -> Texts:
        """Shapes and dtypes of a batch."""
        tokens = jax.ShapeDtypeStruct((self.batch_size, self.seq_len), np.int32)
        mask = jax.ShapeDtypeStruct(tokens.shape, np.bool_)
        labels = jax.ShapeDtypeStruct((self.batch_size,), np.float32 if self.is_regression else np.int32)
        return Texts(tokens, mask, tokens, labels)

    @property
    def tokens(self) -> int:
        """Tokens of a batch, padding included."""
        return self.batch_size * self.seq_len

    def draw(self, seed: int) -> Params:
        """Return the first weights; to be traced."""
        return drawn(self.network, seed)

    def loss(self, params: Params, batch: Texts, place: Placement = ANYWHERE) -> Array:
        """Return the mean cross-entropy, or the mean squared error."""
        logits = self.predict(params, batch, place)
        if self.is_regression:
            return jnp.mean((logits[:, 0] - batch.labels) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    def weight(self, batch: Texts) -> Array:
        """Return the number of texts."""
        return jnp.asarray(len(batch.labels), jnp.float32)

    def predict(self, params: Params, batch: Texts, place: Placement = ANYWHERE) -> Array:
        """Return the logits (B, C), float32; the predictions (B, 1) of a regression."""
        model = nnx.merge(self.graphdef, params)
        types_BT = batch.types if self.network.num_types > 1 else None
        return model.classify(batch.tokens, batch.mask, place, types_BT=types_BT)
