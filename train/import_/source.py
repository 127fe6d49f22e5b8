"""A folder of Hugging Face, checked: what `models` raises about it becomes a `UserError` here."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from models import EncoderConfig, LlamaConfig, from_hf_config, from_hf_state_dict, left_out
from models.config import DTYPES
from models.hf_folder import CONFIG, INDEX, PICKLED, Weights, read_settings
from train.config.run import UserError
from train.data.tokenizer import special_tokens_around
from train.storage.model import MODULES, TOKENIZER

SMALL = 50 * 10**6  # bytes; the largest tokenizers have 35 MB
SAFETENSORS = ".safetensors"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")
NAMED = 5  # tensors in a message
# Rows of an embedding without a token, at most: some models have a multiple of 512 rows, as
# Qwen2-7B, whose 152,064 rows have 151,665 tokens.
PADDING = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A folder of Hugging Face whose settings, tokenizer and headers are sound."""

    folder: Path
    settings: Mapping[str, Any]  # the content of config.json
    network: LlamaConfig | EncoderConfig
    weights: Weights
    tokens: frozenset[int]  # of the tokenizer

    def params(self) -> dict[str, Any]:
        """Read the weights.

        Raises:
          UserError: If they do not fit the settings, or have several types.
        """
        with _reported(self.folder):
            params = from_hf_state_dict(self.network, self.weights)
        names = sorted(dtype.name for dtype in set(_dtypes(params)))
        if len(names) > 1 or names[0] not in DTYPES:
            raise UserError(
                f"{self.folder} has weights of type {' and '.join(names)}, but one of {', '.join(DTYPES)} is needed "
                "for all: save the checkpoint in one type."
            )
        return params

    def left_out(self) -> list[str]:
        """The tensors that no parameter here is made of, or a few of many."""
        return _a_few(left_out(self.network, self.weights))

    def without_token(self) -> int:
        """The rows of the embedding without a token, if padding does not explain them."""
        rows = self.network.vocab_size - len(self.tokens)
        return rows if rows >= PADDING else 0

    def dropout(self) -> list[str]:
        """The settings that ask for dropout in training."""
        return [f"{name} {value}" for name, value in self.settings.items() if "dropout" in name and value]

    def small_files(self) -> list[Path]:
        """The files beside settings, tokenizer and weights, which an export returns.

        They include those of the modules of Sentence Transformers, such as 1_Pooling, which may
        have small weights of their own.
        """
        others = (CONFIG, TOKENIZER, INDEX, *PICKLED, f"*{SAFETENSORS}")
        own = [path for path in self.folder.iterdir() if not any(map(path.match, others))]
        return [
            path
            for path in sorted([*own, *(path for folder in self._modules() for path in folder.iterdir())])
            if path.is_file()
            and self._is_own(path)
            and not path.name.startswith(".")
            and path.suffix not in OTHER_WEIGHTS
            and path.stat().st_size <= SMALL
        ]

    def _modules(self) -> list[Path]:
        """The folders that modules.json names; none outside this folder."""
        path = self.folder / MODULES
        if not path.is_file():
            return []
        whole = self.folder.resolve()
        try:
            folders = {(whole / str(module["path"])).resolve() for module in json.loads(path.read_text())}
        except (ValueError, RecursionError, LookupError, TypeError, OSError) as error:
            raise UserError(f"{path} is no list of modules: {error!r}. Get the file again.") from error
        inside = [folder for folder in folders if folder.is_dir() and whole in folder.parents]
        return [self.folder / folder.relative_to(whole) for folder in inside]

    def _is_own(self, path: Path) -> bool:
        """Whether a file is in the folder, or in the cache of Hugging Face that the folder is in: a
        link to elsewhere must not end up in an export.
        """
        folder, target = self.folder.resolve(), path.resolve()
        return target.is_relative_to(folder) or target.parent == folder.parent.parent / "blobs"


def read_source(folder: Path) -> Source:
    """Read all but the weights, of which only the headers are read.

    Raises:
      UserError: If something is missing, damaged or unsupported.
    """
    with _reported(folder):
        settings = read_settings(folder)
    with _reported(folder / CONFIG):
        network = from_hf_config(settings)
    tokenizer = _tokenizer(folder / TOKENIZER, network.vocab_size)
    tokens = frozenset(tokenizer.get_vocab().values())
    _check_numbers(folder / CONFIG, settings, tokens, isinstance(network, LlamaConfig))
    if settings["model_type"] != "bert":  # which has no such settings
        _check_marks(folder / TOKENIZER, settings, tokenizer)
    with _reported(folder):
        weights = Weights(folder)
    return Source(folder=folder, settings=settings, network=network, weights=weights, tokens=tokens)


def _tokenizer(path: Path, rows: int) -> Tokenizer:
    """Read a tokenizer, whose tokens must have rows of the embedding."""
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {TOKENIZER}: save one there, with AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER) of Transformers."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more specific
        raise UserError(f"{path} is no tokenizer: {error}. Get the file again.") from error
    if (count := max(tokenizer.get_vocab().values(), default=-1) + 1) > rows:
        raise UserError(
            f"{path} has {count} tokens, but the embedding has {rows} rows: this is the tokenizer of another model, "
            "so get the right one."
        )
    return tokenizer


def _check_numbers(path: Path, settings: Mapping[str, Any], tokens: frozenset[int], is_decoder: bool) -> None:
    """Refuse settings that only a later command would use: special tokens and the longest text."""
    window = settings.get("max_position_embeddings")
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise UserError(f"{path} has the max_position_embeddings {window!r}: it must be the longest text in tokens.")
    for name in ("bos_token_id", "eos_token_id") if is_decoder else ("pad_token_id",):
        given = settings.get(name)
        for token in given if isinstance(given, list) and name == "eos_token_id" else [given]:
            if token is not None and (not isinstance(token, int) or isinstance(token, bool) or token not in tokens):
                raise UserError(
                    f"{path} has the {name} {token!r}, which {TOKENIZER} does not have: one of them is of another "
                    "model, so get both again."
                )


def _check_marks(path: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that begins or ends a text with other tokens than the settings name."""
    before, after = special_tokens_around(tokenizer)
    for name, tokens, where in (("bos_token_id", before[:1], "before"), ("eos_token_id", after[-1:], "after")):
        given = settings.get(name)
        known = given if isinstance(given, list) else [given]
        if tokens and given is not None and tokens[0] not in known:
            raise UserError(
                f"{path} puts the token {tokens[0]} {where} a text, but {CONFIG} has the {name} {given}: one of them "
                "is of another model, so get both again."
            )


@contextlib.contextmanager
def _reported(where: Path) -> Iterator[None]:
    """Turn an error of `models` into that of a user, who gave `where`."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:  # settings may be of any type
        first, *misfits = str(error).splitlines() or [type(error).__name__]
        misfits = _a_few(misfits)
        message = first if str(where) in first else f"{where}: {first}"
        raise UserError(" ".join([message, "; ".join(misfits)]).strip()) from error


def _a_few(names: list[str]) -> list[str]:
    return names if len(names) <= NAMED else [*names[:NAMED], f"and {len(names) - NAMED} more"]


def _dtypes(tree: Mapping[str, Any]) -> Iterator[np.dtype]:
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _dtypes(value)
        else:
            yield value.dtype
