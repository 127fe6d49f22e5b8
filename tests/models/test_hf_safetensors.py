"""What is written here is what the package `safetensors` reads, and the other way round."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import hf_safetensors
from models.hf_safetensors import read_entries, write_safetensors

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "half": np.arange(5, dtype=np.float16),
    "brain": np.linspace(-1, 1, 7).astype(ml_dtypes.bfloat16),
    "matrix": MATRIX,
    "transposed": MATRIX.T,
    "a layer": np.stack([MATRIX, 2 * MATRIX])[1].T,
    "scalar": np.asarray(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "counts": np.arange(3),
    "flags": np.asarray([True, False]),
}


@pytest.mark.parametrize("at_once", [hf_safetensors.AT_ONCE, 1], ids=["whole", "row by row"])
def test_the_package_reads_what_is_written(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_safetensors, "AT_ONCE", at_once)
    write_safetensors(tmp_path / "file", TENSORS)
    read = load_file(tmp_path / "file")
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_what_the_package_writes_is_read(tmp_path):
    tensors = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in TENSORS.items()}
    save_file(tensors, tmp_path / "file")
    entries = read_entries(tmp_path / "file")
    assert set(entries) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert entries[name].shape == tensor.shape
        assert entries[name].read().dtype == tensor.dtype
        np.testing.assert_array_equal(entries[name].read(), tensor)


def test_every_tensor_is_aligned(tmp_path):
    write_safetensors(tmp_path / "file", TENSORS)
    for name, entry in read_entries(tmp_path / "file").items():
        assert entry.start % TENSORS[name].dtype.itemsize == 0, name


def test_a_type_that_the_format_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match="z is complex64, which safetensors does not have"):
        write_safetensors(tmp_path / "file", {"z": np.zeros(2, np.complex64)})
    assert not (tmp_path / "file").exists()


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="tensors of the type F8_E4M3, which NumPy does not have"):
        read_entries(tmp_path / "file")["w"].read()
