"""Small encoders in folders as Hugging Face's users have them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from models import EncoderConfig, to_hf_config, to_hf_state_dict
from models.hf_folder import write_folder
from tests.train.foreign import TEXT
from train.program.task import abstract_params, drawn
from train.storage.checkpoint import save_params
from train.storage.folder import RunFolder
from train.storage.model import StoredModel

LONGEST = 12  # tokens, to which the file of a tokenizer cuts and pads


def bert_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.enable_padding(length=LONGEST, pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.enable_padding(length=LONGEST, pad_id=1, pad_token="<pad>")
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


TOKENIZERS = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}
DESCRIBED = {
    "bert": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 20, "pad_token": "[PAD]"},
    "roberta": {"tokenizer_class": "RobertaTokenizer", "model_max_length": 20, "pad_token": "<pad>"},
}
NETWORKS = {
    "bert": EncoderConfig(
        vocab_size=70, hidden_size=16, intermediate_size=24, num_heads=4, num_layers=2, max_positions=20, init_std=0.4
    ),
    "roberta": EncoderConfig(
        family="roberta", vocab_size=310, hidden_size=16, intermediate_size=24, num_heads=4, num_layers=2,
        max_positions=20, num_types=1, norm_eps=1e-5, init_std=0.4,
    ),
}  # fmt: skip


def files_of(family: str) -> dict[str, bytes]:
    """The files of a tokenizer, whose tokenizer.json is not laid out as the package writes it."""
    content = json.dumps(json.loads(TOKENIZERS[family]().to_str()), indent=3)
    return {"tokenizer.json": content.encode(), "tokenizer_config.json": json.dumps(DESCRIBED[family]).encode()}


def write_encoder(
    folder: Path,
    family: str = "bert",
    network: EncoderConfig | None = None,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    **settings: Any,
) -> Path:
    """Write a random encoder; `change` may alter its tensors, and `settings` its config.json."""
    network = network or NETWORKS[family]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * draw.standard_normal(x.shape)).astype(x.dtype), abstract_params(network))
    tensors = to_hf_state_dict(network, params)
    change(tensors)
    write_folder(folder, to_hf_config(network) | settings, tensors, files_of(family))
    return folder


WORDS = ["[PAD]", "[CLS]", "[SEP]", "good", "bad", "fine", "film", "a"]


def write_import(folder: Path) -> Path:
    """Write an encoder of a few words as an import has it."""
    network = EncoderConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_heads=2, num_layers=2, max_positions=16,
        init_std=0.3,
    )  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    StoredModel(settings=to_hf_config(network), tokenizer=tokenizer).write(folder)
    save_params(RunFolder(folder).checkpoints, jax.tree.map(np.asarray, jax.jit(lambda: drawn(network, 0))()))
    return folder
