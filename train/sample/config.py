"""The configuration of samples."""

import dataclasses
from pathlib import Path

from train.config.bounds import check_step, refuse
from train.config.run import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Let a model continue texts.

    The model is that of a run or of an import. A text stops at a token that ends it.
    """

    run_dir: Path
    """Folder of a run or of an import."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one, the default, begins a new document."""
    step: int | None = None
    """Updates of the checkpoint; the newest by default."""
    tokens: int = 64
    """Tokens to write after each prompt, at most."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 50
    """Draw from the most likely tokens, as many as this; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities add up to this much; 1 for all."""
    seed: int = 0
    """Seed of the draws. Each prompt starts from it, so its text depends on no other prompt."""
    dtype: Precision | None = None
    """Precision of the matrix products; by default that of the run, float32 for an import."""


def check_sample(config: Sample) -> None:
    """Refuse values that cannot be used, before anything is loaded."""
    check_step(config.step)
    if not config.prompt:
        refuse("prompt", "", "is empty: give at least one text, or leave it out to begin a new document")
    if config.tokens < 1:
        refuse("tokens", config.tokens, "must be at least 1")
    if config.temperature < 0:
        refuse("temperature", config.temperature, "must be at least 0")
    if config.top_k < 0:
        refuse("top_k", config.top_k, "must be at least 0")
    if not 0 < config.top_p <= 1:
        refuse("top_p", config.top_p, "must be above 0 and at most 1")
    if not 0 <= config.seed < 2**32:
        refuse("seed", config.seed, "must be at least 0 and below 2^32")
