"""What a comparison settles before its first run: the checkpoint to start from, and the text."""

import dataclasses

from train.compare.config import Compare, Comparison
from train.compare.record import Record
from train.config.finetune import LANGUAGE
from train.data.tokens import load_tokens
from train.data.windows import held_out_batches, training_windows
from train.finetune.labelling import read_texts
from train.finetune.language import read_rows
from train.storage.checkpoint import kept_step
from train.storage.folder import RunFolder
from train.storage.model import read_model


def with_step(config: Comparison, stored: Record | None) -> Comparison:
    """Name the checkpoint that fine-tuning starts from: that of the stored comparison, or the
    newest of now, should there be newer ones later.
    """
    if isinstance(config, Compare):
        return config
    step = config.start.init_step
    if step is None and stored is not None:
        step = stored.settings.get("start", {}).get("init_step")
    step = kept_step(RunFolder(config.start.init_from).checkpoints, step)
    return dataclasses.replace(config, start=dataclasses.replace(config.start, init_step=step))


def fingerprint_of(config: Comparison) -> str:
    """Read the text or the examples, and return what identifies them.

    The tokens of a text are stored for all runs.

    Raises:
      UserError: If there is too little, or something is wrong with it.
    """
    if isinstance(config, Compare):
        tokens = load_tokens(config.data, config.model.vocab_size)
        training_windows(tokens.train, config.data)  # raises if there is too little text
        held_out_batches(tokens.held_out, config.data, 1)
        return tokens.fingerprint
    model = read_model(config.start.init_from)
    if config.data.task == LANGUAGE:
        return read_rows(config.data, model, print).fingerprint
    return read_texts(config.data, model, print).fingerprint
