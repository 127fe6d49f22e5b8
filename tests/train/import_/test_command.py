"""A folder of Hugging Face becomes a model here, unchanged, or is refused with a sentence."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from models import count_parameters, from_hf_state_dict
from models.hf_folder import Weights
from tests.train.foreign import NETWORK, foreign_tokenizer, write_foreign
from tests.train.foreign_encoders import write_encoder
from train.__main__ import main
from train.data.tokenizer import train_tokenizer
from train.program.task import abstract_params
from train.storage.model import read_model
from train.storage.weights import restore_params_on_host
from train.system import files


def imported(source: Path, out: Path) -> int:
    return main(["import", "--from", str(source), "--out", str(out)])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_weights_keep_their_type_and_every_bit(dtype: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_foreign(tmp_path / "theirs", dtype=dtype)
    assert imported(source, tmp_path / "ours") == 0
    name = np.dtype(dtype).name
    assert f"imported a llama with {count_parameters(NETWORK):,} parameters in {name}" in capsys.readouterr().out
    model = read_model(tmp_path / "ours")
    assert model.network.param_dtype == name
    params = restore_params_on_host(tmp_path / "ours" / "checkpoints", None, abstract_params(model.network))
    expected = from_hf_state_dict(NETWORK, Weights(source))
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype == dtype
        assert x.tobytes() == y.tobytes()


def test_the_other_files_are_kept(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "theirs")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (source / "original").mkdir()
    assert imported(source, tmp_path / "ours") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    kept = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert kept == ["checkpoints", "files", "model.json", "tokenizer.json"]
    files = sorted(path.name for path in (tmp_path / "ours" / "files").iterdir())
    assert files == ["chat_template.jinja", "generation_config.json", "tokenizer_config.json"]
    assert json.loads((tmp_path / "ours/model.json").read_text()) == json.loads((source / "config.json").read_text())
    for name in ("tokenizer.json", "files/chat_template.jinja"):
        assert (tmp_path / "ours" / name).read_bytes() == (source / Path(name).name).read_bytes()


def test_the_type_is_that_of_the_weights_whatever_the_settings_say(tmp_path: Path) -> None:
    write_foreign(tmp_path / "theirs", dtype=np.float16, settings={"torch_dtype": "bfloat16"})
    assert imported(tmp_path / "theirs", tmp_path / "ours") == 0
    assert json.loads((tmp_path / "ours" / "model.json").read_text())["torch_dtype"] == "float16"


@pytest.mark.parametrize("surplus", [0, 511, 512])
def test_many_rows_without_a_token_are_noted(surplus: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = foreign_tokenizer().get_vocab_size() + surplus
    source = write_foreign(tmp_path / "theirs", network=dataclasses.replace(NETWORK, vocab_size=rows))
    assert imported(source, tmp_path / "ours") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    expected = f"note: 512 of the {rows} rows of the embedding have no token in tokenizer.json: "
    assert notes == ([f"{expected}check that it belongs to this model"] if surplus == 512 else [])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def changed(**settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(content))

    return change


def rewritten(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        shutil.rmtree(folder)
        write_foreign(folder, change=change)

    return rewrite


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def twice(folder: Path) -> None:
    weights = folder / "model.safetensors"
    shutil.copyfile(weights, folder / "a.safetensors")
    weights.rename(folder / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def with_another_tokenizer(folder: Path) -> None:
    train_tokenizer([" ".join(f"{word}" for word in range(9999))], 400).save(str(folder / "tokenizer.json"))


def in_two_types(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)


def in_float64(tensors: dict[str, np.ndarray]) -> None:
    tensors |= {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


BAD = {
    "no settings": (without("config.json"), "has no config.json: give a folder in the format of Hugging Face"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
    "another model": (changed(model_type="mamba"), "model_type is 'mamba', but only"),
    "an unknown setting": (changed(logit_soft_cap=30.0), "the setting logit_soft_cap, 30.0, is not known here"),
    "another activation": (changed(hidden_act="gelu"), "hidden_act is 'gelu', but the model here computes 'silu' only"),
    "quantized": (changed(quantization_config={"bits": 4}), "the setting quantization_config"),
    "sizes of no use": (changed(num_attention_heads=3), "is not divisible by num_heads=3"),
    "a size that is text": (changed(hidden_size="big"), "hidden_size must be a positive int, got 'big'"),
    "rates that are text": (changed(rms_norm_eps="small"), "config.json: "),
    "another shape": (changed(intermediate_size=32), "wrong shape: model.layers.0.mlp.gate_proj.weight is (24, 16)"),
    "more layers": (changed(num_hidden_layers=9), "missing: model.layers.3.input_layernorm.weight"),
    "a missing tensor": (rewritten(lambda x: x.pop("model.norm.weight")), "missing: model.norm.weight"),
    "a surplus tensor": (rewritten(lambda x: x.update(extra=np.zeros(3))), "unexpected: extra"),
    "two types": (rewritten(in_two_types), "has weights of type float16 and float32, but one of"),
    "a type that is not used": (rewritten(in_float64), "has weights of type float64, but one of float32, bfloat16"),
    "cut short": (cut_short, "model.safetensors is damaged or cut short"),
    "pickled": (pickled, "has its weights in pickled files"),
    "no weights": (without("model.safetensors"), "has no model.safetensors and no model.safetensors.index.json"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer.json: save one there"),
    "a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        "tokenizer.json is no tokenizer",
    ),
    "another tokenizer": (with_another_tokenizer, "has 400 tokens, but the embedding has 310 rows"),
    "an end of another tokenizer": (changed(eos_token_id=[1, 9999]), "has the eos_token_id 9999, which tokenizer.json"),
    "an end of another kind": (changed(eos_token_id={"id": 1}), "has the eos_token_id {'id': 1}, which tokenizer.json"),
    "several beginnings": (changed(bos_token_id=[300]), "has the bos_token_id [300], which tokenizer.json does not"),
    "marks of another tokenizer": (changed(bos_token_id=5), "before a text, but config.json has the bos_token_id 5"),
    "a head that is text": (
        changed(tie_word_embeddings="no"),
        "tie_word_embeddings is 'no', but must be true or false",
    ),
    "a weight twice": (twice, "as another file has: get the files again"),
    "an end that is text": (changed(eos_token_id="</s>"), "has the eos_token_id '</s>', which tokenizer.json does not"),
    "no longest text": (changed(max_position_embeddings=None), "has the max_position_embeddings None: it must be"),
    "no list of modules": (lambda folder: (folder / "modules.json").write_text("[3]"), "modules.json is no list of"),
    "nothing": (shutil.rmtree, "has no config.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD[name]
    source = write_foreign(tmp_path / "theirs")
    spoil(source)
    assert imported(source, tmp_path / "ours") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"theirs"}


def test_dropout_that_has_no_effect_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_encoder(tmp_path / "theirs")
    changed(hidden_dropout_prob=0.1, classifier_dropout=None)(source)
    assert imported(source, tmp_path / "ours") == 0
    expected = "note: there is no dropout here, so these settings have no effect: hidden_dropout_prob 0.1"
    assert expected in capsys.readouterr().out


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_foreign(tmp_path / "theirs")
    assert imported(source / "config.json", tmp_path / "ours") == 2
    assert f"{source}/config.json is a file: give the folder that it is in" in capsys.readouterr().err


def test_an_index_beside_whole_weights_is_not_used(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "theirs")
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"x": "of-an-earlier-upload.safetensors"}}')
    assert imported(source, tmp_path / "ours") == 0


def test_a_message_names_a_few_of_many_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_foreign(tmp_path / "theirs")
    changed(num_hidden_layers=9)(source)
    assert imported(source, tmp_path / "ours") == 2
    assert "and 49 more" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ours"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert imported(tmp_path / "nowhere", out) == 2
    assert "is not empty: give the name of a new folder" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert imported(tmp_path / "nowhere", out / "notes.txt") == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    assert imported(write_foreign(tmp_path / "theirs"), tmp_path / "ours") == 0


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_foreign(tmp_path / "theirs")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    assert imported(source, tmp_path / "ours") == 2
    assert "but its disk has 0.0 GB left: choose another folder" in capsys.readouterr().err
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.import_.command.save_params", full)
    assert imported(source, tmp_path / "ours") == 2
    assert "cannot be written (No space left on device): choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_foreign(tmp_path / "theirs")
    (tmp_path / "file").touch()
    assert imported(source, tmp_path / "file" / "ours") == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".ours.unfinished" / "checkpoints").mkdir(parents=True)
    assert imported(write_foreign(tmp_path / "theirs"), tmp_path / "ours") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_derived_buffers_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)

    source = write_foreign(tmp_path / "theirs", dtype=np.float16, change=change)
    assert imported(source, tmp_path / "ours") == 0
