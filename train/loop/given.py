"""What the training loop is given: the text of a run, and where its results go."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from train.loop.diagnosis import Diagnosis
from train.loop.profile import Profile
from train.loop.progress import Display
from train.program.task import Batch, Params
from train.storage.checkpoint import Checkpoints
from train.storage.folder import RunFolder
from train.storage.metrics import Metrics

Predict = Callable[[Batch], np.ndarray]  # of up to one batch, in NumPy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The text of a run.

    Attributes:
      fingerprint: Identifies the text and its tokens.
      rows: Returns the function that reads rows [start, stop) of the batch of update `step` + 1.
      evaluate: Returns what the model is worth on held-out text; a loss is called `eval_loss`.
      sample: Returns a text that the model writes, given its weights; None for no sample.
    """

    fingerprint: str
    rows: Callable[[int], Callable[[int, int], Batch]]
    evaluate: Callable[[Predict], Mapping[str, float]]
    sample: Callable[[Params], str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tools:
    """Output sinks of a run, and its source of signals."""

    folder: RunFolder
    display: Display
    metrics: Metrics
    checkpoints: Checkpoints
    profile: Profile
    diagnosis: Diagnosis | None
    poll: Callable[[int], None]  # raises Stopped after a signal, at the same step in all processes
