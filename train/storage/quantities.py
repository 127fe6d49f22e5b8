"""The numbers of a run: their names, what they mean, their units, and how they are written.

One table for the rows of metrics.jsonl, the summary, the lines of progress and the report.
"""

from typing import NamedTuple

from train.config.finetune import CLASSIFICATION, REGRESSION, Finetune
from train.config.stored import Run

LOSS = "loss"  # a unit that depends on what the run learns


class Quantity(NamedTuple):
    """What a number is."""

    meaning: str
    unit: str = ""


# The columns of metrics.jsonl: of updates, of evaluations, and of both.
UPDATES = {
    "loss": Quantity("training loss of the batch, before the update", LOSS),
    "skipped": Quantity("updates skipped so far, in the row of one that was skipped", "updates"),
    "skipped_loss": Quantity("its loss, instead of `loss`", LOSS),
    "lr": Quantity("learning rate"),
    "tokens_per_second": Quantity("speed of this update", "tokens/s"),
    "mfu": Quantity("part of the device's peak FLOP/s that the model uses, if it is known"),
    "peak_memory_bytes": Quantity("most memory of the first device so far, if the backend reports it", "bytes"),
}
EVALUATIONS = {
    "eval_loss": Quantity("loss on held-out data", LOSS),
    "bits_per_byte": Quantity("bits per byte of held-out text"),
    "accuracy": Quantity("part of the held-out texts whose class is found"),
    "f1": Quantity("F1 on held-out texts"),
    "matthews": Quantity("Matthews' correlation on held-out texts"),
    "pearson": Quantity("Pearson's correlation on held-out texts"),
    "spearman": Quantity("Spearman's correlation on held-out texts"),
}
BOTH = {
    "step": Quantity("updates so far", "updates"),
    "seconds": Quantity("training time so far", "s"),
    "tokens": Quantity("tokens seen so far, padding included", "tokens"),
}
COLUMNS = BOTH | UPDATES | EVALUATIONS
# What a row of diagnostics.jsonl has of every matrix, beside the columns of `BOTH`.
DIAGNOSTICS = {
    "captured": Quantity("norm of S^T G over that of G: the part of the gradient in its subspace (eq. 3)"),
    "captured_by_random": Quantity("the same for a random subspace: sqrt(r/m)"),
    "captured_by_best": Quantity("the same for the best subspace of this rank, nearly"),
    "tangent_singular_values": Quantity(
        "20 largest of the tangent of the subspace error (Figure 2)", "gradient squared"
    ),
    "tangent_norm": Quantity("Frobenius norm of this tangent (Figure 9)", "gradient squared"),
    "tangent_relative": Quantity("the same over the squared norm of G, at most 1"),
    "overlap": Quantity("mean squared cosine of the angles to the subspace before; 1 if it stayed"),
    "angle_mean": Quantity("mean of these principal angles", "radians"),
    "angle_largest": Quantity("the largest of them", "radians"),
    "recovered": Quantity("norm of the recovered residual L over that of G"),
    "limited": Quantity("1 if the norm-growth limit held the columns of L down, else 0"),
}
# What only summary.json has.
RESULTS = {
    "steps": Quantity("updates", "updates"),
    "skipped_updates": Quantity("updates that were skipped", "updates"),
    "first_train_loss": Quantity("training loss of the first update", LOSS),
    "last_train_loss": Quantity("training loss of the last update", LOSS),
    "parameters": Quantity("numbers in the model"),
    "optimizer_bytes": Quantity("optimizer state", "bytes"),
    "attention": Quantity("how attention is computed"),
    "device": Quantity("the first device"),
}


def loss_unit(run: Run) -> str:
    """Return the unit of the losses of a run."""
    task = run.data.task if isinstance(run, Finetune) else ""
    return {CLASSIFICATION: "nats per text", REGRESSION: "squared error"}.get(task, "nats per token")


def unit_of(name: str, loss: str) -> str:
    """Return the unit of a number by its name; `loss` is that of losses."""
    quantity = (COLUMNS | RESULTS).get(name.removeprefix("best_"))
    unit = quantity.unit if quantity else ""
    return loss if unit == LOSS else unit


def number(value: float | str) -> str:
    """Return a number as text: whole ones in full, others with about four digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 1000
        else f"{value:.1f}"
        if size >= 100
        else f"{value:.4f}"
        if size >= 0.01
        else f"{value:.3g}"
    )


def aligned(numbers: dict[str, float | str], loss: str) -> list[str]:
    """Return a line for each number: name, value and unit in columns, numbers to the right."""
    texts = {name: number(value) for name, value in numbers.items()}
    wide = max(map(len, texts))
    digits = max((len(text) for name, text in texts.items() if not isinstance(numbers[name], str)), default=0)
    return [f"{name:>{wide}}  {text:>{digits}}  {unit_of(name, loss)}".rstrip() for name, text in texts.items()]
