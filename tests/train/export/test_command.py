"""What is exported is what was imported or trained, bit for bit."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer

from models import hf_folder, to_hf_state_dict
from models.hf_folder import Weights
from tests.train.foreign import write_foreign
from tests.train.storage.stripped import leave
from train.__main__ import main
from train.data.tokenizer import END_OF_TEXT
from train.export import verification
from train.program.task import abstract_params
from train.storage.model import read_model
from train.storage.weights import restore_params_on_host


def exported(run_dir: Path, out: Path, *words: str) -> int:
    return main(["export", "--run-dir", str(run_dir), "--out", str(out), *words])


def weights_of(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    network = read_model(run_dir).network
    return to_hf_state_dict(network, restore_params_on_host(run_dir / "checkpoints", step, abstract_params(network)))


def assert_same_weights(weights: Weights, expected: dict[str, np.ndarray] | Weights) -> None:
    assert set(weights) == set(expected)
    for name in expected:
        assert weights[name].dtype == expected[name].dtype
        assert weights[name].tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_an_import_comes_back_as_it_was(dtype: type, tmp_path: Path) -> None:
    theirs = write_foreign(tmp_path / "theirs", dtype=dtype)
    assert main(["import", "--from", str(theirs), "--out", str(tmp_path / "ours")]) == 0
    assert exported(tmp_path / "ours", tmp_path / "again") == 0
    assert_same_weights(Weights(tmp_path / "again"), Weights(theirs))
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        if name.endswith(".json"):
            assert json.loads((tmp_path / "again" / name).read_text()) == json.loads((theirs / name).read_text())
        elif not name.endswith(".safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (theirs / name).read_bytes()


def test_a_run_comes_back_as_it_was(trained: Path, tmp_path: Path) -> None:
    assert exported(trained, tmp_path / "theirs") == 0
    assert main(["import", "--from", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    ours, theirs = weights_of(tmp_path / "ours"), weights_of(trained)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
    assert read_model(tmp_path / "ours").network == read_model(trained).network
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_the_files_of_a_run_are_what_transformers_needs(trained: Path, tmp_path: Path) -> None:
    assert exported(trained, tmp_path / "x") == 0
    tokenizer = Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    settings = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (end, end)
    generation = json.loads((tmp_path / "x" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": end, "eos_token_id": end}
    described = json.loads((tmp_path / "x" / "tokenizer_config.json").read_text())
    assert described["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (described["bos_token"], described["eos_token"]) == (END_OF_TEXT, END_OF_TEXT)
    assert described["model_max_length"] == 16
    plain = read_model(trained).tokenizer
    assert tokenizer.encode("def f").ids == [end, *plain.encode("def f").ids]  # as in training


def test_each_checkpoint_can_be_exported(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(trained, tmp_path / "x", "--step", "10") == 0
    assert "exported step 10 of" in capsys.readouterr().out
    assert_same_weights(Weights(tmp_path / "x"), weights_of(trained, 10))
    assert exported(trained, tmp_path / "y", "--step", "7") == 2
    assert "has no checkpoint of step 7: it has 10, 12" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_large_weights_are_several_files(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_folder, "SHARD_BYTES", 20_000)
    assert exported(imported, tmp_path / "x") == 0
    assert len(list((tmp_path / "x").glob("model-*-of-*.safetensors"))) > 2
    assert_same_weights(Weights(tmp_path / "x"), weights_of(imported))


def test_files_that_an_import_lacks_are_written(tmp_path: Path) -> None:
    theirs = write_foreign(tmp_path / "theirs")
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (theirs / name).unlink()
    assert main(["import", "--from", str(theirs), "--out", str(tmp_path / "ours")]) == 0
    assert exported(tmp_path / "ours", tmp_path / "again") == 0
    settings = json.loads((theirs / "config.json").read_text())
    ends = {name: settings[name] for name in ("bos_token_id", "eos_token_id")}
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == ends
    described = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert (described["bos_token"], described["eos_token"]) == ("<s>", END_OF_TEXT)


def test_no_state_of_an_optimizer_is_read(trained: Path, tmp_path: Path) -> None:
    """The export is the same after the state has been removed."""
    stripped = shutil.copytree(trained, tmp_path / "stripped")
    removed = leave("params", stripped / "checkpoints" / "12")
    assert any(key.startswith("opt_state.") for key in removed)
    assert exported(trained, tmp_path / "x", "--step", "12") == 0
    assert exported(stripped, tmp_path / "y", "--step", "12") == 0
    assert_same_weights(Weights(tmp_path / "y"), Weights(tmp_path / "x"))


MISTAKES = [
    ("--step -1", "--step -1 must be at least 0"),
    ("--run-dir nowhere", "nowhere has no model.json: give the folder of a run or of an import"),
    ("--out .", "--out . is not empty: give the name of a new folder"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_and_nothing_is_written(
    words: str, message: str, imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(imported, tmp_path / "x", *words.split()) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verifying_needs_transformers(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verification.importlib.util, "find_spec", lambda _: None)
    assert exported(imported, tmp_path / "x", "--verify") == 2
    assert "--verify needs PyTorch and Transformers: pip install torch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
