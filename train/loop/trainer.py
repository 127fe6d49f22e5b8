"""The training loop, from a state to a finished run.

Before update t + 1 the state has seen t updates. Whether an evaluation or a checkpoint is due
depends on t alone, so a run resumed at t does exactly what an uninterrupted run does from there.
"""

import math
import time
from collections.abc import Callable

import jax
import numpy as np

from train.config.run import Diverged, ReportFlags
from train.loop.given import Data, Tools
from train.loop.progress import described
from train.loop.spikes import Skips, reason
from train.loop.stopping import EarlyStop
from train.program.program import Program
from train.program.sharding import place_batch
from train.program.speed import mfu
from train.program.step import Report, TrainState, all_finite
from train.program.task import Batch
from train.storage.checkpoint import bytes_of
from train.storage.metrics import Row
from train.storage.quantities import aligned
from train.system.devices import OutOfMemory, device_summary, peak_memory, reporting_exhaustion
from train.system.processes import on_first
from train.watch.page import Results, write_report

NORM = "gradient norm"  # what is not finite


class Trainer:
    """A run in progress: the state after `step` updates, the last of which may still be running."""

    def __init__(
        self,
        program: Program,
        data: Data,
        tools: Tools,
        flags: ReportFlags,
        *,
        steps: int,
        start: Callable[[], TrainState] | None = None,
        early_stop: EarlyStop | None = None,
    ) -> None:
        """Compile, and restore the newest checkpoint, or `start`; by default, draw the weights."""
        self.program, self.data, self.tools, self.flags, self.steps = program, data, tools, flags, steps
        self.early_stop = early_stop
        tools.checkpoints.best_step = self.best_row().get("step")
        on_first(lambda: tools.checkpoints.refuse_full_disk(bytes_of(program.state)))
        self.all_finite = jax.jit(all_finite)
        # Compiled here, so that the speeds in metrics.jsonl do not include compilation.
        highest = (jax.ShapeDtypeStruct((), np.float32),) if flags.skip_spikes else ()
        self.train_step = program.train_step.lower(program.state, program.batch, *highest).compile()
        latest = tools.checkpoints.latest
        self.step = latest or 0
        if latest is None:
            self.state = (start or program.draw_state)()
        else:
            self.state = tools.checkpoints.restore(latest, program.state)
        self.skips = Skips(
            flags.skip_spikes, on_first(lambda: [{"loss": row.get("loss")} for row in tools.metrics.attempts])
        )
        self.saved_at = time.monotonic()
        self.in_flight: Report | None = None
        self.limit = math.inf  # above which the loss of the update in flight is a spike
        jax.block_until_ready(self.state)  # so that no update is charged for drawing or reading it
        self.clock = time.perf_counter()

    def train(self) -> None:
        """Continue to the last step, then write the results."""
        while self.step < self.steps:
            self.tools.poll(self.step)
            self.evaluate_if_due()
            if self.stops_early():
                break
            self.update()
            if self.is_save_due():
                self.save()
        self.record()
        if self.skips.total == self.step:  # no update has changed anything
            raise self.diverged("loss", self.step)
        self.save()
        self.evaluate_if_due()
        self.tools.checkpoints.finish()
        self.finish()

    def is_save_due(self) -> bool:
        """Whether a checkpoint is due, by steps or by minutes."""
        if self.step % self.flags.save_every == 0:
            return True
        seconds = 60 * self.flags.save_minutes
        return bool(seconds) and on_first(lambda: time.monotonic() - self.saved_at >= seconds)

    def is_evaluation_due(self) -> bool:
        """Whether this is the first step, the last, or one of every `eval_every`."""
        every = self.flags.eval_every
        return self.step in (0, self.steps) or bool(every and self.step % every == 0)

    def stops_early(self) -> bool:
        """Whether there is no use in more updates; if so, this is the last step."""
        stop = self.early_stop
        if stop is None or not self.is_evaluation_due():
            return False
        if not on_first(lambda: stop.is_over(self.tools.metrics.evaluations)):
            return False
        self.tools.display.say(f"step {self.step}: {stop.patience} evaluations without a better {stop.metric}")
        return True

    def update(self) -> None:
        """Start the next update, and record the previous one while it runs."""
        profile = self.tools.profile
        if profile.is_due(self.step + 1):
            self.record()  # the update before is no part of it
            profile.start()
        batch = place_batch(self.program.batch, self.data.rows(self.step))
        self.diagnose_if_due(batch)
        limit = self.skips.highest(self.step)
        limits = (np.float32(limit),) if self.flags.skip_spikes else ()
        self.state, report = self.train_step(self.state, batch, *limits)
        self.record()
        self.step, self.in_flight, self.limit = self.step + 1, report, limit
        if profile.is_over(self.step):
            self.record()
            profile.stop()

    def diagnose_if_due(self, batch: Batch) -> None:
        """Measure the subspaces of the next update, if it moves them."""
        diagnosis = self.tools.diagnosis
        if diagnosis is None or not diagnosis.may_be_due(self.step - self.skips.total):
            return
        self.record()
        if diagnosis.is_due(self.step - self.skips.total):
            sums = {"seconds": self.tools.metrics.seconds, "tokens": self.step * self.program.task.tokens}
            diagnosis.measure(self.state, batch, self.step + 1, **sums)
            self.clock = time.perf_counter()

    def record(self) -> None:
        """Wait for the update in flight, and add its row to the metrics."""
        if (report := self.in_flight) is None:
            return
        loss, lr, is_skipped = float(report.loss), float(report.learning_rate), bool(report.is_skipped)
        self.in_flight = None
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        self.skips.add(None if is_skipped else loss)
        if is_skipped:
            self.tools.metrics.add_skipped(self.step, loss, lr, seconds, self.skips.total)
            self.tools.display.say(f"step {self.step}: skipped, as {reason(loss, self.limit)}")
            if self.skips.in_a_row > self.flags.skip_nonfinite:
                raise self.diverged("loss", self.skips.in_a_row)
            return
        if report.is_spoiled:
            raise self.diverged(NORM)
        more = self.mfu(self.program.task.tokens / seconds) | peak_memory()
        self.tools.display.update(self.tools.metrics.add_update(self.step, loss, lr, seconds, **more))

    def mfu(self, tokens_per_second: float) -> dict[str, float]:
        """Return the part of the peak of the devices that the model uses, if it is known."""
        share = mfu(tokens_per_second, self.program.flops_per_token, self.program.mesh.devices.flatten())
        return {} if share is None else {"mfu": share}

    def evaluate_if_due(self) -> None:
        """Evaluate if it is due and not done."""
        if not self.is_evaluation_due() or on_first(lambda: self.tools.metrics.is_evaluated(self.step)):
            return
        if self.early_stop is not None:
            self.save()  # it may be the best
        self.record()
        evaluation = self.data.evaluate(self.predict)
        if not math.isfinite(evaluation["eval_loss"]):
            raise self.diverged("evaluation")
        self.tools.metrics.add_evaluation(self.step, evaluation)
        self.tools.display.say(f"step {self.step}: {described(evaluation)}")
        self.clock = time.perf_counter()

    def predict(self, rows: Batch) -> np.ndarray:
        """Return the predictions for up to one batch; a short one is padded by repeating rows.

        A signal stops an evaluation here.
        """
        self.tools.poll(self.step)
        whole = jax.tree.map(lambda x, like: np.resize(x, like.shape), rows, self.program.batch)
        batch = place_batch(self.program.batch, lambda start, stop: jax.tree.map(lambda x: x[start:stop], whole))
        return np.asarray(self.program.predict(self.state.params, batch))[: len(jax.tree.leaves(rows)[0])]

    def save(self) -> None:
        """Save the state, unless it is saved already; raise if it is not finite.

        The last states are kept, and with early stopping the best.
        """
        self.record()
        if self.tools.checkpoints.latest == self.step:
            return
        if not self.all_finite(self.state):
            raise self.diverged("state")
        self.tools.metrics.make_durable()
        if self.tools.diagnosis:
            self.tools.diagnosis.make_durable()
        self.tools.checkpoints.best_step = self.best_row().get("step")
        self.tools.checkpoints.save(self.step, self.state)
        self.saved_at = time.monotonic()
        self.clock = time.perf_counter()

    def best_row(self) -> Row:
        """Return the best evaluation so far; nothing without early stopping."""
        if (stop := self.early_stop) is None:
            return {}
        return on_first(lambda: stop.best(rows) if (rows := self.tools.metrics.evaluations) else {})

    def diverged(self, what: str, skipped: int = 0) -> Diverged:
        """Return the error for a number that is not finite: what it is, and how many updates were
        skipped for it.
        """
        self.tools.metrics.add_diverged(self.step, what)
        latest = self.tools.checkpoints.latest
        remedy = "--clip-by two_pass, which skips such an update" if what == NORM else "a lower --clip"
        were_skipped = f", {skipped} updates in a row were skipped" if skipped else ""
        could_skip_more = 0 < skipped < self.step  # or else the first updates diverge
        start = f"Resume with --skip-nonfinite {4 * skipped}, or start" if could_skip_more else "Start"
        good = "none" if latest is None else f"that of step {latest}"
        return Diverged(
            f"the {what} at step {self.step} is not finite{were_skipped}, so the run stops; the last good checkpoint "
            f"is {good}. {start} a new run with a lower --learning-rate, more --warmup or {remedy}."
        )

    def sample(self) -> str | None:
        """Return a text that the model writes; None if there is to be none, or no room for it."""
        is_alone = jax.process_count() == 1  # otherwise the others may have theirs, or wait for this process
        advice = "The results are without it." if is_alone else "Resume with --sample-tokens 0."
        try:
            with reporting_exhaustion("the sample", lambda: advice):
                if self.data.sample and self.flags.sample_tokens:
                    return self.data.sample(self.program.read(self.state.params))
        except OutOfMemory as error:
            if not is_alone:
                raise
            self.tools.display.say(f"note: {error}")
        return None

    def finish(self) -> None:
        """Write the results, last the summary, which marks the end."""
        self.tools.poll(self.step)
        sample = self.sample()
        best = {f"best_{name}": value for name, value in self.best_row().items() if name not in ("seconds", "tokens")}
        measured = on_first(self.tools.metrics.summary)
        summary = measured | best | self.mfu(measured["tokens_per_second"]) | {
            "parameters": sum(x.size for x in jax.tree.leaves(self.program.weights)),
            "optimizer_bytes": self.program.optimizer_bytes,
            "attention": self.program.task.network.attention,
            "logits": "whole" if getattr(self.program.task, "chunk", None) is None else "chunked",
        } | device_summary()  # fmt: skip
        on_first(lambda: write_report(self.tools.folder, Results(self.tools.metrics.rows, sample, summary)))
        self.tools.folder.write_results(self.tools.metrics, sample, summary)
        if sample is not None:
            self.tools.display.say(f"--- sample\n{sample}\n---")
        for line in aligned(summary, self.tools.metrics.loss_unit):
            self.tools.display.say(line)
        if (step := best.get("best_step", self.step)) != self.step:
            self.tools.display.say(f"export, sample and evaluate take the best checkpoint with --step {step}")
