"""An exported encoder as Transformers reads it, compared with the model here."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import Encoder, EncoderConfig
from train.data.tokenizer import unbounded
from train.export.verification import TEXT, check_close, difference
from train.program.labelling import Texts
from train.program.task import Params, structure
from train.storage.model import StoredModel

LENGTHS = (16, 11, 1)  # tokens of the texts, which are padded to the longest
OTHER = 'One of them, the "Sea Lamp", was never seen again!'


def verify_encoder(folder: Path, model: StoredModel, params: Params) -> str:
    """Compare the logits of padded texts, or the hidden states of their tokens if there is no head,
    and the tokens of a text and of a pair; return what was compared.

    Both compute in float32. Texts are random.

    Raises:
      UserError: If they differ.
    """
    network = model.architecture
    assert isinstance(network, EncoderConfig)
    theirs = TheirEncoder(folder, network)
    texts = random_texts(network, model.padding)
    what = "hidden states" if network.num_labels is None else "logits"
    close = check_close(what, _ours(network, params, texts), theirs.outputs(texts))
    tokenizer = unbounded(model.prompt_tokenizer())
    for words in ((TEXT,), (TEXT, OTHER)):
        here, there = tokenizer.encode(*words), theirs.encoded(*words)
        if here.ids != there["input_ids"] or here.type_ids != there.get("token_type_ids", here.type_ids):
            raise difference(
                f"the tokenizer of Transformers encodes {' and '.join(map(repr, words))} as {there}, and the one here "
                f"as {here.ids} of types {here.type_ids}"
            )
    return (
        f"verified with Transformers, in float32: {what} of {len(LENGTHS)} padded texts ({close}), the tokens of a "
        "text and of a pair (equal)"
    )


def random_texts(network: EncoderConfig, padding: int) -> Texts:
    """Return texts of several lengths, which have the token `padding` after their end only."""
    draw = np.random.default_rng(0)
    lengths = np.minimum(LENGTHS, network.max_positions)[:, None]
    mask = np.arange(lengths.max()) < lengths
    tokens = draw.integers(0, network.vocab_size - 1, mask.shape)
    tokens = np.where(mask, tokens + (tokens >= padding), padding)
    types = np.where(mask, draw.integers(0, network.num_types, mask.shape), 0)
    return Texts(tokens, mask, types, None)


class TheirEncoder:
    """The model and the tokenizer that Transformers loads from a folder."""

    def __init__(self, folder: Path, network: EncoderConfig) -> None:
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

        self._torch: Any = torch
        self._has_head = network.num_labels is not None
        if self._has_head:
            model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        else:  # without the pooler, which would be drawn
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        self._model = model.eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def outputs(self, texts: Texts) -> np.ndarray:
        """Return the logits of the texts, or the hidden states of all their tokens."""
        tokens, mask, types = (self._torch.from_numpy(array) for array in texts[:3])
        with self._torch.no_grad():
            result = self._model(input_ids=tokens, attention_mask=mask.long(), token_type_ids=types)
        outputs: np.ndarray = (result.logits if self._has_head else result.last_hidden_state).numpy()
        return outputs if self._has_head else outputs[texts.mask]

    def encoded(self, *words: str) -> dict[str, Any]:
        """Return the tokens of a text, or of a pair, and their types if the model has some."""
        return dict(self._tokenizer(*words, verbose=False))


def _ours(network: EncoderConfig, params: Params, texts: Texts) -> np.ndarray:
    # A GPU would round products of float32 to fewer bits.
    with jax.default_matmul_precision("highest"):
        encoder: Encoder = nnx.merge(structure(network), jax.tree.map(jnp.asarray, params))
        run = Encoder.__call__ if network.num_labels is None else Encoder.classify
        tokens, mask, types = texts.tokens.astype(np.int32), texts.mask, texts.types.astype(np.int32)
        outputs = np.asarray(jax.jit(lambda encoder: run(encoder, tokens, mask, types_BT=types))(encoder))
    return outputs[texts.mask] if network.num_labels is None else outputs
