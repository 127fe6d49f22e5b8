"""An exported decoder as Transformers reads it, compared with the model here."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import Llama, generate
from train.config.run import UserError
from train.program.task import Params, structure
from train.storage.model import StoredModel

PROMPT, WRITTEN = 16, 32  # tokens
# Of the largest number. In float32 the two differ by 1e-5 of it, from the order of sums; a wrong
# layout, norm or rotation changes the first digit.
CLOSE = 1e-3
TEXT = "In 1805, two ships (of 74 guns each) sailed on: 'All's well!'\n\tif x: return y"


def require_transformers() -> None:
    """Refuse to verify without the packages."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        raise UserError(
            "--verify needs PyTorch and Transformers: pip install torch 'transformers>=5', or leave --verify out."
        )


def verify_decoder(folder: Path, model: StoredModel, params: Params) -> str:
    """Compare logits, greedy tokens and the tokens of a text; return what was compared.

    Both compute in float32. The prompt is random, and the end of a text stops neither.

    Raises:
      UserError: If they differ.
    """
    prompt = np.random.default_rng(0).integers(0, model.network.vocab_size, (1, PROMPT))
    theirs = Theirs(folder)
    expected, written = theirs.continued(prompt)
    ours, tokens = _ours(model, params, prompt)
    close = check_close("logits", ours, expected)
    if tokens.tolist() != written.tolist():
        first = int(np.argmax(tokens != written))
        raise difference(
            f"greedy token {first + 1} of {WRITTEN} is {written[first]} in Transformers and {tokens[first]} here"
        )
    encoded, here = theirs.encoded(TEXT), model.prompt_tokenizer().encode(TEXT).ids
    if encoded != here:
        raise difference(f"the tokenizer of Transformers encodes {TEXT!r} as {encoded}, and the one here as {here}")
    return (
        f"verified with Transformers, in float32: logits of {PROMPT} tokens ({close}), {WRITTEN} greedy tokens "
        "(equal), the tokens of a text (equal)"
    )


def check_close(what: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return how far two arrays are apart, in words; raise if they are not close."""
    distance, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    if not distance <= CLOSE * largest:
        raise difference(f"{what} of Transformers differ by {distance:.2e} from those here, of up to {largest:.3g}")
    return f"they differ by {distance:.1e}, and the largest is {largest:.3g}"


def difference(what: str) -> UserError:
    """Return the error for a difference."""
    return UserError(f"--verify failed: {what}. Nothing was exported; please report this.")


class Theirs:
    """The model and the tokenizer that Transformers loads from a folder."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch: Any = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of the prompt (T, V), and the most likely tokens after it."""
        tokens = prompt
        with self._torch.no_grad():
            for _ in range(WRITTEN):
                logits = self._model(self._torch.from_numpy(tokens)).logits.numpy()
                tokens = np.append(tokens, logits[:, -1:].argmax(-1), axis=1)
        return logits[0, :PROMPT], tokens[0, PROMPT:]

    def encoded(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self._tokenizer(text)["input_ids"])


def _ours(model: StoredModel, params: Params, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A GPU would round products of float32 to fewer bits.
    with jax.default_matmul_precision("highest"):
        llama: Llama = nnx.merge(structure(model.network), jax.tree.map(jnp.asarray, params))
        logits = jax.jit(lambda llama, tokens: llama(tokens))(llama, prompt.astype(np.int32))
        tokens = generate(
            llama, prompt.astype(np.int32), WRITTEN, jax.random.key(0), window=PROMPT + WRITTEN, temperature=0.0
        )
    return np.asarray(logits[0]), np.asarray(tokens[0, PROMPT:])
