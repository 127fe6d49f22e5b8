"""The tokenizer: byte-level BPE that is trained on a sample of the text, or that of a file.

At byte level every string can be encoded and is decoded exactly, and every token has a known number
of bytes, which bits per byte needs.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from train.config.run import UserError

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")  # what known tokenizers call it
# Longer runs of letters, digits, marks or spaces are cut for training, whose time is quadratic in
# their length; no word of a language is this long, and the default corpus has no such run.
RUN = 256
_LONG = re.compile(
    rf"(?<![^\W\d_])[^\W\d_]{{{RUN},}}|(?<!\d)\d{{{RUN},}}"
    rf"|(?<![^\s\w])(?<!_)(?:[^\s\w]|_){{{RUN},}}|(?<!\s)\s{{{RUN},}}"
)
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_SPACES = re.compile(rf"(?<!\s)\s{{{RUN}}}")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of at most `vocab_size` tokens; fewer if the texts have too few pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT],
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator((part for text in texts for part in without_long_runs(text)), trainer)
    return _plain(tokenizer)


def without_long_runs(text: str) -> Iterator[str]:
    """Yield a text in parts without runs of more than `RUN` characters of a kind."""
    at = 0
    if any(len(word) > RUN for word in text.split()) or _SPACES.search(text):
        for run in _LONG.finditer(text):
            for end in range(run.start() + RUN, run.end(), RUN):
                yield text[at:end]
                at = end
    yield text[at:]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer saved with `Tokenizer.save`."""
    return _plain(Tokenizer.from_file(str(path)))


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json to train with; it adds nothing to a text and cuts none.

    Raises:
      UserError: If the file is no tokenizer, or one whose tokens do not say which bytes they are.
    """
    try:
        content = json.loads(path.read_text())
        tokenizer = Tokenizer.from_str(
            json.dumps(content | {"post_processor": None, "truncation": None, "padding": None})
        )
    except OSError as error:
        raise UserError(f"--tokenizer {path} cannot be read ({error.strerror}): give a tokenizer.json.") from error
    except Exception as error:  # the package raises nothing more specific
        raise UserError(f"--tokenizer {path} is no tokenizer.json ({error}).") from error
    if _alphabet(tokenizer) is None:
        raise UserError(
            f"--tokenizer {path} is neither a byte-level tokenizer nor one with ▁ for spaces, so that the bytes of its "
            "tokens are unknown: choose another."
        )
    return _plain(tokenizer)


def end_of_text(tokenizer: Tokenizer, name: str) -> int:
    """Return the token that ends a document: `name`, or the one of the usual names that there is.

    Raises:
      UserError: If there is none.
    """
    for spelling in (name,) if name else ENDS:
        if (token := tokenizer.token_to_id(spelling)) is not None:
            return int(token)
    special = [str(token.content) for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    missing = f"--end-of-text {name} is no token of" if name else f"none of {', '.join(ENDS)} is a token of"
    raise UserError(
        f"{missing} the tokenizer: name the one that ends a document with --end-of-text. "
        f"Its special tokens are: {', '.join(special[:10]) or 'none'}."
    )


def size_of(tokenizer: Tokenizer) -> int:
    """Return the least size of a vocabulary that has all tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def special_tokens_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before a text, and those after it."""
    encoding = unbounded(tokenizer).encode("a")
    marked = [*zip(encoding.ids, encoding.special_tokens_mask, strict=True)]

    def leading(tokens: Iterable[tuple[int, int]]) -> list[int]:
        return [token for token, _ in itertools.takewhile(lambda mark: mark[1], tokens)]

    return leading(marked), leading(reversed(marked))[::-1]


def unbounded(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither cuts nor pads texts, whatever its file says."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    copy.no_truncation()
    copy.no_padding()
    return copy


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    # The string <|endoftext|> in a text is plain text. The saved file lacks this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer


def for_prompts(tokenizer: Tokenizer, beginning: int | None) -> Tokenizer:
    """Return a copy that recognises special tokens, as people write them into prompts, and neither
    cuts nor pads texts.

    It puts the token `beginning`, if that is given, before every text.
    """
    copy = unbounded(tokenizer)
    copy.encode_special_tokens = False
    if beginning is not None:
        spelling = copy.id_to_token(beginning)
        mark = processors.TemplateProcessing(single=[spelling, "$A"], special_tokens=[(spelling, beginning)])
        copy.post_processor = mark
    return copy


def token_bytes(tokenizer: Tokenizer, end: int) -> np.ndarray:
    """Return the bytes of text of each token; the end of text and special tokens have none."""
    alphabet = _alphabet(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    lengths = np.zeros(size_of(tokenizer), np.int64)
    for spelling, token in tokenizer.get_vocab().items():
        if token in added:
            lengths[token] = 0 if added[token].special else len(spelling.encode())
        elif alphabet == "bytes":
            lengths[token] = len(spelling)  # one character per byte
        else:
            lengths[token] = 1 if _BYTE.fullmatch(spelling) else len(spelling.replace("▁", " ").encode())
    lengths[end] = 0
    return lengths


def _alphabet(tokenizer: Tokenizer) -> str | None:
    """What tokens are spelled in: a character for each byte, or text with ▁ for spaces."""
    decoder = json.dumps(json.loads(tokenizer.to_str())["decoder"], ensure_ascii=False)
    return "bytes" if '"ByteLevel"' in decoder else "spaces" if "▁" in decoder else None
