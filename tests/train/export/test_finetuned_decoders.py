"""Transformers loads fine-tuned decoders: with merged factors of LoRA, and frozen parameters."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from models.hf_folder import Weights
from tests.train.export.test_command import assert_same_weights, weights_of
from tests.train.export.test_verification import verified
from tests.train.foreign import END, NETWORK, write_foreign
from tests.train.small_run import known_to, words_of
from train.__main__ import main

REASON = "parity with Hugging Face needs PyTorch: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

QWEN2 = dataclasses.replace(NETWORK, qkv_bias=True, tied_head=True)
ROWS = [{"prompt": "the old", "completion": " man"}, {"prompt": "the small", "completion": " house"}] * 2
SMALL = {
    "batch_size": 2,
    "seq_len": 24,
    "steps": 8,
    "rank": 4,
    "update_proj_gap": 3,
    "learning_rate": 2e-2,
    "sample_tokens": 4,
}


@pytest.mark.parametrize(
    ("network", "optimizer", "frozen"),
    [
        (NETWORK, "lora", "layers/attention/o/*"),
        pytest.param(QWEN2, "grassjump", "layers/mlp/*", marks=pytest.mark.long),
    ],
    ids=["llama, LoRA", "qwen2"],
)
def test_a_fine_tuned_decoder_has_the_loss_of_its_run(
    network: object, optimizer: str, frozen: str, tmp_path: Path, compiled: None
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, ROWS[:2])))
    # As Transformers 5 names the type: two names would contradict each other.
    settings = {"dtype": "bfloat16", "torch_dtype": None}
    theirs = write_foreign(tmp_path / "theirs", network, np.dtype("bfloat16"), settings=settings)  # type: ignore[arg-type]
    assert main(["import", "--from", str(theirs), "--out", str(tmp_path / "ours")]) == 0
    words = ["--init-from", tmp_path / "ours", "--run-dir", tmp_path / "run"]
    words += ["--data", f"files:{tmp_path}/a.jsonl", "--held-out", f"files:{tmp_path}/b.jsonl"]
    words += ["--optimizer", optimizer, "--freeze", frozen, *words_of(known_to(optimizer, SMALL))]
    assert main(["finetune", *map(str, words)]) == 0
    assert verified(tmp_path / "run", tmp_path / "x") == 0

    before, after = Weights(theirs), Weights(tmp_path / "x")
    assert_same_weights(after, weights_of(tmp_path / "run"))  # merged: there is no other
    assert after.keys() == before.keys()
    same = {name for name in after if np.array_equal(after[name], before[name].astype(np.float32))}
    if optimizer == "lora":  # which trains the kernels of the layers, and nothing else
        trained = {name for name in after if "proj" in name and "self_attn.o" not in name}
    else:
        trained = {name for name in after if ".mlp." not in name}
    assert same == after.keys() - trained

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    assert model.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    losses = []
    for row in ROWS[:2]:
        prompt, completion = tokenizer(row["prompt"])["input_ids"], row["completion"] + END
        tokens = torch.tensor([prompt + tokenizer(completion, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            log_p = model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        losses += [-float(p[token]) for p, token in zip(log_p, tokens[0, len(prompt) :], strict=True)]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert np.mean(losses) == pytest.approx(summary["eval_loss"], rel=1e-4)
