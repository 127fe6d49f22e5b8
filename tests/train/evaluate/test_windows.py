"""Every token of every document is predicted once, and padding never."""

from pathlib import Path

import numpy as np
import pytest

from tests.train.foreign import BEGIN
from train.evaluate.windows import beginning_of, document_batches
from train.storage.model import StoredModel, read_model

TEXTS = [
    "A lamp was lit in the small house by the sea.",
    "the",
    "the old man read aloud " * 9,
    "<|endoftext|> is plain",
]


@pytest.fixture(scope="module")
def model(imported: Path) -> StoredModel:
    return read_model(imported)


def expected(model: StoredModel) -> list[list[int]]:
    plain = [model.tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return [[*tokens, model.end_of_text] for tokens in plain]


@pytest.mark.parametrize("seq_len", [1, 3, 8, 500])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_token_is_predicted_once_and_in_order(model: StoredModel, seq_len: int, batch_size: int) -> None:
    predicted: list[int] = []
    for windows, is_predicted in document_batches(model, TEXTS, batch_size, seq_len):
        assert windows.shape == (batch_size, seq_len + 1)
        assert windows.dtype == np.int32
        predicted += windows[:, 1:][is_predicted].tolist()
    assert predicted == [token for tokens in expected(model) for token in tokens]


def test_a_window_has_tokens_of_one_document(model: StoredModel) -> None:
    begin = model.tokenizer.token_to_id(BEGIN)
    rows = [row for windows, _ in document_batches(model, TEXTS, 4, 500) for row in windows.tolist()]
    for row, tokens in zip(rows, expected(model), strict=True):
        document = [begin, *tokens]
        assert row == [*document, *[0] * (501 - len(document))]


def test_a_long_beginning_is_not_predicted(model: StoredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.evaluate.windows.beginning_of", lambda _: [7] * 5)
    predicted = [
        token
        for windows, is_predicted in document_batches(model, TEXTS, 2, 3)
        for token in windows[:, 1:][is_predicted].tolist()
    ]
    assert predicted == [token for tokens in expected(model) for token in tokens]


def test_a_document_begins_as_the_tokenizer_has_it(imported: Path, trained: Path) -> None:
    foreign, own = read_model(imported), read_model(trained)
    assert beginning_of(foreign) == [foreign.tokenizer.token_to_id(BEGIN)]
    assert beginning_of(own) == [own.end_of_text]
