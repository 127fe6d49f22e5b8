"""A small folder as Hugging Face's users have it."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, processors

from models import LlamaConfig, to_hf_config, to_hf_state_dict
from models.hf_folder import write_folder
from train.data.tokenizer import train_tokenizer
from train.program.task import abstract_params

TEXT = "A lamp was lit in the small house by the sea, and the old man read aloud. " * 3
NETWORK = LlamaConfig(
    vocab_size=310, hidden_size=16, intermediate_size=24, num_heads=4, num_kv_heads=2, num_layers=3, init_std=0.2
)
WINDOW = 32
BEGIN, END = "<s>", "<|endoftext|>"


def foreign_tokenizer() -> Tokenizer:
    """A tokenizer that puts a token before every text, as LLaMA's does."""
    tokenizer = train_tokenizer([TEXT], 300)
    tokenizer.add_special_tokens([BEGIN])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return tokenizer


def write_foreign(
    folder: Path,
    network: LlamaConfig = NETWORK,
    dtype: Any = np.float32,
    settings: Mapping[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
) -> Path:
    """Write a random model; `change` may alter its tensors, and `settings` its config.json."""
    network = dataclasses.replace(network, param_dtype=np.dtype(dtype).name)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * draw.standard_normal(x.shape)).astype(dtype), abstract_params(network))
    tensors = to_hf_state_dict(network, params)
    change(tensors)
    tokenizer = foreign_tokenizer()
    ends = {"bos_token_id": tokenizer.token_to_id(BEGIN), "eos_token_id": tokenizer.token_to_id(END)}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END}
    write_folder(
        folder,
        to_hf_config(network, WINDOW) | ends | dict(settings or {}),
        tensors,
        {
            "tokenizer.json": tokenizer.to_str().encode(),
            "tokenizer_config.json": json.dumps(described).encode(),
            "generation_config.json": json.dumps(ends | {"temperature": 0.6}).encode(),
            "chat_template.jinja": b"{{ messages }}",
        },
    )
    return folder
