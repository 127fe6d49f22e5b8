"""From --data to tokens in the cache: read twice, once to plan, once to tokenize.

The cache has a folder for each text and tokenizer, named after their fingerprint, and in
sources/ a note for each --data: the fingerprint of its text, and size and time of change of its
files. While these are the same, no text is read.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from train.config.run import DataFlags, UserError
from train.data.cache import (
    LAYOUT,
    SIDES,
    TOKENIZER,
    Tokens,
    Writer,
    new_folder,
    open_tokens,
    room_for,
    write_manifest,
)
from train.data.corpus import pieces, survey
from train.data.encoding import encode_texts, in_batches
from train.data.formats import Unreadable
from train.data.notes import Note, changed_files, note_path, read_note
from train.data.plan import DIGEST, Piece, Plan
from train.data.progress import Progress
from train.data.sources import Source, open_source
from train.data.tokenizer import end_of_text, read_tokenizer, size_of, train_tokenizer
from train.system.files import locked, write_whole

Say = Callable[[str], None]


def load_tokens(
    config: DataFlags, vocab_size: int, fingerprint: str | None = None, say: Say = print, must_look: bool = False
) -> Tokens:
    """Return the tokens of a corpus from the cache, preparing them first if necessary.

    With a `fingerprint`, only the tokens with this fingerprint are accepted. If they are in the
    cache, the corpus is not looked at, unless it `must_look`; if they are not and the corpus has
    changed, that is an error.
    """
    if fingerprint and not fingerprint.startswith(f"{LAYOUT}-"):
        raise UserError(
            "the run was started by an earlier version of the trainer, which divided texts differently: resume it "
            "with that version, or start a new run in another --run-dir."
        )
    if fingerprint and not must_look and (tokens := open_tokens(config.cache_dir, fingerprint, say)):
        return tokens
    source = open_source(config.data, config.data_megabytes, config.cache_dir, say)
    state, path = source.state(), note_path(config, vocab_size)

    def cached(say: Say) -> Tokens | None:
        note = read_note(path)
        if note and (changes := changed_files(note.state, state)):
            say(f"--data {config.data} has changed since it was last read: {changes}")
            return None
        return open_tokens(config.cache_dir, note.fingerprint, say) if note else None

    def waiting() -> None:
        say(f"waiting for another process that prepares a text in {config.cache_dir}")

    with locked(config.cache_dir, waiting=waiting):
        tokens = cached(say)
    if tokens is None:
        source.prepare()  # without the lock, which others need
        with locked(config.cache_dir, waiting=waiting):
            if (tokens := cached(lambda _: None)) is None:
                tokens = _prepare(config, source, vocab_size, fingerprint, say)
                path.parent.mkdir(exist_ok=True)
                write_whole(path, json.dumps(Note(tokens.fingerprint, state)._asdict()) + "\n")
    _refuse_other_text(config, fingerprint, tokens.fingerprint)
    return tokens


def _refuse_other_text(config: DataFlags, expected: str | None, current: str) -> None:
    if expected not in (None, current):
        raise UserError(
            f"--data {config.data} is no longer the text of this run, and its tokens are not in the "
            f"cache {config.cache_dir}: restore either, or start a new run in another --run-dir."
        )


def _prepare(config: DataFlags, source: Source, vocab_size: int, expected: str | None, say: Say) -> Tokens:
    """Read the corpus, and tokenize it if the cache lacks its tokens. The caller holds the lock."""
    skipped: list[str] = []

    def refuse(error: Unreadable, _: object) -> None:
        if not config.skip_unreadable:
            raise Unreadable(f"{str(error).removesuffix('.')}, or pass --skip-unreadable.") from error
        skipped.append(str(error))

    with Progress(say, "read") as progress:
        plan, sample = survey(source, config.data_megabytes, refuse, progress.add)
    if skipped:
        say(f"skipped {len(skipped)} files that cannot be read, for example: {skipped[0]}")
    if not plan.size:
        raise UserError(
            f"--data {config.data} has no text within --data-megabytes {config.data_megabytes:g} (0: all): raise the "
            "limit or choose other text."
        )
    tokenizer, end = _tokenizer(config, vocab_size, sample, say)
    del sample
    fingerprint = _fingerprint(plan, tokenizer, end)
    _refuse_other_text(config, expected, fingerprint)
    tokens = open_tokens(config.cache_dir, fingerprint, say)
    if tokens is None:
        training, held_out = plan.counts
        counts = f"{training} training and {held_out} held-out documents"
        say(f"tokenizing {plan.size / 1e6:.1f} MB of text (cached for later runs): {counts}")
        texts = _texts(config, source, plan)
        _write(config.cache_dir, fingerprint, plan, texts, tokenizer, end, say)
        tokens = open_tokens(config.cache_dir, fingerprint, say)
    assert tokens is not None  # it has just been verified or written
    return tokens


def _tokenizer(config: DataFlags, vocab_size: int, sample: list[str], say: Say) -> tuple[Tokenizer, int]:
    """Return the tokenizer, and the token that ends a document."""
    if config.tokenizer is None:
        say(f"training a tokenizer on {sum(map(len, sample)) / 1e6:.1f} million characters")
        tokenizer = train_tokenizer(sample, vocab_size)
    else:
        tokenizer = read_tokenizer(config.tokenizer)
    end = end_of_text(tokenizer, config.end_of_text)
    if config.tokenizer is not None:
        say(f"documents end with {tokenizer.id_to_token(end)}, token {end} of {config.tokenizer}")
    return tokenizer, end


def _fingerprint(plan: Plan, tokenizer: Tokenizer, end: int) -> str:
    digest = hashlib.sha256(f"{tokenizer.to_str()} {end} ".encode())
    for part in plan.identity():
        digest.update(part)
    return f"{LAYOUT}-{digest.hexdigest()[:30]}"


def _texts(config: DataFlags, source: Source, plan: Plan) -> Iterator[tuple[bool, str, bool]]:
    """Read the corpus again: (whether it is held out, text, whether it ends a document)."""
    before = None
    for piece in unchanged(pieces(source, config.data_megabytes, lambda *_: None), plan):
        for is_held_out, text in plan.sides(piece):
            key = piece.document, is_held_out
            if before:
                yield before[0][1], before[1], before[0] != key
            before = key, text
    if before:
        yield before[0][1], before[1], True


def unchanged(again: Iterator[Piece], plan: Plan) -> Iterator[Piece]:
    """Yield the pieces of a second reading.

    Raises:
      UserError: If a document is not the same as in the first; it is named.
    """
    number, name, digest = -1, "the text", hashlib.sha256()
    last = int(np.flatnonzero(plan.sizes)[-1])

    def check(following: int) -> None:
        is_same = number < 0 or digest.digest()[:DIGEST] == plan.digests[number].tobytes()
        if not is_same or plan.sizes[number + 1 : following].any() or following > last + 1:
            raise UserError(f"{name}, or the text after it, changed while it was read: run the command again.")

    for piece in again:
        if piece.document != number:
            check(piece.document)
            number, name, digest = piece.document, piece.name, hashlib.sha256()
            if number > last:
                check(number + 1)
        digest.update(piece.utf8)
        yield piece
    check(last + 1)


def _write(
    cache_dir: Path,
    fingerprint: str,
    plan: Plan,
    texts: Iterator[tuple[bool, str, bool]],
    tokenizer: Tokenizer,
    end: int,
    say: Say,
) -> None:
    """Encode and write a folder of the cache."""
    dtype, progress = np.min_scalar_type(size_of(tokenizer) - 1), Progress(say, "tokenized", plan.size)
    written = 0

    def needed() -> float:
        return written * plan.size / max(progress.done, 1)

    with room_for(cache_dir, needed), progress, new_folder(cache_dir, fingerprint) as folder:
        with contextlib.ExitStack() as stack:
            train, held_out = (stack.enter_context(Writer(folder / f"{side}.bin")) for side in SIDES)
            for batch in in_batches(texts, lambda item: len(item[1])):
                encoded = encode_texts(tokenizer, [text for _, text, _ in batch], dtype)
                for (is_held_out, text, is_end), ids in zip(batch, encoded, strict=True):
                    written += ids.nbytes
                    progress.add(len(text.encode()))
                    (held_out if is_held_out else train).write(np.append(ids, dtype.type(end)) if is_end else ids)
        tokenizer.save(str(folder / TOKENIZER))
        training, held_out_documents = plan.counts
        write_manifest(
            folder,
            {
                "dtype": dtype.name,
                "end_of_text": end,
                "bytes_of_text": plan.size,
                "documents": {"train": training, "held_out": held_out_documents},
            },
        )
