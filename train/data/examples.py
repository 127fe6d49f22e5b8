"""Examples to fine-tune a language model on, as packed rows of tokens.

An example is a text, all of which is to be learnt, or a prompt with its completion, of which the
completion is. Each ends with the end of text.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from tokenizers import Tokenizer

from train.config.run import UserError
from train.data.encoding import encode_all
from train.data.packing import pack
from train.data.progress import Progress
from train.data.records import read_records, text_of
from train.data.tokenizer import special_tokens_around, unbounded
from train.program.task import Rows

HELD_OUT = 0.05  # of the examples
NEAR = 1000  # characters in which a cut between two words is looked for
FEW = 20  # texts, of which each is more than is held out
PROMPT, COMPLETION, TEXT = "prompt", "completion", "text"


class Example(NamedTuple):
    """An example; a text has no prompt."""

    name: str
    prompt: str
    completion: str


class Encoded(NamedTuple):
    """The tokens of an example, of which those from `start` on are to be predicted."""

    tokens: np.ndarray
    start: int


class Packed:
    """Rows of seq_len + 1 tokens, each with as many whole examples as fit."""

    def __init__(self, examples: Sequence[Encoded], seq_len: int) -> None:
        self._examples, self._size = examples, seq_len + 1
        self._rows = pack([len(example.tokens) for example in examples], self._size)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Rows:
        tokens, documents = np.zeros(self._size, np.int32), np.full(self._size, -1, np.int32)
        is_target, end = np.zeros(self._size, np.bool_), 0
        for number, i in enumerate(self._rows[index]):
            example = self._examples[i]
            start, end = end, end + len(example.tokens)
            tokens[start:end], documents[start:end] = example.tokens, number
            is_target[start + max(example.start, 1) : end] = True
        return Rows(tokens, documents, is_target)


class ExampleData(NamedTuple):
    """The packed examples of a run."""

    fingerprint: str  # identifies all rows
    training: Packed
    held_out: Packed
    prompt: str  # of the first held-out example


def load_examples(
    source: str,
    held_out: str,
    tokenizer: Tokenizer,
    end_of_text: int,
    seq_len: int,
    say: Callable[[str], None],
) -> ExampleData:
    """Read, encode and pack the examples of `files:GLOB`; without `held_out`, a part is held out.

    Raises:
      UserError: If there is nothing to train on or to hold out, or a record is no example.
    """
    training = read_examples(source)
    if held_out:
        others = read_examples(held_out)
    elif len(training) < FEW and not any(example.prompt for example in training):
        training, others = _end_of_longest(training)
    else:
        training, others = part(training, key=lambda example: example.prompt or example.completion)
    note_shared(training, others, lambda example: example[1:], say)
    if not training or not others:
        few = "a single example" if training or others else "no example"
        raise UserError(f"{source} has {few}: give more, or examples to hold out with --held-out.")
    tokenizer = unbounded(tokenizer)
    sides = [encoded(examples, tokenizer, end_of_text, seq_len + 1, say) for examples in (training, others)]
    if not any(len(example.tokens) > max(example.start, 1) for example in sides[1]):
        raise UserError("the held-out examples have nothing to predict: give others with --held-out.")
    rows, held_out_rows = (Packed(side, seq_len) for side in sides)
    filled = sum(len(example.tokens) for example in sides[0]) / (len(rows) * (seq_len + 1))
    say(
        f"{len(training)} examples in {len(rows)} rows of {seq_len} tokens, {filled:.0%} of them filled; "
        f"{len(others)} held out"
    )
    return ExampleData(_fingerprint(sides), rows, held_out_rows, others[0].prompt)


def _fingerprint(sides: Iterable[Iterable[Encoded]]) -> str:
    digest = hashlib.sha256()
    for side in sides:
        for example in side:
            digest.update(example.start.to_bytes(8, "little") + example.tokens.tobytes())
        digest.update(b"end of a side")
    return digest.hexdigest()[:32]


def read_examples(source: str) -> list[Example]:
    """Read the examples of `files:GLOB`, without repetitions."""
    examples: dict[tuple[str, str], Example] = {}
    for name, record in read_records(source):
        if TEXT in record and not {PROMPT, COMPLETION} & record.keys():
            prompt, completion = "", text_of(name, record)
        else:
            prompt, completion = text_of(name, record, PROMPT), text_of(name, record, COMPLETION)
        if not completion.strip():
            raise UserError(f"{name} has an empty {TEXT if TEXT in record else COMPLETION}: remove it or complete it.")
        examples.setdefault((prompt, completion), Example(name, prompt, completion))
    return list(examples.values())


def part(examples: Iterable[Any], key: Callable[[Any], object]) -> tuple[list[Any], list[Any]]:
    """Hold out 5 % of the examples, at least one: those whose keys have the smallest hashes.

    Examples with equal keys are on one side.
    """
    ordered = sorted(examples, key=lambda example: hashlib.sha256(repr(key(example)).encode()).digest())
    count = max(round(HELD_OUT * len(ordered)), 1)
    while 0 < count < len(ordered) and key(ordered[count - 1]) == key(ordered[count]):
        count += 1
    return ordered[count:], ordered[:count]


def _end_of_longest(texts: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Hold out 5 % of few texts: the end of the longest, of which at most half is taken.

    It begins with a word, if there is one.
    """
    longest = max(texts, key=lambda example: len(example.completion), default=None)
    if longest is None:
        return [], []
    text = longest.completion
    cut = len(text) - min(max(round(HELD_OUT * sum(len(one.completion) for one in texts)), 1), len(text) // 2)
    cut = 1 + max(text.rfind(space, max(cut - NEAR, 0), cut) for space in " \n") or cut
    sides = [longest._replace(completion=some) for some in (text[:cut], text[cut:])]
    if not all(side.completion.strip() for side in sides):
        return list(texts), []
    return [sides[0] if one is longest else one for one in texts], sides[1:]


def note_shared(
    training: Iterable[Any], held_out: Iterable[Any], key: Callable[[Any], object], say: Callable[[str], None]
) -> None:
    """Say how many held-out examples are trained on, if any: their scores mean little."""
    seen = {key(example) for example in training}
    if shared := sum(key(example) in seen for example in held_out):
        say(f"note: {shared} held-out examples are also trained on, so their scores say little")


def encoded(
    examples: Sequence[Example], tokenizer: Tokenizer, end_of_text: int, size: int, say: Callable[[str], None]
) -> list[Encoded]:
    """Encode examples, each of at most `size` tokens.

    A longer text becomes several examples; the first token of each but the first is the last one of
    the example before it. A longer prompt loses its beginning, a completion that is still too long
    its end.
    """
    result: list[Encoded] = []
    before, end = np.asarray(special_tokens_around(tokenizer)[0], np.int32), np.asarray([end_of_text], np.int32)
    cut = 0
    texts = [text for example in examples for text in (example.prompt, example.completion)]
    with Progress(say, "tokenized", sum(len(text.encode()) for text in texts)) as progress:
        tokens = iter([*encode_all(tokenizer, texts, progress.add)])
    for example, asked, rest in zip(examples, tokens, tokens, strict=True):
        # A tokenizer may also end a text, but a prompt does not end.
        prompt = np.concatenate([before, asked]) if example.prompt else asked
        completion = np.concatenate([rest, end] if example.prompt else [before, rest, end])
        if not example.prompt:
            starts = range(0, max(len(completion) - 1, 1), size - 1)
            result += [Encoded(completion[i : i + size], 0) for i in starts]
            continue
        cut += len(prompt) + len(completion) > size
        completion = completion[: size - 1]
        seen = prompt[-(size - len(completion)) :]
        result.append(Encoded(np.concatenate([seen, completion]), len(seen)))
    if cut:
        say(f"{cut} examples are longer than {size - 1} tokens and were cut: raise --seq-len to keep them whole")
    return result


def shuffled(rows: Packed, seed: int) -> grain.MapDataset:
    """Return the endless dataset of rows: each once per epoch, in a new order every time."""
    return grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
