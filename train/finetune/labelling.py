"""Encoders: classification, or regression, of texts or of pairs of texts."""

import dataclasses
from collections.abc import Callable

import grain
import numpy as np
from jax.sharding import Mesh

from models import EncoderConfig, to_hf_config
from train.config.finetune import REGRESSION, ExampleFlags, Finetune
from train.data.labelled import LabelledData, load_labelled
from train.data.windows import training_rows
from train.finetune.metrics import of_classes, of_numbers
from train.finetune.work import Work, adapted
from train.loop.given import Data, Predict
from train.program.labelling import Labelling, Texts
from train.storage.model import StoredModel
from train.system.processes import is_first


class TextRows:
    """The rows of texts, one by one."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts.labels)

    def __getitem__(self, index: int) -> Texts:
        return Texts(*(array[index] for array in self._texts))


def labelling_work(config: Finetune, model: StoredModel, mesh: Mesh) -> Work:
    """Return the work of an encoder; each process reads all texts."""
    flags = config.data
    found = read_texts(flags, model, print if is_first() else lambda _: None)
    length = found.training.tokens.shape[1]
    network = adapted(config, model.architecture, mesh, length)
    assert isinstance(network, EncoderConfig)
    before, network = network.num_labels, dataclasses.replace(network, num_labels=len(found.classes) or 1)
    if not config.resume and is_first():
        print(f"a new head of {network.num_labels} outputs" + (" replaces that of the model" if before else ""))
    task = Labelling(network=network, batch_size=flags.batch_size, seq_len=length)
    return Work(task, len(found.training.labels), _data(config, found), _stored(model, network, found))


def read_texts(flags: ExampleFlags, model: StoredModel, say: Callable[[str], None]) -> LabelledData:
    """Read the texts of the flags, as the tokenizer of the model encodes them."""
    return load_labelled(
        flags.data,
        flags.held_out,
        flags.text_fields,
        flags.label_field,
        model.tokenizer,
        flags.seq_len,
        is_regression=flags.task == REGRESSION,
        say=say,
    )


def _data(config: Finetune, found: LabelledData) -> Data:
    training = grain.MapDataset.source(TextRows(found.training)).seed(config.data.seed).shuffle().repeat()
    # Files may be sorted by label, and an evaluation may read a part of them.
    order = np.random.default_rng(0).permutation(len(found.held_out.labels))
    held_out = Texts(*(array[order] for array in found.held_out))

    def rows(step: int) -> Callable[[int, int], Texts]:
        return training_rows(training, step, config.data.batch_size)

    return Data(
        fingerprint=found.fingerprint,
        rows=rows,
        evaluate=lambda predict: score(predict, held_out, config.data.batch_size, config.report.eval_batches),
    )


def score(predict: Predict, texts: Texts, batch_size: int, batches: int = 0) -> dict[str, float]:
    """Return the metrics of predictions for the first `batches` batches of texts, or for all."""
    count = min(len(texts.labels), batches * batch_size or len(texts.labels))
    slices = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    parts = [predict(Texts(*(array[rows] for array in texts))) for rows in slices]
    predictions, labels = np.concatenate(parts), texts.labels[:count]
    return of_numbers(predictions[:, 0], labels) if predictions.shape[1] == 1 else of_classes(predictions, labels)


def _stored(model: StoredModel, network: EncoderConfig, found: LabelledData) -> StoredModel:
    """The model with its new head, and the names of its classes."""
    kept = {name: value for name, value in model.settings.items() if name.endswith("_token_id")}
    names = found.classes or ("LABEL_0",)
    labels = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "single_label_classification" if found.classes else "regression",
    }
    return dataclasses.replace(model, settings=to_hf_config(network) | kept | labels)
