"""Many texts at once, and long ones in pieces: the tokens are those of each text alone."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from train.data import encoding
from train.data.encoding import encode_all, pieces_of
from train.data.tokenizer import train_tokenizer

CODE = Path(encoding.__file__).read_text()
PROSE = 'One, two;  three!\n\n\n\tNaïve café: "東京"  \r\n\r\n 1234567 and so on...\n' * 60
TEXTS = ["", "a", CODE, " \n", PROSE, "x" * 3000, CODE[::-1], " " * 3000]
CL100K = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained(before: pre_tokenizers.PreTokenizer | None, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    if before is not None:
        tokenizer.pre_tokenizer = before
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["?"], max_token_length=12, show_progress=False)
    tokenizer.train_from_iterator([CODE, PROSE[:300]], trainer)
    return tokenizer


PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
LIKE = {
    "ours": lambda: train_tokenizer([CODE, PROSE], 400),
    "GPT-4": lambda: trained(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CL100K), "isolated"),
                pre_tokenizers.ByteLevel(False, use_regex=False),
            ]
        )
    ),
    "T5": lambda: trained(pre_tokenizers.Metaspace()),
    "BERT": lambda: trained(pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()),
    "LLaMA-2": lambda: trained(None, PREPENDED),
}


@pytest.mark.parametrize("name", LIKE)
def test_the_tokens_are_those_of_each_text_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, small in {"PIECE": 400, "AT_ONCE": 1500, "NEAR": 100}.items():
        monkeypatch.setattr(encoding, constant, small)
    tokenizer, done = LIKE[name](), list[int]()
    for text, tokens in zip(TEXTS, encode_all(tokenizer, TEXTS, done.append), strict=True):
        assert tokens.dtype == np.int32
        assert tokens.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert sum(done) == sum(len(text.encode()) for text in TEXTS)
    lengths = [len(piece) for piece in pieces_of(tokenizer, CODE)]
    if name == "LLaMA-2":  # which puts a mark before every text
        assert lengths == [len(CODE)]
    else:
        assert max(lengths) <= 400
        assert min(lengths[:-1]) >= 200
