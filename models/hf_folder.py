"""A folder of Hugging Face: config.json and weights in safetensors, one file or several.

Nothing is unpickled. Weights are read and written tensor by tensor.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError

from models.hf_safetensors import TYPES, Entry, read_entries, write_safetensors

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "consolidated*.pth")
SHARD_BYTES = 5 * 10**9  # of one file


class FolderError(ValueError):
    """A folder that cannot be read: what is wrong, and what to do."""


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the files; their headers are checked, their data is not read."""
        self._entries: dict[str, Entry] = {}
        for path in _files(folder):
            try:
                entries = read_entries(path)
            except (SafetensorError, OSError) as error:
                raise FolderError(f"{path} is damaged or cut short: {error}. Get the file again.") from error
            if twice := sorted(entries.keys() & self._entries):
                raise FolderError(f"{path} has {twice[0]}, as another file has: get the files again.")
            self._entries |= entries

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._entries[name].read()
        except OSError as error:
            raise FolderError(f"{name} cannot be read: {error}. Get the files again.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from its header."""
        return self._entries[name].shape

    def type_of(self, name: str) -> str:
        """NumPy's name of the type of a tensor, or the format's if NumPy has none."""
        kind = self._entries[name].type
        return TYPES[kind].name if kind in TYPES else kind

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(entry.bytes for entry in self._entries.values())


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of config.json.

    Raises:
      FolderError: If there is none, or it is not a JSON object.
    """
    path = folder / CONFIG
    if folder.is_file():
        raise FolderError(f"{folder} is a file: give the folder that it is in, in the format of Hugging Face.")
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        raise FolderError(f"{folder} has no {CONFIG}: give a folder in the format of Hugging Face.") from None
    except OSError as error:
        raise FolderError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} is no JSON: {error}. Get the file again.") from error
    if not isinstance(settings, dict):
        raise FolderError(f"{path} holds no JSON object. Get the file again.")
    return settings


def write_folder(
    folder: Path,
    settings: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write a folder that Hugging Face reads, file by file.

    Args:
      folder: A folder without these files; it is made if it is missing.
      settings: The content of config.json.
      weights: The tensors, in files of at most `SHARD_BYTES` or one tensor. None is copied as a
        whole, so views of other arrays take no memory.
      files: The content of further files, by their paths in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / CONFIG).write_text(json.dumps(dict(settings), indent=2) + "\n")
    shards = _shards(weights)
    names = {WEIGHTS: shards[0]} if len(shards) == 1 else {
        f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)
    }  # fmt: skip
    for file, tensors in names.items():
        write_safetensors(folder / file, {name: weights[name] for name in tensors})
    if len(shards) > 1:
        total = sum(weights[name].nbytes for name in weights)
        index = {name: file for file, tensors in names.items() for name in tensors}
        described = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(described, indent=2) + "\n")


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the one, or those of its index, as in Transformers."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        try:
            listed = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise FolderError(f"{folder / INDEX} is no index of weights: {error}. Get the file again.") from error
        inside = [folder / Path(name).name for name in listed]
        if missing := [path.name for path in inside if not path.exists()]:
            raise FolderError(f"{folder} lacks {', '.join(missing)}, which its index names. Get them again.")
        return inside
    if any(path for pattern in PICKLED for path in folder.glob(pattern)):
        raise FolderError(
            f"{folder} has its weights in pickled files, which may run code when they are read. Convert them where you "
            f"trust them, with Transformers: {_class_of(folder)}.from_pretrained(FOLDER).save_pretrained(NEW) and "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)."
        )
    raise FolderError(f"{folder} has no {WEIGHTS} and no {INDEX}: give a folder with weights in safetensors.")


def _class_of(folder: Path) -> str:
    """The class of Transformers that keeps all weights of a folder."""
    try:
        settings = read_settings(folder)
    except FolderError:
        settings = {}
    match settings.get("architectures"):
        case [str(name), *_] if name.isidentifier():
            return name
    return "AutoModel" if settings.get("model_type") in ("bert", "roberta") else "AutoModelForCausalLM"


def _shards(weights: Mapping[str, np.ndarray]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name in weights:
        own = weights[name].nbytes
        if shards[-1] and size + own > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += own
    return shards
