"""A run that fine-tunes on labelled texts: from its files to its metrics."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from experiments import labelling, texts
from models import to_hf_config
from tests.models.small import BERT
from train.program.task import drawn
from train.storage.folder import RunFolder
from train.storage.model import StoredModel
from train.storage.weights import save_params

RUN = labelling.Run(
    texts="toxicity",
    is_trial=False,
    optimizer="grassjump",
    rank=8,
    scale=2.0,
    update_proj_gap=5,
    learning_rate=3e-3,
    seed=0,
    epochs=8,
    batch_size=8,
    seq_len=8,
)


def small_model(folder: Path) -> Path:
    """An encoder of a few thousand parameters, which knows two words."""
    network = dataclasses.replace(BERT, num_labels=None)
    words = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    folder.mkdir()
    StoredModel(settings=to_hf_config(network), tokenizer=tokenizer).write(folder)
    save_params(RunFolder(folder).checkpoints, jax.tree.map(np.asarray, drawn(network, 0)))
    return folder


@pytest.mark.long
def test_a_run_learns_and_is_identified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = small_model(tmp_path / "model")
    monkeypatch.setattr(labelling, "minilm", lambda: model)
    labels = {"good bad good": 0.5, "good good": 1.0, "bad": 0.0}
    for file in texts.files("toxicity", is_trial=False):
        path = Path(file.removeprefix("files:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [{"text": text, "label": label} for text, label in labels.items()] * 9
        path.write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setattr(labelling, "prepare", lambda _: None)
    run = RUN
    found = labelling.train(run)
    assert found.guess["pearson"] == 0
    np.testing.assert_allclose(found.guess["eval_loss"], np.var(list(labels.values())), rtol=1e-6)
    assert found.metrics["eval_loss"] < found.guess["eval_loss"] / 2
    assert found.metrics["pearson"] > 0.8
    assert found.corpus == labelling.fingerprint(run)
