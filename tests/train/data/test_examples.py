"""Examples: what is predicted, where they are cut, what is held out."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from train.config.run import UserError
from train.data.examples import Encoded, Example, Packed, encoded, load_examples, part, read_examples, shuffled
from train.data.tokenizer import train_tokenizer

END = 0
TOKENIZER = train_tokenizer(["what is one and one? it is two. " * 9], 260)


def write(folder: Path, *rows: dict[str, str]) -> str:
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"files:{folder}/*"


def encode(example: Example, size: int, tokenizer: Tokenizer = TOKENIZER) -> list[Encoded]:
    return encoded([example], tokenizer, END, size, pytest.fail)


def spelt(tokens: np.ndarray) -> str:
    text: str = TOKENIZER.decode(tokens.tolist(), skip_special_tokens=False)
    return text.replace("<|endoftext|>", "$")


def test_the_completion_and_its_end_are_predicted() -> None:
    (example,) = encode(Example("", "one and ", "two"), 50)
    assert spelt(example.tokens[: example.start]) == "one and "
    assert spelt(example.tokens[example.start :]) == "two$"


def test_a_text_is_predicted_whole_in_pieces_that_share_a_token() -> None:
    pieces = encode(Example("", "", "what is one and one? it is two."), 8)
    assert all(len(piece.tokens) <= 8 and piece.start == 0 for piece in pieces)
    predicted = [piece.tokens[1:] for piece in pieces]
    assert spelt(np.concatenate([pieces[0].tokens[:1], *predicted])) == "what is one and one? it is two.$"
    assert all(after.tokens[0] == before.tokens[-1] for before, after in itertools.pairwise(pieces))
    assert min(map(len, predicted)) > 0


@pytest.mark.parametrize("length", range(1, 17))
def test_no_piece_of_a_text_is_without_a_target(length: int) -> None:
    pieces = encode(Example("", "", "x" * length), 5)
    assert sum(len(piece.tokens) - 1 for piece in pieces) == length  # x is a token; the first is not predicted
    assert min(len(piece.tokens) for piece in pieces) > 1


def test_a_long_prompt_loses_its_beginning_and_a_long_completion_its_end() -> None:
    said: list[str] = []
    examples = [Example("", "abcdefgh", "xyz"), Example("", "ab", "stuvwxyz"), Example("", "a", "x")]
    first, second, third = encoded(examples, TOKENIZER, END, 6, said.append)
    assert (spelt(first.tokens), first.start) == ("ghxyz$", 2)
    assert (spelt(second.tokens), second.start) == ("bstuvw", 1)
    assert (spelt(third.tokens), third.start) == ("ax$", 1)
    assert said == ["2 examples are longer than 5 tokens and were cut: raise --seq-len to keep them whole"]


def test_special_tokens_of_the_tokenizer_are_added_at_the_beginning_only() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", END)]
    )
    (example,) = encode(Example("", "ab", "c"), 9, tokenizer)
    assert spelt(example.tokens) == "$abc$"
    (text,) = encode(Example("", "", "abc"), 9, tokenizer)
    assert spelt(text.tokens) == "$abc$"


def test_rows_hold_whole_examples_with_their_targets() -> None:
    examples = [Encoded(np.arange(1, 5, dtype=np.int32), 2), Encoded(np.arange(5, 8, dtype=np.int32), 0)]
    (row,) = Packed(examples, 8)
    np.testing.assert_array_equal(row.tokens, [1, 2, 3, 4, 5, 6, 7, 0, 0])
    np.testing.assert_array_equal(row.documents, [0, 0, 0, 0, 1, 1, 1, -1, -1])
    np.testing.assert_array_equal(row.is_target, np.asarray([0, 0, 1, 1, 0, 1, 1, 0, 0], bool))


def test_every_row_is_read_once_per_epoch_in_another_order() -> None:
    rows = Packed([Encoded(np.full(9, i, np.int32), 0) for i in range(12)], 8)
    order = [int(shuffled(rows, 0)[i].tokens[0]) for i in range(24)]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]
    assert order != [int(shuffled(rows, 1)[i].tokens[0]) for i in range(24)]


def by_text(example: Example) -> str:
    return example.prompt or example.completion


def test_completions_of_one_prompt_are_on_one_side() -> None:
    examples = [Example("", f"prompt {i % 5}", f"completion {i}") for i in range(50)]
    training, held_out = part(examples, by_text)
    assert len(held_out) == 10
    assert not {example.prompt for example in training} & {example.prompt for example in held_out}


def test_held_out_examples_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"prompt": f"{i}", "completion": "x"} for i in range(9)]
    (tmp_path / "dev").mkdir()
    held_out = write(tmp_path / "dev", *rows[:2])
    load_examples(write(tmp_path, *rows), held_out, TOKENIZER, END, 8, said.append)
    assert said[0] == "note: 2 held-out examples are also trained on, so their scores say little"


def test_what_is_held_out_does_not_depend_on_the_order() -> None:
    examples = [Example(str(i), "", f"text {i}") for i in range(50)]
    training, held_out = part(examples, by_text)
    assert len(held_out) == 2
    assert {*training, *held_out} == {*examples}
    assert {example.completion for example in part(examples[::-1], by_text)[1]} == {
        example.completion for example in held_out
    }


def test_repetitions_are_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c"}]
    assert [example.completion for example in read_examples(write(tmp_path, *rows))] == ["b", "c"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, r'a\.jsonl:2 has no "completion" string: it has prompt'),
        ({"completion": "a"}, r'a\.jsonl:2 has no "prompt" string: it has completion'),
        ({"question": "a"}, r'a\.jsonl:2 has no "prompt" string: it has question'),
        ({"prompt": "a", "completion": " "}, r"a\.jsonl:2 has an empty completion: remove it"),
        ({"text": ""}, r"a\.jsonl:2 has an empty text: remove it"),
    ],
)
def test_a_record_that_is_no_example_is_named(row: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_examples(write(tmp_path, {"text": "fine"}, row))


def test_a_single_example_is_not_enough(tmp_path: Path) -> None:
    source = write(tmp_path, {"prompt": "is it?", "completion": "fine"})
    with pytest.raises(UserError, match=r"has a single example: give more, or examples to hold out with --held-out"):
        load_examples(source, "", TOKENIZER, END, 8, pytest.fail)


def test_no_example_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match=r"has no example: give more"):
        load_examples(f"files:{tmp_path}/none.jsonl", "", TOKENIZER, END, 8, pytest.fail)


@pytest.mark.parametrize("texts", [["ab cd " * 100], ["ab cd " * 100, "x" * 60, "y z"], ["a" * 600]])
def test_of_few_texts_the_end_of_the_longest_is_held_out(texts: list[str], tmp_path: Path) -> None:
    data = load_examples(write(tmp_path, *({"text": text} for text in texts)), "", TOKENIZER, END, 8, lambda _: None)
    sides = [sum(int(row.is_target.sum()) for row in map(side.__getitem__, range(len(side)))) for side in data[1:3]]
    assert 0.04 < sides[1] / sum(sides) < 0.06


def test_the_fingerprint_is_that_of_tokens_and_targets(tmp_path: Path) -> None:
    def fingerprint(*rows: dict[str, str]) -> str:
        return load_examples(write(tmp_path, *rows), "", TOKENIZER, END, 8, lambda _: None).fingerprint

    one, other = {"prompt": "ab", "completion": "c"}, {"prompt": "x", "completion": "y"}
    assert fingerprint(one, other) == fingerprint(one, other, one)
    assert fingerprint(one, other) != fingerprint({"prompt": "a", "completion": "bc"}, other)
