"""`evaluate`: loss and bits per byte of a text, with the model of any run or import."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from train.config.run import Diverged, LogitsName, Pretrain, UserError, default_cache_dir
from train.data.corpus import documents
from train.data.progress import Progress
from train.data.sources import open_source
from train.data.tokenizer import token_bytes
from train.data.tokens import load_tokens
from train.data.windows import Windows, held_out_batches
from train.evaluate.config import LONGEST, Evaluate, check_evaluate
from train.evaluate.windows import document_batches
from train.pretrain.evaluation import Total
from train.program.chunks import chunk_of
from train.program.task import LanguageModel, Params, Rows
from train.storage.folder import RunFolder
from train.storage.loaded import LoadedModel, load_model
from train.storage.model import StoredModel, read_model
from train.system.compilation import keep_programs
from train.system.devices import reporting_exhaustion, require_devices
from train.system.files import as_json, write_whole

Losses = Callable[[np.ndarray], np.ndarray]  # of windows (B, T + 1): (B, T)
Evaluated = Callable[[Losses, Total], str]  # adds the losses of a text to a total, and names the text
BATCH = 8  # windows, of models that were not trained here


def run_evaluate(config: Evaluate) -> None:
    """Evaluate, print a table, and write JSON if requested.

    Raises:
      Diverged: If the loss is not finite; the table and the file are written before.
    """
    check_evaluate(config)
    require_devices()
    keep_programs(config.cache_dir or default_cache_dir())
    stored = read_model(config.run_dir)
    _ = stored.network  # which must be a decoder
    evaluated = own_text(config) if config.data is None else documents_of(config, stored)
    total, windows = Total(), "--batch-size" if config.data is None else "--batch-size or --seq-len"
    with reporting_exhaustion("the model", lambda: f"Give a smaller {windows}, or --dtype bfloat16."):
        model = load_model(config.run_dir, config.step, config.dtype)
        text = evaluated(_losses(model, _logits(config.run_dir)), total)
    result = {
        "run_dir": str(config.run_dir),
        "step": model.step,
        "text": text,
        "tokens": total.tokens,
        "bytes": total.bytes,
        **total.result()._asdict(),
    }
    for name, value in result.items():
        print(f"{name:>13}  {_shown(value)}")
    if config.json is not None:
        write_whole(config.json, as_json(result))
    if not math.isfinite(total.nats):
        raise Diverged(
            f"the loss of the model of --run-dir {config.run_dir} at step {model.step} is not finite: give another "
            "--step, or another model."
        )


def _shown(value: str | float) -> str:
    """Counts in full, and four digits of a mean."""
    return value if isinstance(value, str) else format(value, "," if isinstance(value, int) else ",.4f")


def own_text(config: Evaluate) -> Evaluated:
    """Return the held-out text of a run: the windows of its own evaluations, or others of it.

    As in training, documents follow each other, and bytes are those of the tokens, because a window
    may begin and end within a document.
    """
    folder = RunFolder(config.run_dir)
    if not folder.config.exists():
        raise UserError(
            f"--run-dir {config.run_dir} is an import, which has no held-out text of its own: give --data files:GLOB."
        )
    stored = folder.stored()
    run = stored.config
    if not isinstance(run, Pretrain):
        raise UserError(
            f"--run-dir {config.run_dir} is a run of finetune, which has evaluated its held-out examples: "
            "give --data files:GLOB for another text."
        )
    data = run.data if config.cache_dir is None else dataclasses.replace(run.data, cache_dir=config.cache_dir)
    tokens = load_tokens(data, run.model.vocab_size, stored.fingerprint)
    whole = len(Windows(tokens.held_out, data.seq_len))
    count = run.report.eval_batches if config.eval_batches is None else config.eval_batches or whole
    windows = np.concatenate([np.asarray(batch) for batch in held_out_batches(tokens.held_out, data, count)])
    size, batch_size = token_bytes(tokens.tokenizer, tokens.end_of_text), config.batch_size or data.batch_size

    def evaluated(losses: Losses, total: Total) -> str:
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            padded = np.resize(batch, (batch_size, batch.shape[1]))  # by repeating windows
            total.add(losses(padded)[: len(batch)], int(size[batch[:, 1:]].sum()))
        return f"held-out text of the run, {len(windows):,} of its {whole:,} windows of {data.seq_len} tokens"

    return evaluated


def documents_of(config: Evaluate, stored: StoredModel) -> Evaluated:
    """Return the documents of --data, all of them, each once and by itself."""
    data = config.data
    assert data is not None
    folder = RunFolder(config.run_dir)
    run = folder.stored().config if folder.config.exists() else None
    cache_dir = config.cache_dir or (run.data.cache_dir if isinstance(run, Pretrain) else default_cache_dir())
    source = open_source(data, config.data_megabytes, cache_dir, is_alone=True)
    source.prepare()
    trained = run.data.batch_size if run else BATCH
    batch_size = config.batch_size or trained
    seq_len = config.seq_len or min(stored.window, LONGEST)

    def evaluated(losses: Losses, total: Total) -> str:
        count = 0

        def texts() -> Iterator[str]:
            nonlocal count
            for text in documents(source, config.data_megabytes):
                count += 1
                total.bytes += len(text.encode())  # of the documents, so for any tokenizer
                yield text

        with Progress(print, "evaluated") as progress:
            for windows, is_predicted in document_batches(stored, texts(), batch_size, seq_len, progress.add):
                total.add(losses(windows)[is_predicted], 0)
        if not count:
            raise UserError(f"--data {data} has no text: choose another.")
        return f"{count} documents of {data}, windows of {seq_len} tokens"

    return evaluated


def _logits(run_dir: Path) -> LogitsName:
    """Return whether the run's own evaluations had whole logits."""
    folder = RunFolder(run_dir)
    if not folder.config.exists():
        return "auto"
    run = folder.stored().config
    return (run.model if isinstance(run, Pretrain) else run.start).logits


def _losses(model: LoadedModel, logits: LogitsName) -> Losses:
    network = model.llama.config

    @functools.cache
    def predict(rows: int, length: int) -> Callable[[Params, Rows], jax.Array]:
        chunk = chunk_of(logits, network.vocab_size, rows, length)
        return jax.jit(LanguageModel(network=network, batch_size=rows, seq_len=length, chunk=chunk).predict)

    def losses(windows: np.ndarray) -> np.ndarray:
        rows, tokens = windows.shape
        return np.asarray(predict(rows, tokens - 1)(model.params, Rows(windows)))

    return losses
