"""Labelled texts: classes, pairs, lengths, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from train.config.run import UserError
from train.data.labelled import LabelledData, load_labelled

WORDS = ["[PAD]", "[CLS]", "[SEP]", "good", "bad", "fine", "film", "a"]


def make_tokenizer() -> Tokenizer:
    """Words, framed as BERT frames a text and a pair; its file says to pad, as that of MiniLM."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(4)
    return tokenizer


def load(folder: Path, rows: list[dict[str, Any]], held_out: list[dict[str, Any]], **options: Any) -> LabelledData:
    for name, content in (("train", rows), ("dev", held_out)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    settings = {
        "text_fields": ("text",),
        "label_field": "label",
        "seq_len": 16,
        "is_regression": False,
        "say": lambda _: None,
    } | options
    return load_labelled(
        f"files:{folder}/train.jsonl", f"files:{folder}/dev.jsonl", tokenizer=make_tokenizer(), **settings
    )


def test_classes_are_numbered_and_texts_framed_and_padded(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"text": "good film", "label": "yes"}, {"text": "bad", "label": "no"}, {"text": "a", "label": "no"}]
    found = load(tmp_path, rows, rows[:2], say=said.append)
    assert found.classes == ("no", "yes")
    assert found.training.tokens.shape == (3, 8)
    np.testing.assert_array_equal(found.training.tokens[0], [1, 3, 6, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.training.mask.sum(1), [4, 3, 3])
    np.testing.assert_array_equal(found.training.labels, [1, 0, 0])
    np.testing.assert_array_equal(found.held_out.labels, [1, 0])
    assert said == [
        "3 texts to train on, 2 held out (no: 2 and 1, yes: 1 and 1); always guessing no has an accuracy of 0.5000",
        "note: 2 held-out examples are also trained on, so their scores say little",
    ]


def test_classes_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (10, 9, 2)]
    assert load(tmp_path, rows, rows).classes == ("2", "9", "10")


def test_pairs_have_two_types_and_the_longer_text_is_cut(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"q": "good", "p": "bad " * 30, "label": 0}, {"q": "a", "p": "film", "label": 1}]
    found = load(tmp_path, rows, rows, text_fields=("q", "p"), seq_len=8, say=said.append)
    np.testing.assert_array_equal(found.training.tokens, [[1, 3, 2, 4, 4, 4, 4, 2], [1, 7, 2, 6, 2, 0, 0, 0]])
    np.testing.assert_array_equal(found.training.types, [[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]])
    assert said[1] == "2 of 4 texts are longer than 8 tokens and are cut: raise --seq-len to keep them whole"


def test_numbers_are_kept(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"text": "a", "label": 1.5}, {"text": "bad", "label": "-2"}]
    found = load(tmp_path, rows, rows, is_regression=True, say=said.append)
    assert found.classes == ()
    np.testing.assert_array_equal(found.training.labels, np.asarray([1.5, -2], np.float32))
    assert said[0].endswith("always guessing the mean of the latter, -0.25, has a squared error of 3.062")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "a", "label": "maybe"}, {}, r"dev\.jsonl:1 has the label maybe, which no text to train on has: 0, 1"),
        ({"text": "", "label": 0}, {}, r"dev\.jsonl:1 has an empty text"),
        ({"text": "a"}, {}, r"dev\.jsonl:1 has no label: it has text\. Name the label with --label-field"),
        ({"label": 1}, {}, r'dev\.jsonl:1 has no "text" string: it has label'),
        ({"text": "a", "label": 0.5}, {}, r"has the label 0.5, which is no class: add --task regression"),
        ({"text": "a", "label": "0.5"}, {}, r"has the label 0.5, which is no class: add --task regression"),
        ({"text": "a", "label": "x"}, {"is_regression": True}, r"dev\.jsonl:1 has the label 'x', which is no number"),
        ({"text": "a", "label": "inf"}, {"is_regression": True}, r"has the label 'inf', which is no number"),
        ({"text": "a", "label": 1e300}, {"is_regression": True}, r"1e\+300, which is no number, or none of float32"),
        ({"text": "a", "label": 10**400}, {"is_regression": True}, r"has the label 1000+\.\.\., which is no number"),
        ({"text": "a", "label": [0, 1]}, {}, r"has the label \[0, 1\], which is no class: it must be a text or an"),
        ({"text": "a", "label": "  "}, {}, r"dev\.jsonl:1 has no label"),
        ({"text": "a", "label": 0}, {"seq_len": 2}, r"--seq-len 2 has no room for a text beside 2 special tokens"),
    ],
)
def test_what_is_wrong_is_named(row: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, [{"text": "a", "label": 0}, {"text": "bad", "label": 1}], [row], **options)


def test_space_around_a_class_is_not_part_of_its_name(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "good"}, {"text": "bad", "label": "bad"}, {"text": "film", "label": "good "}]
    assert load(tmp_path, rows, rows[:1]).classes == ("bad", "good")


def test_whole_numbers_are_classes_in_their_order_however_they_are_written(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (10, 9.0, -1, "-2")]
    assert load(tmp_path, rows, rows[:1]).classes == ("-2", "-1", "9", "10")


def test_every_class_is_trained_on_and_held_out(tmp_path: Path) -> None:
    rows = [{"text": f"{word} film " * (i + 1), "label": word} for word in ("good", "bad", "fine") for i in range(4)]
    rows.append({"text": "a", "label": "rare"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source, tokenizer = f"files:{tmp_path}/a.jsonl", make_tokenizer()
    found = load_labelled(source, "", ("text",), "label", tokenizer, 16, is_regression=False, say=lambda _: None)
    assert found.classes == ("bad", "fine", "good", "rare")
    np.testing.assert_array_equal(np.bincount(found.training.labels), [3, 3, 3, 1])
    np.testing.assert_array_equal(np.bincount(found.held_out.labels), [1, 1, 1])


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all texts to train on have the label 0: give at least two classes"):
        load(tmp_path, [{"text": "a", "label": 0}], [{"text": "a", "label": 0}])
