"""The tokenizer gives every text back, and its tokens are known numbers of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.tokenizer import (
    END_OF_TEXT,
    encode_documents,
    load_tokenizer,
    token_bytes,
    train_tokenizer,
)

TEXTS = ["def f(x):\n    return x\n" * 9, "naïve café, 東京, 🙂🙂 and so on and on\r\n\t" * 9]
TOKENIZER = train_tokenizer(TEXTS, 300)


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert token_bytes(TOKENIZER)[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", "  leading", "a\u2028b\x00"])
def test_the_end_of_text_in_a_text_is_text(text: str, tmp_path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (TOKENIZER, load_tokenizer(tmp_path / "tokenizer.json")):
        ids = tokenizer.encode(text).ids
        assert tokenizer.token_to_id(END_OF_TEXT) not in ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_documents_are_closed_by_the_end_of_text() -> None:
    end = TOKENIZER.token_to_id(END_OF_TEXT)
    documents = list(encode_documents(TOKENIZER, [*TEXTS, "", "x"], at_once=3))
    assert [tokens[-1] for tokens in documents] == [end] * 4
    assert [TOKENIZER.decode(tokens[:-1].tolist()) for tokens in documents] == [*TEXTS, "", "x"]


def test_the_end_of_text_has_no_bytes_and_every_byte_has_a_token() -> None:
    lengths = token_bytes(TOKENIZER)
    assert len(lengths) == TOKENIZER.get_vocab_size() == 300
    assert np.flatnonzero(lengths == 0).tolist() == [TOKENIZER.token_to_id(END_OF_TEXT)]
    assert (lengths == 1).sum() == 256


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 300).to_str() == TOKENIZER.to_str()
