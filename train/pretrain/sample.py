"""A sample of what a model writes."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from tokenizers import Tokenizer

from models import Llama
from models.generation import generate
from train.config.run import Pretrain
from train.data.tokenizer import END_OF_TEXT

TEMPERATURE, TOP_K = 0.8, 50  # a little sharper than the model, and without its tail


def write_sample(model: Llama, tokenizer: Tokenizer, config: Pretrain) -> str:
    """Return the prompt and what the model goes on with; all processes have to ask."""
    prompt, length = config.report.sample_prompt, config.report.sample_tokens
    if not length:
        return prompt
    # A document begins where another ends, so the end of text also stands for a beginning.
    begun = [tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(prompt).ids]
    tokens = generate(
        model,
        np.asarray([begun], np.int32),
        length,
        jax.random.key(config.data.seed),
        window=config.data.seq_len,
        temperature=TEMPERATURE,
        top_k=TOP_K,
    )
    (row,) = multihost_utils.process_allgather(tokens, tiled=True)
    text: str = tokenizer.decode(row[1:].tolist(), skip_special_tokens=False)
    return text
