"""The training loop, from a state to a finished run.

Before update t + 1 the state has seen t updates. Whether an evaluation or a checkpoint is due
depends on t alone, so a run resumed at t does exactly what an uninterrupted run does from there.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable

import grain
import jax
import numpy as np
from flax import nnx

from train.config.run import DIVERGED, ReportFlags, UserError
from train.data.tokenizer import token_bytes
from train.data.windows import Tokens, training_rows
from train.pretrain.evaluation import evaluate
from train.pretrain.progress import Display
from train.pretrain.sample import write_sample
from train.program.program import Program
from train.program.sharding import place_batch
from train.program.step import Params, Report, all_finite
from train.storage.checkpoint import Checkpoints
from train.storage.folder import RunFolder
from train.storage.metrics import Metrics
from train.system.devices import device_summary
from train.system.processes import on_first


class Diverged(UserError):
    """The loss or the state is infinite or nan."""

    status = DIVERGED


@dataclasses.dataclass(frozen=True)
class Data:
    """The text of a run."""

    tokens: Tokens
    training: grain.MapDataset  # windows, in the order of training
    held_out: grain.MapDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tools:
    """Output sinks of a run, and its source of signals."""

    folder: RunFolder
    display: Display
    metrics: Metrics
    checkpoints: Checkpoints
    poll: Callable[[int], None]  # raises Stopped after a signal, at the same step in all processes


class Trainer:
    """A run in progress: the state after `step` updates, the last of which may still be running."""

    def __init__(
        self, program: Program, data: Data, tools: Tools, flags: ReportFlags, *, steps: int, seed: int
    ) -> None:
        """Compile, and restore the newest checkpoint or draw the first state."""
        self.program, self.data, self.tools, self.flags = program, data, tools, flags
        self.steps, self.seed = steps, seed
        self.batch_size, self.window = program.windows.shape[0], program.windows.shape[1] - 1
        self.all_finite = jax.jit(all_finite)
        # Compiled here, so that the speeds in metrics.jsonl do not include compilation.
        self.train_step = program.train_step.lower(program.state, program.windows).compile()
        latest = tools.checkpoints.latest
        self.step = latest or 0
        self.state = program.draw_state() if latest is None else tools.checkpoints.restore(latest, program.state)
        self.in_flight: Report | None = None
        self.clock = time.perf_counter()

    def train(self) -> None:
        """Continue to the last step, then write the results."""
        while self.step < self.steps:
            self.tools.poll(self.step)
            self.evaluate_if_due()
            self.update()
            if self.step % self.flags.save_every == 0:
                self.save()
        self.save()
        self.evaluate_if_due()
        self.finish()

    def update(self) -> None:
        """Start the next update, and record the previous one while it runs."""
        rows = training_rows(self.data.training, self.step, self.batch_size)
        self.state, report = self.train_step(self.state, place_batch(self.program.windows, rows))
        self.record()
        self.step, self.in_flight = self.step + 1, report

    def record(self) -> None:
        """Wait for the update in flight, and add its row to the metrics."""
        if self.in_flight is None:
            return
        loss, lr = (float(x) for x in self.in_flight)
        self.in_flight = None
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        if not math.isfinite(loss):
            raise self.diverged("loss")
        speed = self.batch_size * self.window / seconds
        self.tools.metrics.add_update(self.step, loss, lr, speed)
        self.tools.display.update(self.step, loss, lr, speed)

    def evaluate_if_due(self) -> None:
        """Evaluate at the first step, the last step and every `eval_every` steps, once each."""
        every = self.flags.eval_every
        is_due = self.step in (0, self.steps) or (every and self.step % every == 0)
        if not is_due or on_first(lambda: self.tools.metrics.is_evaluated(self.step)):
            return
        self.record()
        size = token_bytes(self.data.tokens.tokenizer)
        poll = functools.partial(self.tools.poll, self.step)
        evaluation = evaluate(self.losses, self.state.params, self.data.held_out, size, poll)
        self.tools.metrics.add_evaluation(self.step, evaluation)
        self.tools.display.say(
            f"step {self.step}: held-out loss {evaluation.eval_loss:.4f}, {evaluation.bits_per_byte:.4f} bits per byte"
        )
        self.clock = time.perf_counter()

    def losses(self, params: Params, windows: np.ndarray) -> np.ndarray:
        """Per-token losses of up to one batch of windows; a short batch is padded by repeating
        windows.
        """
        whole = np.resize(windows, self.program.windows.shape)
        batch = place_batch(self.program.windows, lambda start, stop: whole[start:stop])
        return np.asarray(self.program.token_losses(params, batch))[: len(windows)]

    def save(self) -> None:
        """Save the state, unless it is saved already; raise if it is not finite."""
        self.record()
        if self.tools.checkpoints.latest == self.step:
            return
        if not self.all_finite(self.state):
            raise self.diverged("state")
        self.tools.metrics.make_durable()
        self.tools.checkpoints.save(self.step, self.state)
        self.clock = time.perf_counter()

    def diverged(self, what: str) -> Diverged:
        """Return the error for a loss or a state that is no longer finite."""
        latest = self.tools.checkpoints.latest
        return Diverged(
            f"the {what} at step {self.step} is not finite, so the run stops; checkpoints: "
            f"{'none' if latest is None else f'up to step {latest}'}. Start a new run with a lower "
            "--learning-rate, more --warmup-steps or a lower --clip."
        )

    def finish(self) -> None:
        """Write the loss curve, a sample, and finally the summary, which marks the end."""
        self.tools.poll(self.step)
        model = nnx.merge(self.program.graphdef, self.state.params)
        sample = write_sample(model, self.data.tokens.tokenizer, self.flags, window=self.window, seed=self.seed)
        summary = on_first(self.tools.metrics.summary) | {
            "parameters": sum(x.size for x in jax.tree.leaves(self.program.state.params)),
            "optimizer_bytes": self.program.optimizer_bytes,
        } | device_summary()  # fmt: skip
        self.tools.folder.write_results(self.tools.metrics, sample, summary)
        self.tools.display.say(f"--- sample\n{sample}\n---")
        for name, value in summary.items():
            self.tools.display.say(f"{name:>17}  {value if isinstance(value, str) else format(value, ',.6g')}")
