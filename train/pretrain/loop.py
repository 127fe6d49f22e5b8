"""The training loop, from a state to a finished run.

Before update t + 1 the state has seen t updates. What is due there (evaluate, save) follows from t
alone, so a run that is resumed at t does from then on what an uninterrupted one does.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from models import count_parameters
from train.config.run import DIVERGED, Pretrain, UserError
from train.data.tokenizer import token_bytes
from train.data.windows import Tokens, training_rows
from train.pretrain import folder as run_dir
from train.pretrain.checkpoint import Checkpoints
from train.pretrain.evaluation import evaluate
from train.pretrain.metrics import Metrics, plot
from train.pretrain.progress import Display
from train.pretrain.sample import write_sample
from train.program.optimizer import state_bytes
from train.program.program import make_program
from train.program.sharding import place_batch
from train.program.step import Params, Report, all_finite
from train.system.devices import device_summary
from train.system.files import write_whole
from train.system.processes import on_first


class Diverged(UserError):
    """The loss or the state is infinite or nan."""

    status = DIVERGED


class Data(NamedTuple):
    """The text of a run."""

    tokens: Tokens
    training: grain.MapDataset  # windows, in the order in which they are seen
    held_out: grain.MapDataset


class Tools(NamedTuple):
    """Where a run leaves what it does."""

    display: Display
    metrics: Metrics
    checkpoints: Checkpoints
    poll: Callable[[int], None]  # raises Stopped after a signal, in all processes at the same step


class Trainer:
    """A run under way: the state after `step` updates, the last of which may still be computed."""

    def __init__(self, config: Pretrain, mesh: Mesh, data: Data, tools: Tools) -> None:
        """Compile, and restore the newest checkpoint or draw the first state."""
        self.config, self.data, self.tools = config, data, tools
        self.program = program = make_program(config, mesh)
        self.sizes = {
            "parameters": count_parameters(config.model.build()),
            "optimizer_bytes": state_bytes(program.tx, program.state.params),
        }
        tools.display.say(
            f"{config.model.model} with {config.optimizer.optimizer}: {self.sizes['parameters']:,} "
            f"parameters, {self.sizes['optimizer_bytes']:,} bytes of optimizer state"
        )
        self.all_finite = jax.jit(all_finite)
        # Compiled here, so that no row of metrics.jsonl has the compilation in its speed.
        self.train_step = program.train_step.lower(program.state, program.windows).compile()
        latest = tools.checkpoints.latest
        self.step = latest or 0
        self.state = program.draw_state() if latest is None else tools.checkpoints.restore(latest, program.state)
        self.in_flight: Report | None = None
        self.clock = time.perf_counter()

    def train(self) -> None:
        """Go on until the last step, then leave the results."""
        while self.step < self.config.schedule.steps:
            self.tools.poll(self.step)
            self.evaluate_if_due()
            self.update()
            if self.step % self.config.report.save_every == 0:
                self.save()
        self.save()
        self.evaluate_if_due()
        self.finish()

    def update(self) -> None:
        """Start the next update, and write down the one before while it runs."""
        rows = training_rows(self.data.training, self.step, self.config.data.batch_size)
        self.state, report = self.train_step(self.state, place_batch(self.program.windows, rows))
        self.write_down()
        self.step, self.in_flight = self.step + 1, report

    def write_down(self) -> None:
        """Wait for the update in flight, and add its row."""
        if self.in_flight is None:
            return
        loss, lr = (float(x) for x in self.in_flight)
        self.in_flight = None
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        if not math.isfinite(loss):
            raise self.diverged("loss")
        speed = self.config.data.batch_size * self.config.data.seq_len / seconds
        self.tools.metrics.add_update(self.step, loss, lr, speed)
        self.tools.display.update(self.step, loss, lr, speed)

    def evaluate_if_due(self) -> None:
        """Evaluate at the first step, at the last, and as asked between, unless that is done."""
        every, last = self.config.report.eval_every, self.config.schedule.steps
        is_due = self.step in (0, last) or (every and self.step % every == 0)
        if not is_due or on_first(lambda: self.tools.metrics.is_evaluated(self.step)):
            return
        self.write_down()
        size = token_bytes(self.data.tokens.tokenizer)
        poll = functools.partial(self.tools.poll, self.step)
        evaluation = evaluate(self.losses, self.state.params, self.data.held_out, size, poll)
        self.tools.metrics.add_evaluation(self.step, evaluation)
        self.tools.display.say(
            f"step {self.step}: held-out loss {evaluation.eval_loss:.4f}, {evaluation.bits_per_byte:.4f} bits per byte"
        )
        self.clock = time.perf_counter()

    def losses(self, params: Params, windows: np.ndarray) -> np.ndarray:
        """Return the losses of the tokens of at most a batch of windows, which is filled up with
        some of them.
        """
        whole = np.resize(windows, self.program.windows.shape)
        batch = place_batch(self.program.windows, lambda start, stop: whole[start:stop])
        return np.asarray(self.program.token_losses(params, batch))[: len(windows)]

    def save(self) -> None:
        """Keep the state, unless it is kept already or is not worth keeping."""
        self.write_down()
        if self.tools.checkpoints.latest == self.step:
            return
        if not self.all_finite(self.state):
            raise self.diverged("state")
        self.tools.metrics.make_durable()
        self.tools.checkpoints.save(self.step, self.state)
        self.clock = time.perf_counter()

    def diverged(self, what: str) -> Diverged:
        """Return the error for numbers that are no longer finite."""
        kept = self.tools.checkpoints.latest
        return Diverged(
            f"the {what} at step {self.step} is not finite, so the run stops; checkpoints kept: "
            f"{'none' if kept is None else f'up to step {kept}'}. Start a new run with a lower "
            "--learning-rate, more --warmup-steps or a lower --clip."
        )

    def finish(self) -> None:
        """Leave the loss curve, a sample, and last of all the summary, which marks the end."""
        self.tools.poll(self.step)
        model = nnx.merge(self.program.graphdef, self.state.params)
        text = write_sample(model, self.data.tokens.tokenizer, self.config)
        on_first(lambda: self.write_results(text))

    def write_results(self, text: str) -> None:
        """Write the files of a finished run, and show them."""
        folder, summary = self.config.run_dir, self.tools.metrics.summary() | self.sizes | device_summary()
        plot(self.tools.metrics, folder / run_dir.LOSS_CURVE)
        write_whole(folder / run_dir.SAMPLE, text + "\n")
        write_whole(folder / run_dir.SUMMARY, json.dumps(summary, indent=1) + "\n")
        self.tools.display.say(f"--- sample\n{text}\n---")
        for name, value in summary.items():
            self.tools.display.say(f"{name:>17}  {value if isinstance(value, str) else format(value, ',.6g')}")
