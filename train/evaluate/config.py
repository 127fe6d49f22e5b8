"""The configuration of an evaluation."""

import dataclasses
import os
from pathlib import Path

from train.config.bounds import check_step, refuse
from train.config.run import HUB, Precision, UserError
from train.config.validate import check_text
from train.data.hub import DatasetName

LONGEST = 1024  # tokens of a window by default: logits of more take much memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Report the loss of a text, in nats per token, and its bits per byte.

    The model is that of a run or of an import.
    """

    run_dir: Path
    """Folder of a run or of an import."""
    step: int | None = None
    """Updates of the checkpoint; the newest by default."""
    data: str | None = None
    """stdlib, 'files:GLOB' or hf:NAME,CONFIG,SPLIT. Default: the windows that the run evaluates."""
    data_megabytes: float = 0.0
    """Read at most this much of --data; 0 reads all of it."""
    eval_batches: int | None = None
    """Batches of the run's own text; 0 for all of it. Default: those of the run's evaluations."""
    cache_dir: Path | None = None
    """Cache of tokens, downloads and programs; by default that of the run, or the user's."""
    batch_size: int | None = None
    """Windows of text at once; by default that of the run, 8 for an import."""
    seq_len: int | None = None
    """Tokens predicted per window; by default what the model was trained for, at most 1024."""
    dtype: Precision | None = None
    """Precision of the matrix products; by default that of the run, float32 for an import."""
    json: Path | None = None
    """Also write the result to this file."""


def check_evaluate(config: Evaluate) -> None:
    """Refuse values that cannot be used, before anything is loaded."""
    check_step(config.step)
    for name, least in {"batch_size": 1, "seq_len": 1, "data_megabytes": 0, "eval_batches": 0}.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            refuse(name, value, f"must be at least {least}")
    if config.data is not None:
        check_text(config.data)
    elif config.data_megabytes:
        refuse("data_megabytes", config.data_megabytes, "has no effect without --data: leave it out")
    elif config.seq_len is not None:
        refuse("seq_len", config.seq_len, "has no effect without --data, as the run's windows are used: leave it out")
    if config.data is not None and config.eval_batches is not None:
        refuse("eval_batches", config.eval_batches, "has no effect with --data: leave it out")
    if config.data is not None and config.data.startswith(HUB) and not DatasetName.of(config.data).split:
        raise UserError(f"--data {config.data} names no split: give {HUB}NAME,CONFIG,SPLIT or {HUB}NAME,,SPLIT.")
    if config.json is not None and not os.access(config.json.parent, os.W_OK):
        raise UserError(f"--json {config.json} cannot be written: choose a file in an existing, writable folder.")
