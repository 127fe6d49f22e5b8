"""The text sample at the end of a run."""

from models import Llama
from train.config.run import ReportFlags
from train.sample.continuation import Draws, continued
from train.storage.model import StoredModel

TEMPERATURE, TOP_K = 0.8, 50  # a little sharper than the model, and without its tail


def write_sample(llama: Llama, stored: StoredModel, flags: ReportFlags, seed: int) -> str:
    """Return the prompt and the model's continuation; to be called in all processes."""
    draws = Draws(tokens=flags.sample_tokens, temperature=TEMPERATURE, top_k=TOP_K, top_p=1.0, seed=seed)
    return continued(llama, stored, flags.sample_prompt, draws)
