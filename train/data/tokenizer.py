"""The tokenizer: byte-level BPE, trained on the training documents of a corpus.

At byte level every string can be encoded and is decoded exactly, and every token has a known number
of bytes, which bits per byte needs.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of at most `vocab_size` tokens; fewer if the texts have too few pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _plain(tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer saved with `Tokenizer.save`."""
    return _plain(Tokenizer.from_file(str(path)))


def leading_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text."""
    encoding = tokenizer.encode("a")
    marks = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [token for token, _ in itertools.takewhile(lambda mark: mark[1], marks)]


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


def encode_documents(tokenizer: Tokenizer, texts: list[str], at_once: int = 256) -> Iterator[np.ndarray]:
    """Yield the tokens of each text in order, followed by the end of text."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    for start in range(0, len(texts), at_once):  # in groups, as encodings are many times larger than their text
        for encoding in tokenizer.encode_batch_fast(texts[start : start + at_once]):
            yield np.asarray([*encoding.ids, end], dtype=np.int64)


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Return the bytes of text of each token; the end of text has none."""
    # At byte level the string of a token has one character per byte.
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for spelling, token in tokenizer.get_vocab().items():
        lengths[token] = len(spelling)
    lengths[tokenizer.token_to_id(END_OF_TEXT)] = 0
    return lengths
