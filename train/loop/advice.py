"""What to do about a run that does not fit into the memory of its device."""

import dataclasses
from collections.abc import Sequence

from models.config import TransformerConfig
from train.config.axes import idle
from train.config.changes import Flags, changed, kept_inputs, new, words
from train.config.finetune import StartFlags
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import INT8, ModelFlags, Pretrain, UserError
from train.config.stored import Run
from train.config.validate import check, check_finetuning
from train.plan.config import Plan, plan_defaults
from train.program.chunks import chunk_of

WITHOUT_COST = ("learning_rate", "adam_learning_rate", "scale", "attention")  # in bytes; attention depends on devices


def for_memory(run: Run, network: TransformerConfig, shards: int) -> str:
    """Return two sentences: which flags would keep the results, and which would change them.

    Every flag that they name with a value is one that the run does not have and may have.

    Args:
      run: The run.
      network: Its network.
      shards: The devices among which a batch is divided.
    """
    keep: list[Flags] = [
        {"logits": "chunked"},
        {"remat": "block"},
        {"accumulate": run.data.batch_size // shards},
        {"update_in_backward": True, "remat": "none", "accumulate": 1},
        {"keep_every": kept_inputs(network.num_layers)},
    ]
    change: list[Flags] = [
        {"weights": INT8},
        {"mu_dtype": "float8", "nu_dtype": "float8"},
        {"precision": "bfloat16"},
    ]
    kept = [words(new(run, flags)) for flags in keep if _helps(run, network, flags)]
    kept += ["--mesh over more devices"] if _of_model(run).weights != INT8 else []
    others = ["a smaller --batch-size", "a smaller --seq-len"]
    others += [words(new(run, flags)) for flags in change if _helps(run, network, flags)]
    plan = f"; python -m train {plan_command(run)} reports what it needs" if isinstance(run, Pretrain) else ""
    same = f"These keep the results: {_listed(kept)}. " if kept else ""
    if run.resume:
        return f"{same}These need a new run: {_listed(others)}{plan}."
    return f"{same}These change them: {_listed(others)}{plan}."


def plan_command(run: Pretrain) -> str:
    """Return the command that plans the step of a run."""
    named = {"model": run.model.model, "optimizer": run.optimizer.optimizer}
    model, optimizer = ModelFlags(model=run.model.model), OptimizerFlags(optimizer=run.optimizer.optimizer)
    default = plan_defaults(Plan(model=model, optimizer=optimizer))
    ignored = {*WITHOUT_COST, *idle(run.optimizer)}
    for flags, usual in ((run.model, default.model), (run.optimizer, default.optimizer)):
        given = dataclasses.asdict(flags)
        named |= {x: given[x] for x in given if x not in ignored and given[x] != getattr(usual, x)}
    named |= {name: getattr(run.data, name) for name in ("batch_size", "accumulate", "seq_len")}
    named |= {"mesh": run.devices.mesh} if run.devices.mesh else {}
    return f"plan {words(named)}"


def _helps(run: Run, network: TransformerConfig, flags: Flags) -> bool:
    """Whether some flags change a run, and are accepted beside its others."""
    if not new(run, flags) or any(name in idle(run.optimizer) for name in flags):
        return False
    if "logits" in flags and chunk_of(_of_model(run).logits, network.vocab_size, 1, run.data.seq_len) is not None:
        return False
    try:
        other = changed(run, flags)
        check(other) if isinstance(other, Pretrain) else check_finetuning(other, network)
    except UserError:
        return False
    return True


def _of_model(run: Run) -> ModelFlags | StartFlags:
    return run.model if isinstance(run, Pretrain) else run.start


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
