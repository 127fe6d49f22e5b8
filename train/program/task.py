"""What a run learns: a network, its loss on a batch, and what an evaluation reads.

Shapes: B batch, T positions; a row holds T + 1 tokens, of which T are predicted.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from models import Encoder, EncoderConfig, Llama, LlamaConfig
from models.blocks import ANYWHERE, Placement
from models.cross_entropy import HeadGradient, token_losses, weighted_loss
from models.llama import Block, Context, advance

Params = Any  # nested dicts of arrays
Batch = Any  # a tree of arrays with a leading axis B


Network = LlamaConfig | EncoderConfig


def structure(network: Network) -> nnx.GraphDef[Any]:
    """Return a model without its arrays; `nnx.merge` it with parameters to get the model."""
    return nnx.graphdef(nnx.eval_shape(lambda: _model(network, 0)))


def abstract_params(network: Network) -> Params:
    """Return the shapes of the parameters."""
    return jax.eval_shape(lambda: drawn(network, 0))


def drawn(network: Network, seed: int) -> Params:
    """Return the first weights; to be traced."""
    return nnx.to_pure_dict(nnx.state(_model(network, seed), nnx.Param))


def _model(network: Network, seed: int) -> Llama | Encoder:
    rngs = nnx.Rngs(seed)
    return Encoder(network, rngs=rngs) if isinstance(network, EncoderConfig) else Llama(network, rngs=rngs)


class Parts(NamedTuple):
    """A loss in three parts, around a stack of layers.

    Attributes:
      begin: Maps the parameters without `layers`, and a batch, to the input of the first layer and
        what all layers read.
      layer: Maps the parameters of a layer, its input and what all layers read to its output.
      end: Maps the parameters without `layers`, the output of the last layer, and a batch to the
        loss.
      predict: The same, to what an evaluation reads.
    """

    begin: Callable[[Params, Batch], tuple[Array, Any]]
    layer: Callable[[Params, Array, Any], Array]
    end: Callable[[Params, Array, Batch], Array]
    predict: Callable[[Params, Array, Batch], Array]


class Task(Protocol):
    """A network and what is learnt with it."""

    @property
    def batch(self) -> Batch:
        """Shapes and dtypes of a batch."""

    @property
    def batch_size(self) -> int:
        """B."""

    @property
    def seq_len(self) -> int:
        """T."""

    @property
    def tokens(self) -> int:
        """Tokens of a batch, for speeds."""

    @property
    def network(self) -> Network:
        """The network."""

    def draw(self, seed: int) -> Params:
        """Return the first weights; to be traced."""

    def loss(self, params: Params, batch: Batch, place: Placement = ANYWHERE) -> Array:
        """Return the mean loss, float32."""

    def weight(self, batch: Batch) -> Array:
        """Return over how many predictions `loss` is the mean, float32."""

    def predict(self, params: Params, batch: Batch, place: Placement = ANYWHERE) -> Array:
        """Return what an evaluation reads of a batch, with the leading axis B."""


class Rows(NamedTuple):
    """Rows of tokens (B, T + 1), each of one text or of several.

    Attributes:
      tokens: The tokens, int32.
      documents: The number of the document of each token, if rows hold several; see
        `models.llama.Llama`.
      is_target: Which tokens are to be predicted; None for all but the first of a row.
    """

    tokens: Any
    documents: Any = None
    is_target: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """Next-token prediction with a LLaMA.

    Attributes:
      network: The network.
      batch_size, seq_len: B and T.
      is_packed: Rows hold several documents, and not every token is a target.
      chunk: Positions of each row whose logits exist at once; None for all. See
        `models.cross_entropy`.
    """

    network: LlamaConfig
    batch_size: int
    seq_len: int
    is_packed: bool = False
    chunk: int | None = None

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[Llama]:
        """The model without its arrays."""
        return structure(self.network)

    @property
    def batch(self) -> Rows:
        """Shapes and dtypes of a batch."""
        shape = (self.batch_size, self.seq_len + 1)
        tokens = jax.ShapeDtypeStruct(shape, np.int32)
        return Rows(tokens, tokens, jax.ShapeDtypeStruct(shape, np.bool_)) if self.is_packed else Rows(tokens)

    @property
    def tokens(self) -> int:
        """Predicted tokens of a batch, padding included."""
        return self.batch_size * self.seq_len

    def draw(self, seed: int) -> Params:
        """Return the first weights; to be traced."""
        return drawn(self.network, seed)

    def loss(self, params: Params, batch: Rows, place: Placement = ANYWHERE) -> Array:
        """Return the cross-entropy of the targets in nats per token."""
        model = nnx.merge(self.graphdef, params)
        hidden_BTD = model.hidden(batch.tokens[:, :-1], place, documents_BT=_documents(batch))
        return self._loss(model, hidden_BTD, batch, place)

    def parts(self, place: Placement = ANYWHERE, head_gradient: HeadGradient = "by_chunks") -> Parts:
        """Return the loss as what is before the layers, one layer, and what is after them.

        `head_gradient` is how a loss in chunks finds it: see `models.cross_entropy`.
        """
        layers = abstract_params(self.network)["layers"]  # of a model of which only the others are used
        block = nnx.graphdef(nnx.eval_shape(lambda: Block(self.network, rngs=nnx.Rngs(0))))

        def begin(others: Params, batch: Rows) -> tuple[Array, Context]:
            model = nnx.merge(self.graphdef, {**others, "layers": layers})
            return model.begin(batch.tokens[:, :-1], place, documents_BT=_documents(batch))

        def layer(params: Params, x_BTD: Array, context: Context) -> Array:
            return advance(self.network, nnx.merge(block, params), x_BTD, context, place)

        def end(others: Params, x_BTD: Array, batch: Rows) -> Array:
            model = nnx.merge(self.graphdef, {**others, "layers": layers})
            return self._loss(model, model.norm(x_BTD), batch, place, head_gradient)

        def predict(others: Params, x_BTD: Array, batch: Rows) -> Array:
            model = nnx.merge(self.graphdef, {**others, "layers": layers})
            return self._losses(model, model.norm(x_BTD), batch, place)

        return Parts(begin, layer, end, predict)

    def _loss(
        self, model: Llama, hidden_BTD: Array, batch: Rows, place: Placement, head_gradient: HeadGradient = "by_chunks"
    ) -> Array:
        """The loss, from normalised hidden states."""
        targets_BT = batch.tokens[:, 1:]
        if self.chunk is not None:
            weights_BT = jnp.ones(targets_BT.shape) if batch.is_target is None else batch.is_target[:, 1:]
            weights_BT = weights_BT.astype(jnp.float32) / self.weight(batch)
            hidden_BTD = hidden_BTD.astype(self.network.dtype)
            return weighted_loss(
                hidden_BTD,
                model.head,
                targets_BT,
                weights_BT,
                chunk=self.chunk,
                head_gradient=head_gradient,
                place=place,
            )
        logits = model.logits(hidden_BTD, place)
        losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits, targets_BT)
        if batch.is_target is None:
            return losses_BT.mean()
        is_target_BT = batch.is_target[:, 1:].astype(losses_BT.dtype)
        mean: Array = (losses_BT * is_target_BT).sum() / self.weight(batch)
        return mean

    def weight(self, batch: Rows) -> Array:
        """Return the number of targets, at least 1."""
        if batch.is_target is None:
            return jnp.asarray(batch.tokens[:, 1:].size, jnp.float32)
        return batch.is_target[:, 1:].astype(jnp.float32).sum().clip(1)

    def predict(self, params: Params, batch: Rows, place: Placement = ANYWHERE) -> Array:
        """Return the cross-entropy (B, T) of each token given those before it, in float32 nats."""
        model = nnx.merge(self.graphdef, params)
        hidden_BTD = model.hidden(batch.tokens[:, :-1], place, documents_BT=_documents(batch))
        return self._losses(model, hidden_BTD, batch, place)

    def _losses(self, model: Llama, hidden_BTD: Array, batch: Rows, place: Placement) -> Array:
        """The cross-entropies, from normalised hidden states."""
        targets_BT = batch.tokens[:, 1:]
        if self.chunk is not None:
            hidden_BTD = hidden_BTD.astype(self.network.dtype)
            return token_losses(hidden_BTD, model.head, targets_BT, chunk=self.chunk, place=place)
        return optax.softmax_cross_entropy_with_integer_labels(model.logits(hidden_BTD, place), targets_BT)


def _documents(batch: Rows) -> Array | None:
    return None if batch.documents is None else batch.documents[:, :-1]
