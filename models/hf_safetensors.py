"""Files of safetensors: eight bytes with the size of a header in JSON, the header, the numbers.

The package `safetensors` checks a file, and here its tensors are read and written one after the
other: the package maps a file into memory to read it, and copies all that it writes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import safe_open

# The format's name of a type -> NumPy's.
TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in TYPES.items()}
SIZE = 8  # bytes of the size of the header; the format aligns the numbers to as many
AT_ONCE = 16 * 2**20  # bytes of a tensor that are copied to be written


class Entry(NamedTuple):
    """Where a tensor is."""

    path: Path
    type: str  # the format's name
    shape: tuple[int, ...]
    start: int  # of its numbers in the file
    bytes: int

    def read(self) -> np.ndarray:
        """Return the tensor."""
        if self.type not in TYPES:
            raise ValueError(f"{self.path} has tensors of the type {self.type}, which NumPy does not have.")
        numbers = np.empty(self.bytes, np.uint8)
        with open(self.path, "rb") as file:
            file.seek(self.start)
            count = file.readinto(numbers.data)
        if count < self.bytes:
            raise OSError(f"{self.path} has become shorter since it was opened")
        return numbers.view(TYPES[self.type]).reshape(self.shape)


def read_entries(path: Path) -> dict[str, Entry]:
    """Return the tensors of a file from its header, which must agree with the size of the file.

    Raises:
      SafetensorError, OSError: If it does not, or the file cannot be read.
    """
    with safe_open(path, framework="numpy"):  # checks the header
        pass
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(SIZE), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: Entry(path, entry["dtype"], tuple(entry["shape"]), SIZE + size + start, end - start)
        for name, entry in header.items()
        for start, end in [entry["data_offsets"]]
    }


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors, of which no more than `AT_ONCE` bytes are copied at a time.

    Raises:
      ValueError: If the format does not have the type of a tensor.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name} is {tensor.dtype}, which safetensors does not have.")
    # Types of many bytes come first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, end)}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % SIZE)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(SIZE, "little") + encoded)
        for _, tensor in ordered:
            for part in _parts(tensor):
                file.write(np.ascontiguousarray(part).view(np.uint8).data)


def _parts(tensor: np.ndarray) -> Iterator[np.ndarray]:
    """Split a tensor along its first axis into parts that are copied one after the other."""
    if tensor.ndim == 0:
        yield tensor[None]
        return
    rows = max(AT_ONCE * len(tensor) // max(tensor.nbytes, 1), 1)
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]
