"""A text sample from a trained model."""

from tokenizers import Tokenizer

from models import Llama
from train.config.run import ReportFlags
from train.sample.continuation import Draws, continued
from train.storage.model import of_a_run

TEMPERATURE, TOP_K = 0.8, 50  # a little sharper than the model, and without its tail


def write_sample(model: Llama, tokenizer: Tokenizer, flags: ReportFlags, *, window: int, seed: int) -> str:
    """Return the prompt and the model's continuation; to be called in all processes."""
    if not flags.sample_tokens:
        return flags.sample_prompt
    draws = Draws(tokens=flags.sample_tokens, temperature=TEMPERATURE, top_k=TOP_K, top_p=1.0, seed=seed)
    return continued(model, of_a_run(model.config, window, tokenizer), flags.sample_prompt, draws)
