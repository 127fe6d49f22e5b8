"""Labelled texts, or pairs of texts, to fine-tune an encoder on."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from train.config.run import UserError
from train.data.examples import note_shared, part
from train.data.records import read_records, text_of
from train.data.tokenizer import unbounded
from train.program.labelling import Texts

LONGEST = 40  # characters of a label in a message
ROUND_TO = 8  # lengths of rows, in tokens: what matrix units like


class Labelled(NamedTuple):
    """A text, or two, and its label: the name of a class, or a number."""

    name: str
    texts: tuple[str, ...]
    label: str | float


class LabelledData(NamedTuple):
    """The texts of a run, as rows of one length.

    Attributes:
      fingerprint: Identifies texts, labels and tokens.
      classes: The names of the classes; empty for regression.
      training, held_out: All rows of each side.
    """

    fingerprint: str
    classes: tuple[str, ...]
    training: Texts
    held_out: Texts


def load_labelled(
    source: str,
    held_out: str,
    text_fields: Sequence[str],
    label_field: str,
    tokenizer: Tokenizer,
    seq_len: int,
    *,
    is_regression: bool,
    say: Callable[[str], None],
) -> LabelledData:
    """Read and encode the texts of `files:GLOB`; without `held_out`, a part of them is held out.

    Args:
      source: The files to train on.
      held_out: The files to evaluate on.
      text_fields: The names of one field, or of two.
      label_field: The name of the field with the label.
      tokenizer: The tokenizer, which adds its special tokens.
      seq_len: The longest row; the longer text of a pair is cut first.
      is_regression: Labels are numbers.
      say: Reports what was found.

    Raises:
      UserError: If a text or a label is missing or wrong; it names file and line.
    """
    training = read_labelled(source, text_fields, label_field, is_regression)
    others = read_labelled(held_out, text_fields, label_field, is_regression) if held_out else []
    if not held_out:
        training, others = _parted(training)
    if not training or not others:
        raise UserError(f"{source} has too few texts: give more, or texts to hold out with --held-out.")
    classes = () if is_regression else _classes(training, others)
    say(_described(training, others, classes))
    tokenizer = unbounded(tokenizer)
    if (special := tokenizer.num_special_tokens_to_add(len(text_fields) > 1)) >= seq_len:
        raise UserError(f"--seq-len {seq_len} has no room for a text beside {special} special tokens: raise it.")
    tokenizer.enable_truncation(seq_len, strategy="longest_first")
    encoded = [tokenizer.encode_batch([_input(text) for text in side]) for side in (training, others)]
    _say_what_is_cut(encoded, seq_len, say)
    note_shared(training, others, lambda text: text.texts, say)
    size = max(len(encoding.ids) for side in encoded for encoding in side)
    size = min(-(-size // ROUND_TO) * ROUND_TO, seq_len)
    sides = [_rows(texts, some, classes, size) for texts, some in zip((training, others), encoded, strict=True)]
    digest = hashlib.sha256(repr(classes).encode())
    for side in sides:
        for array in side:
            digest.update(np.ascontiguousarray(array).tobytes())
    return LabelledData(digest.hexdigest()[:32], classes, *sides)


def _parted(texts: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Hold out a part of each class; classes with a single text are trained on."""
    by_class: dict[object, list[Labelled]] = {}
    for text in texts:
        by_class.setdefault(text.label if isinstance(text.label, str) else None, []).append(text)
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for of_class in by_class.values():
        parts: tuple[list[Labelled], list[Labelled]] = (of_class, [])
        if len({text.texts for text in of_class}) > 1:
            parts = part(of_class, key=lambda text: text.texts)
        for side, some in zip(sides, parts, strict=True):
            side.extend(some)
    return sides


