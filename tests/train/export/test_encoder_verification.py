"""Transformers loads the encoders that were exported, and computes the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.hf_folder import Weights
from tests.train.export.test_command import assert_same_weights
from tests.train.export.test_encoders import finetuned, imported
from tests.train.export.test_verification import verified
from tests.train.foreign_encoders import NETWORKS, files_of, write_encoder
from tests.util import long_but
from train.export import encoder_verification

REASON = "parity with Hugging Face needs PyTorch: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

NAMES = {"bert": "Bert", "roberta": "Roberta"}
LABELS = {0: "dull", 1: "fine", 2: "rare"}


def write_theirs(folder: Path, family: str, kind: str, **settings: Any) -> Path:
    """Write a random model with the code of Transformers."""
    torch.manual_seed(0)
    network = NETWORKS[family]
    config = getattr(transformers, f"{NAMES[family]}Config")(
        vocab_size=network.vocab_size,
        hidden_size=network.hidden_size,
        intermediate_size=network.intermediate_size,
        num_attention_heads=network.num_heads,
        num_hidden_layers=network.num_layers,
        max_position_embeddings=network.position_rows,
        type_vocab_size=network.num_types,
        layer_norm_eps=network.norm_eps,
        initializer_range=0.4,
        **settings,
    )
    getattr(transformers, f"{NAMES[family]}{kind}")(config).save_pretrained(folder)
    for name, content in files_of(family).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("family", NAMES)
def test_an_encoder_of_theirs_is_verified(
    family: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = imported(write_theirs(tmp_path / "theirs", family, kind), tmp_path / "ours")
    assert verified(ours, tmp_path / "x") == 0
    shown = capsys.readouterr().out
    assert "verified with Transformers, in float32: hidden states of 3 padded texts (they differ by " in shown
    assert "the tokens of a text and of a pair (equal)" in shown
    assert json.loads((tmp_path / "x/config.json").read_text()) == json.loads((ours / "model.json").read_text())


@pytest.mark.parametrize("family", NAMES)
def test_a_classifier_of_theirs_comes_back_as_it_was(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = write_theirs(tmp_path / "theirs", family, "ForSequenceClassification", id2label=LABELS)
    assert verified(imported(theirs, tmp_path / "ours"), tmp_path / "x") == 0
    assert "logits of 3 padded texts" in capsys.readouterr().out
    assert_same_weights(Weights(tmp_path / "x"), Weights(theirs))
    assert json.loads((tmp_path / "x/config.json").read_text()) == json.loads((theirs / "config.json").read_text())


@pytest.mark.parametrize("family", long_but(["bert"], NAMES))
def test_transformers_classifies_with_a_fine_tuned_encoder(family: str, tmp_path: Path, compiled: None) -> None:
    rows = [{"text": "a lamp", "label": "yes"}, {"text": "the old man read", "label": "no"}] * 4
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start = imported(write_encoder(tmp_path / "theirs", family), tmp_path / "start")
    run = finetuned(start, tmp_path / "run", f"files:{tmp_path}/a.jsonl", "--steps", "60", "--learning-rate", "5e-3")
    assert verified(run, tmp_path / "x") == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "x").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    texts = tokenizer(["a lamp", "the old man read"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**texts).logits
    assert [model.config.id2label[int(i)] for i in logits.argmax(-1)] == ["yes", "no"]


@pytest.mark.parametrize("what", ["outputs", "tokens", "types"])
def test_a_difference_is_refused_and_nothing_is_written(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Other(encoder_verification.TheirEncoder):
        def outputs(self, texts: Any) -> np.ndarray:
            return super().outputs(texts) * (1.01 if what == "outputs" else 1.0)

        def encoded(self, *words: str) -> dict[str, Any]:
            result = super().encoded(*words)
            changed = {"tokens": "input_ids", "types": "token_type_ids"}.get(what)
            if changed and len(words) == 2:
                result[changed][-1] += 1
            return result

    monkeypatch.setattr(encoder_verification, "TheirEncoder", Other)
    ours = imported(write_encoder(tmp_path / "theirs"), tmp_path / "ours")
    assert verified(ours, tmp_path / "x") == 2
    expected = (
        "hidden states of Transformers differ by" if what == "outputs" else "the tokenizer of Transformers encodes"
    )
    assert f"--verify failed: {expected}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
