"""Which remedies to take, so that a step fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from train.config.changes import Flags, changed, new
from train.config.run import Pretrain
from train.plan.remedies import REMEDIES, Remedy


class Cost(NamedTuple):
    """What a step costs."""

    needed: int  # bytes on each device
    operations: int  # of the products, on all devices
    tokens: int  # of a batch
    seconds: float  # to compile


class Planned(NamedTuple):
    """A changed step and its cost."""

    flags: Flags
    cost: Cost
    price: str = ""


# Compiles a changed run; given its changed flags too.
Measure = Callable[[Pretrain, Flags], Cost]


def alone(run: Pretrain, shards: int, measure: Measure) -> dict[Remedy, Planned]:
    """Return the cost of a step with each remedy that applies, in the order of the table."""
    changes = {remedy: new(run, remedy.flags(run, shards)) for remedy in REMEDIES if remedy.applies(run, shards)}
    return {
        remedy: Planned(flags, measure(changed(run, flags), flags), remedy.price) for remedy, flags in changes.items()
    }


def together(
    run: Pretrain, shards: int, needed: int, limit: int, tried: Mapping[Remedy, Planned], measure: Measure
) -> list[Planned]:
    """Return the steps on the way to one that fits, each with its flags.

    If one remedy alone is enough, it is the first such of `tried`. Otherwise they are added until
    the step fits: those that keep the results, then the others, each by what they save alone, most
    first, and after them those that apply only now or saved nothing alone, as narrow weights do
    while gradients are the most. One that saves nothing then is left out. Once the step fits, those
    that it fits without are taken back.

    Args:
      run: The run that does not fit.
      shards: Shards of its batch.
      needed: Bytes that it needs.
      limit: Bytes that there are.
      tried: Each remedy alone.
      measure: Returns the cost of a changed run.
    """
    enough = [one for one in tried.values() if one.cost.needed <= limit]
    if enough:
        return enough[:1]
    useful = [remedy for remedy, one in tried.items() if one.cost.needed < needed]
    useful.sort(key=lambda remedy: (not remedy.keeps_results, tried[remedy].cost.needed))
    taken: dict[Remedy, Planned] = {}
    flags: Flags = {}
    for remedy in (*useful, *(remedy for remedy in REMEDIES if remedy not in useful)):
        if not remedy.applies(changed(run, flags), shards):
            continue
        more = _with(run, shards, flags, remedy)
        cost = measure(changed(run, more), more) if taken else tried[remedy].cost
        if cost.needed >= needed:
            continue
        flags, needed = more, cost.needed
        taken[remedy] = Planned(flags, cost)
        if needed <= limit:
            too_large = [one.flags for one in tried.values()]
            return [*taken.values(), *_taken_back(run, shards, limit, list(taken), too_large, measure)]
    return list(taken.values())


def _with(run: Pretrain, shards: int, flags: Flags, remedy: Remedy) -> Flags:
    """Return the flags with those of one more remedy."""
    return new(run, flags | remedy.flags(changed(run, flags), shards))


def _all_of(run: Pretrain, shards: int, remedies: Sequence[Remedy]) -> Flags:
    """Return the flags of remedies, of which those that do not apply beside the others are left
    out.
    """
    flags: Flags = {}
    for remedy in remedies:
        if remedy.applies(changed(run, flags), shards):
            flags = _with(run, shards, flags, remedy)
    return flags


def _taken_back(
    run: Pretrain, shards: int, limit: int, taken: Sequence[Remedy], too_large: Sequence[Flags], measure: Measure
) -> Iterator[Planned]:
    """Yield the steps with fewer of the remedies that still fit, each one fewer than the step
    before it.

    What is preferred least goes first. The last that was taken stays: nothing fitted without it.
    `too_large` are flags that are known not to fit.
    """
    flags = _all_of(run, shards, taken)
    for remedy in sorted(taken[:-1], key=REMEDIES.index, reverse=True):
        fewer = [other for other in taken if other is not remedy]
        less = _all_of(run, shards, fewer)
        if less in too_large:
            continue
        if less != flags:  # else another remedy replaces what this one does
            cost = measure(changed(run, less), less)
            if cost.needed > limit:
                continue
            yield Planned(less, cost)
        taken, flags = fewer, less