def read_labelled(source: str, text_fields: Sequence[str], label_field: str, is_regression: bool) -> list[Labelled]:
    """Read the labelled texts of `files:GLOB`."""
    result = []
    for name, record in read_records(source):
        texts = tuple(text_of(name, record, field) for field in text_fields)
        for field, text in zip(text_fields, texts, strict=True):
            if not text.strip():
                raise UserError(f"{name} has an empty {field}: remove it or complete it.")
        result.append(Labelled(name, texts, _label(name, record, label_field, is_regression)))
    return result


def _label(name: str, record: Mapping[str, Any], field: str, is_regression: bool) -> str | float:
    value = record.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(
            f"{name} has no {field}: it has {', '.join(map(str, record))}. Name the label with --label-field."
        )
    if not is_regression:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # as tables have them in whose column a number was missing once
        if isinstance(value, float) or _is_fraction(value):
            raise UserError(f"{name} has the {field} {value}, which is no class: add --task regression.")
        if not isinstance(value, str | int):
            raise UserError(f"{name} has the {field} {value}, which is no class: it must be a text or an integer.")
        return str(value).strip()
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(f"{name} has the {field} {_short(value)}, which is no number, or none of float32.")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _is_fraction(value: object) -> bool:
    """Whether a text, as .csv has it, is a number that is no integer."""
    try:
        return isinstance(value, str) and not float(value).is_integer()
    except (ValueError, OverflowError):
        return False


def _classes(training: Sequence[Labelled], held_out: Sequence[Labelled]) -> tuple[str, ...]:
    """The classes of the training texts: numbers in their order, names in that of the alphabet."""
    names = {str(text.label) for text in training}
    if len(names) < 2:
        raise UserError(f"all texts to train on have the label {names.pop()}: give at least two classes.")
    are_numbers = all(name.removeprefix("-").isdecimal() for name in names)
    classes = tuple(sorted(names, key=int) if are_numbers else sorted(names))
    for text in held_out:
        if text.label not in names:
            raise UserError(
                f"{text.name} has the label {text.label}, which no text to train on has: {', '.join(classes)}."
            )
    return classes


def _described(training: Sequence[Labelled], held_out: Sequence[Labelled], classes: Sequence[str]) -> str:
    if not classes:
        labels = np.asarray([text.label for text in held_out], np.float64)
        return (
            f"{len(training)} texts to train on, {len(held_out)} held out; always guessing the mean of the latter, "
            f"{labels.mean():.4g}, has a squared error of {labels.var():.4g}"
        )
    counts = [Counter(str(text.label) for text in side) for side in (training, held_out)]
    most, _ = counts[0].most_common(1)[0]
    listed = ", ".join(f"{name}: {counts[0][name]} and {counts[1][name]}" for name in classes)
    return (
        f"{len(training)} texts to train on, {len(held_out)} held out ({listed}); always guessing {most} has an "
        f"accuracy of {counts[1][most] / len(held_out):.4f}"
    )


def _say_what_is_cut(sides: Sequence[Sequence[Encoding]], seq_len: int, say: Callable[[str], None]) -> None:
    if cut := sum(bool(encoding.overflowing) for side in sides for encoding in side):
        say(
            f"{cut} of {sum(map(len, sides))} texts are longer than {seq_len} tokens and are cut: raise --seq-len to "
            "keep them whole"
        )


def _input(text: Labelled) -> str | tuple[str, ...]:
    return text.texts[0] if len(text.texts) == 1 else text.texts


def _rows(texts: Sequence[Labelled], encoded: Sequence[Encoding], classes: Sequence[str], size: int) -> Texts:
    tokens, types = (np.zeros((len(texts), size), np.int32) for _ in range(2))
    mask = np.zeros((len(texts), size), np.bool_)
    for i, encoding in enumerate(encoded):
        count = len(encoding.ids)
        tokens[i, :count], types[i, :count], mask[i, :count] = encoding.ids, encoding.type_ids, True
    if classes:
        labels = np.asarray([classes.index(str(text.label)) for text in texts], np.int32)
    else:
        labels = np.asarray([text.label for text in texts], np.float32)
    return Texts(tokens, mask, types, labels)
