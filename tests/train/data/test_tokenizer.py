"""The tokenizer gives every text back, and its tokens are known numbers of bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, processors

from train.config.run import UserError
from train.data.tokenizer import (
    END_OF_TEXT,
    RUN,
    end_of_text,
    load_tokenizer,
    read_tokenizer,
    size_of,
    token_bytes,
    train_tokenizer,
    without_long_runs,
)

TEXTS = ["def f(x):\n    return x\n" * 9, "naïve café, 東京, 🙂🙂 and so on and on\r\n\t" * 9]
TOKENIZER = train_tokenizer(TEXTS, 300)


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert token_bytes(TOKENIZER, 0)[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", "  leading", "a\u2028b\x00"])
def test_the_end_of_text_in_a_text_is_text(text: str, tmp_path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (TOKENIZER, load_tokenizer(tmp_path / "tokenizer.json")):
        ids = tokenizer.encode(text).ids
        assert tokenizer.token_to_id(END_OF_TEXT) not in ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_end_of_text_has_no_bytes_and_every_byte_has_a_token() -> None:
    end = TOKENIZER.token_to_id(END_OF_TEXT)
    lengths = token_bytes(TOKENIZER, end)
    assert len(lengths) == TOKENIZER.get_vocab_size() == size_of(TOKENIZER) == 300
    assert np.flatnonzero(lengths == 0).tolist() == [end]
    assert (lengths == 1).sum() == 256
    assert (token_bytes(TOKENIZER, 255) == 0).sum() == 2  # any token may be named as the end


@pytest.mark.parametrize("text", ["ACGT" * 30_000, "-_" * 60_000, " \n" * 60_000, "1" * 120_000])
def test_text_without_breaks_is_learnt_in_a_moment(text: str) -> None:
    """Without the cuts, 120 kB take a minute, and four times that for twice as much."""
    parts = list(without_long_runs(f"a word {text} and more"))
    assert "".join(parts) == f"a word {text} and more"
    assert max(map(len, parts)) <= RUN + 9
    tokenizer = train_tokenizer([text], 400)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_ordinary_text_is_not_cut() -> None:
    for text in (*TEXTS, "=" * RUN + "\n" + "x" * RUN, "word " * 999, ""):
        assert list(without_long_runs(text)) == [text]


def write(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(json.loads(TOKENIZER.to_str()) | changes))
    return path


def test_a_tokenizer_of_a_file_adds_and_cuts_nothing(tmp_path: Path) -> None:
    theirs = load_tokenizer(write(tmp_path / "tokenizer.json"))
    mark = [("<|endoftext|>", theirs.token_to_id(END_OF_TEXT))]
    theirs.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=mark)
    theirs.enable_truncation(5)
    theirs.enable_padding(length=99)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = read_tokenizer(tmp_path / "tokenizer.json")
    assert ours.encode(TEXTS[1]).ids == TOKENIZER.encode(TEXTS[1]).ids
    assert end_of_text(ours, "") == mark[0][1]


def test_tokens_with_marks_for_spaces_have_known_bytes() -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, "▁the": 2, "<0xE2>": 3, "ü": 4, "▁": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert end_of_text(tokenizer, "") == 1
    assert token_bytes(tokenizer, 1).tolist() == [0, 0, 4, 1, 2, 1]


def test_another_file_is_refused(tmp_path: Path) -> None:
    for name, message in (("missing.json", "cannot be read"), ("text.json", r"is no tokenizer\.json")):
        (tmp_path / "text.json").write_text("{}")
        with pytest.raises(UserError, match=message):
            read_tokenizer(tmp_path / name)
    write(tmp_path / "pieces.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    with pytest.raises(UserError, match="neither a byte-level tokenizer nor one with ▁ for spaces"):
        read_tokenizer(tmp_path / "pieces.json")
    with pytest.raises(UserError, match="--end-of-text <end> is no token"):
        end_of_text(TOKENIZER, "<end>")


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 300).to_str() == TOKENIZER.to_str()
