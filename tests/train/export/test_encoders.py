"""Encoders go full circle: imported, fine-tuned, exported, and imported again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from models.hf_config import to_hf_config
from models.hf_folder import Weights
from tests.train.export.test_command import assert_same_weights, exported
from tests.train.foreign_encoders import LONGEST, NETWORKS, write_encoder
from tests.util import long_but
from train.__main__ import main
from train.export.command import exported_files
from train.export.config import Export
from train.program.task import abstract_params
from train.storage.model import read_model
from train.storage.weights import restore_params_on_host

ROWS = [{"text": text, "other": "the sea", "label": text == "a lamp"} for text in ("a lamp", "the old man")] * 8
SMALL = "--optimizer adamw --batch-size 4 --steps 3 --learning-rate 1e-2"
FAMILIES = pytest.mark.parametrize("family", NETWORKS)


def imported(source: Path, out: Path) -> Path:
    assert main(["import", "--from", str(source), "--out", str(out)]) == 0
    return out


@pytest.fixture
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("examples") / "a.jsonl"
    path.write_text("\n".join(json.dumps(row | {"label": int(row["label"])}) for row in ROWS))
    return f"files:{path}"


def finetuned(start: Path, run_dir: Path, examples: str, *words: str) -> Path:
    arguments = ["--init-from", str(start), "--run-dir", str(run_dir), "--data", examples, "--held-out", examples]
    assert main(["finetune", *arguments, *SMALL.split(), *words]) == 0
    return run_dir


def params_of(run_dir: Path) -> Any:
    network = read_model(run_dir).architecture
    return restore_params_on_host(run_dir / "checkpoints", None, abstract_params(network))


@FAMILIES
def test_an_import_comes_back_as_it_was(family: str, tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path / "theirs", family)
    assert exported(imported(theirs, tmp_path / "ours"), tmp_path / "again") == 0
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (theirs / name).read_bytes(), name


def test_what_a_network_here_does_not_have_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors |= {
            f"pooler.dense.{x}": np.zeros((16, 16)[: 1 + (x == "weight")], np.float32) for x in ("weight", "bias")
        }

    theirs = write_encoder(tmp_path / "theirs", change=change)
    ours = imported(theirs, tmp_path / "ours")
    assert "left out, as the network here does not have them: pooler.dense.bias, pooler.dense.weight" in (
        capsys.readouterr().out
    )
    assert exported(ours, tmp_path / "again") == 0
    expected = {name: x for name, x in Weights(theirs).items() if "pooler" not in name}
    assert_same_weights(Weights(tmp_path / "again"), expected)


def test_the_modules_of_sentence_transformers_come_back(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path / "theirs")
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize", "4_Link", "../secret", "../theirs/1_Pooling", str(tmp_path)]
    kept = {
        "modules.json": json.dumps([{"idx": i, "path": path} for i, path in enumerate(paths)]),
        "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
        "2_Dense/config.json": "{}",
        "2_Dense/model.safetensors": "a few weights",
    }
    others = ("onnx/config.json", "1_Pooling/.hidden", "2_Dense/pytorch_model.bin", "../secret/key.json")
    for name, content in (kept | dict.fromkeys(others, "other")).items():
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_text(content)
    (theirs / "4_Link").symlink_to(tmp_path / "secret")
    (theirs / "1_Pooling" / "key.json").symlink_to(tmp_path / "secret" / "key.json")
    assert exported(imported(theirs, tmp_path / "ours"), tmp_path / "again") == 0
    again = {
        path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*") if path.is_file()
    }
    assert again == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", *kept}
    assert all((tmp_path / "again" / name).read_text() == content for name, content in kept.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "ours", "secret", "theirs"]
    assert {path.name for path in (tmp_path / "secret").iterdir()} == {"key.json"}


def test_a_model_with_a_head_has_no_files_about_embeddings(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path / "theirs")
    (theirs / "1_Pooling").mkdir()
    about = ("modules.json", "sentence_bert_config.json", "README.md", "1_Pooling/config.json")
    for name in (*about, "vocab.txt"):
        (theirs / name).write_text('[{"path": "1_Pooling"}]' if name == "modules.json" else "{}")
    model = read_model(imported(theirs, tmp_path / "ours"))
    config = Export(run_dir=tmp_path / "ours", out=tmp_path / "again")
    assert {*about, "vocab.txt"} <= exported_files(config, model).keys()
    classifier = dataclasses.replace(model.architecture, num_labels=2)
    with_head = dataclasses.replace(model, settings=to_hf_config(classifier))
    assert exported_files(config, with_head).keys() == exported_files(config, model).keys() - set(about)


@FAMILIES
def test_files_that_an_import_lacks_are_written(family: str, tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path / "theirs", family)
    (theirs / "tokenizer_config.json").unlink()
    assert exported(imported(theirs, tmp_path / "ours"), tmp_path / "again") == 0
    described = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert described["model_max_length"] == 20  # and not the rows of RoBERTa's table
    assert described["pad_token"] == {"bert": "[PAD]", "roberta": "<pad>"}[family]
    assert described.get("model_input_names") == (["input_ids", "attention_mask"] if family == "roberta" else None)
    assert not (tmp_path / "again" / "generation_config.json").exists()


@pytest.mark.parametrize("family", long_but(["bert"], NETWORKS))
@pytest.mark.parametrize("task", long_but(["classification"], ["classification", "regression"]))
def test_a_fine_tuned_encoder_goes_full_circle(
    family: str, task: str, examples: str, tmp_path: Path, compiled: None, capsys: pytest.CaptureFixture[str]
) -> None:
    start = imported(write_encoder(tmp_path / "theirs", family), tmp_path / "start")
    fields = ["--text-fields", "text", "other"] if task == "classification" else []
    run = finetuned(start, tmp_path / "run", examples, "--task", task, *fields)
    outputs = {"classification": 2, "regression": 1}[task]
    assert f"a new head of {outputs} outputs\n" in capsys.readouterr().out
    assert exported(run, tmp_path / "x") == 0

    settings = json.loads((tmp_path / "x" / "config.json").read_text())
    name = {"bert": "Bert", "roberta": "Roberta"}[family]
    assert settings["architectures"] == [f"{name}ForSequenceClassification"]
    labels = {"0": "0", "1": "1"} if task == "classification" else {"0": "LABEL_0"}
    assert settings["id2label"] == labels
    assert settings["problem_type"] == {"classification": "single_label_classification"}.get(task, task)
    # The file of the tokenizer still cuts and pads, although training does neither.
    tokenizer = json.loads((tmp_path / "x" / "tokenizer.json").read_text())
    assert tokenizer == json.loads((tmp_path / "theirs" / "tokenizer.json").read_text())
    assert tokenizer["truncation"]["max_length"] == tokenizer["padding"]["strategy"]["Fixed"] == LONGEST
    assert len(Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json")).encode("a").ids) == LONGEST

    again = imported(tmp_path / "x", tmp_path / "again")
    assert read_model(again).settings == read_model(run).settings
    jax.tree.map(np.testing.assert_array_equal, params_of(again), params_of(run))
    assert exported(again, tmp_path / "y") == 0
    assert_same_weights(Weights(tmp_path / "y"), Weights(tmp_path / "x"))


def test_a_run_from_a_model_with_a_head_begins_with_a_new_one(
    examples: str, tmp_path: Path, compiled: None, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dataclasses.replace(NETWORKS["bert"], num_labels=2)
    again = imported(write_encoder(tmp_path / "theirs", network=network), tmp_path / "ours")
    # Of the same shape, and yet another head; nothing is trained at this rate.
    fresh = finetuned(again, tmp_path / "fresh", examples, "--learning-rate", "1e-30")
    assert "a new head of 2 outputs replaces that of the model\n" in capsys.readouterr().out
    before, after = params_of(again), params_of(fresh)
    assert np.any(before.pop("head")["out"]["kernel"] != after.pop("head")["out"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize("words", ["sample", "evaluate", "evaluate --data files:nothing"])
def test_commands_of_decoders_refuse_an_encoder(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = imported(write_encoder(tmp_path / "theirs"), tmp_path / "ours")
    assert main([*words.split(), "--run-dir", str(ours)]) == 2
    assert capsys.readouterr().err == (
        "error: the model is a bert, an encoder, which predicts no next token: give the folder of a decoder, such as "
        "LLaMA.\n"
    )
