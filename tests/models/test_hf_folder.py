"""Weights in safetensors: read one by one, written whole, refused with a sentence."""

import json

import ml_dtypes
import numpy as np
import pytest

from models import hf_folder
from models.hf_folder import FolderError, Weights, read_settings, write_folder

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.ones(5, ml_dtypes.bfloat16),
    "c": np.zeros((2, 2), np.float32),
}


@pytest.fixture(params=["one file", "an index"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "an index":
        monkeypatch.setattr(hf_folder, "SHARD_BYTES", 50)
    write_folder(tmp_path / "weights", {"model_type": "llama"}, TENSORS)
    return tmp_path / "weights"


def test_what_is_written_is_read_in_the_same_types(folder):
    weights = Weights(folder)
    assert set(weights) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert weights.shape_of(name) == expected.shape
        assert weights[name].dtype == expected.dtype
        np.testing.assert_array_equal(weights[name], expected)
    assert read_settings(folder) == {"model_type": "llama"}
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_a_file_that_is_cut_short_is_named(folder):
    path = max(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FolderError, match=rf"{path.name} is damaged or cut short.*Get the file again"):
        Weights(folder)


def test_a_file_that_the_index_names_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_folder, "SHARD_BYTES", 50)
    write_folder(tmp_path / "w", {}, TENSORS)
    gone = min((tmp_path / "w").glob("*.safetensors"))
    gone.unlink()
    with pytest.raises(FolderError, match=rf"lacks {gone.name}, which its index names"):
        Weights(tmp_path / "w")


def test_an_index_names_no_file_elsewhere(tmp_path):
    write_folder(tmp_path / "other", {}, TENSORS)
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))
    with pytest.raises(FolderError, match=r"lacks model.safetensors"):
        Weights(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no model.safetensors and no model.safetensors.index.json"),
        ({"pytorch_model.bin": b"\x80\x04"}, "pickled files.*AutoModelForCausalLM.*save_pretrained"),
        ({"model.safetensors": b"not a header"}, "is damaged or cut short"),
        ({"model.safetensors.index.json": b"[]"}, "is no index of weights"),
    ],
)
def test_folders_without_readable_weights_are_refused(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=message):
        Weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "has no config.json"), ("{", "is no JSON"), ("[]", "holds no JSON object")]
)
def test_settings_that_cannot_be_read_are_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FolderError, match=message):
        read_settings(tmp_path)


def test_other_files_appear_with_the_weights(tmp_path):
    write_folder(tmp_path / "w", {}, TENSORS, {"tokenizer.json": b"{}"})
    assert (tmp_path / "w" / "tokenizer.json").read_bytes() == b"{}"


def test_types_and_bytes_are_known_before_the_tensors_are_read(folder):
    weights = Weights(folder)
    assert {name: weights.type_of(name) for name in weights} == {"a": "float32", "b": "bfloat16", "c": "float32"}
    assert weights.nbytes == 12 * 4 + 5 * 2 + 4 * 4


def test_a_file_that_shrinks_after_it_was_opened_is_named(tmp_path):
    write_folder(tmp_path / "w", {}, TENSORS)
    weights, path = Weights(tmp_path / "w"), tmp_path / "w" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FolderError, match="has become shorter since it was opened. Get the files again"):
        weights["b"]
