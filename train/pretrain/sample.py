"""A text sample from a trained model."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from tokenizers import Tokenizer

from models import Llama, generate
from train.config.run import ReportFlags
from train.data.tokenizer import END_OF_TEXT

TEMPERATURE, TOP_K = 0.8, 50  # a little sharper than the model, and without its tail


def write_sample(model: Llama, tokenizer: Tokenizer, flags: ReportFlags, *, window: int, seed: int) -> str:
    """Return the prompt and the model's continuation; to be called in all processes."""
    if not flags.sample_tokens:
        return flags.sample_prompt
    # Documents follow each other, so the end of text also marks a beginning.
    prompt = [tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(flags.sample_prompt).ids]
    tokens = generate(
        model,
        np.asarray([prompt], np.int32),
        flags.sample_tokens,
        jax.random.key(seed),
        window=window,
        temperature=TEMPERATURE,
        top_k=TOP_K,
    )
    (row,) = multihost_utils.process_allgather(tokens, tiled=True)
    text: str = tokenizer.decode(row[1:].tolist(), skip_special_tokens=False)
    return text
