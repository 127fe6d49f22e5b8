"""The text that a model writes after a prompt: of the command, and of the end of a run."""

import dataclasses

import jax
import numpy as np
from jax.experimental import multihost_utils

from models import Llama, generate
from train.storage.model import StoredModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """How tokens are drawn."""

    tokens: int
    temperature: float
    top_k: int  # 0: all
    top_p: float
    seed: int


def continued(llama: Llama, stored: StoredModel, prompt: str, draws: Draws) -> str:
    """Return the prompt and what the model writes after it; to be called in all processes.

    The text stops before the first token that ends one. An empty prompt begins a document.
    """
    tokenizer = stored.prompt_tokenizer()
    encoding = tokenizer.encode(prompt)
    tokens, marks = list(encoding.ids), list(encoding.special_tokens_mask)
    if not tokens:  # a tokenizer that puts nothing before a text
        tokens, marks = [stored.beginning], [1]
    rows = generate(
        llama,
        np.asarray([tokens], np.int32),
        draws.tokens,
        jax.random.key(draws.seed),
        window=stored.window,
        temperature=draws.temperature,
        top_k=min(draws.top_k, stored.network.vocab_size) or None,
        top_p=draws.top_p,
    )
    (row,) = multihost_utils.process_allgather(rows, tiled=True)
    written = row[len(tokens) :].tolist()
    ends = [written.index(end) for end in stored.ends if end in written]
    first = next((i for i, mark in enumerate(marks) if not mark), len(marks))  # after the mark of the beginning
    text: str = tokenizer.decode([*tokens[first:], *written[: min(ends, default=None)]], skip_special_tokens=False)
    return text
