"""Language models: packed texts, or prompts with their completions."""

import dataclasses
from collections.abc import Callable, Iterable

import grain
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from models import LlamaConfig
from train.config.finetune import ExampleFlags, Finetune
from train.data.examples import ExampleData, load_examples, shuffled
from train.data.windows import training_rows
from train.finetune.work import Work, adapted
from train.loop.given import Data, Predict
from train.pretrain.sample import write_sample
from train.program.chunks import chunk_of
from train.program.sharding import rows_of_a_device
from train.program.task import LanguageModel, Params, Rows
from train.storage.model import StoredModel, with_dtype
from train.system.processes import is_first


def language_work(config: Finetune, model: StoredModel, mesh: Mesh) -> Work:
    """Return the work of a language model; each process reads all examples."""
    flags = config.data
    examples = read_rows(flags, model, print if is_first() else lambda _: None)
    network = adapted(config, model.network, mesh, flags.seq_len)
    assert isinstance(network, LlamaConfig)
    rows = rows_of_a_device(mesh, flags.batch_size, flags.accumulate)
    task = LanguageModel(
        network=network,
        batch_size=flags.batch_size,
        seq_len=flags.seq_len,
        is_packed=True,
        chunk=chunk_of(config.start.logits, network.vocab_size, rows, flags.seq_len),
    )
    stored = dataclasses.replace(model, settings=with_dtype(model.settings, network.param_dtype))
    return Work(task, len(examples.training), _data(config, task, model, examples), stored)


def read_rows(flags: ExampleFlags, model: StoredModel, say: Callable[[str], None]) -> ExampleData:
    """Read the examples of the flags, as the tokenizer of the model encodes them."""
    if flags.seq_len > model.window:
        say(f"note: --seq-len {flags.seq_len} is more than the {model.window} tokens that the model was trained for")
    tokenizer = model.prompt_tokenizer()
    return load_examples(flags.data, flags.held_out, tokenizer, model.end_of_text, flags.seq_len, say)


def _data(config: Finetune, task: LanguageModel, model: StoredModel, examples: ExampleData) -> Data:
    training = shuffled(examples.training, config.data.seed)
    held_out = grain.MapDataset.source(examples.held_out).seed(0).shuffle()
    batches: grain.MapDataset = held_out.batch(config.data.batch_size, drop_remainder=False)
    batches = batches[: config.report.eval_batches or None]

    def rows(step: int) -> Callable[[int, int], Rows]:
        return training_rows(training, step, config.data.batch_size)

    def sample(params: Params) -> str:
        report = config.report
        flags = dataclasses.replace(report, sample_prompt=report.sample_prompt or examples.prompt)
        return write_sample(nnx.merge(task.graphdef, params), model, flags, config.data.seed)

    return Data(
        fingerprint=examples.fingerprint,
        rows=rows,
        evaluate=lambda predict: mean_loss(predict, batches),
        sample=sample,
    )


def mean_loss(predict: Predict, batches: Iterable[Rows]) -> dict[str, float]:
    """Return the mean loss of the targets of held-out rows, in nats per token."""
    nats, count = 0.0, 0
    for batch in batches:
        is_target = np.asarray(batch.is_target)[:, 1:]
        nats += float(np.asarray(predict(batch), np.float64)[is_target].sum())
        count += int(is_target.sum())
    return {"eval_loss": nats / count}
