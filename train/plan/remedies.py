"""What makes a step need less memory: a row for each remedy."""

import dataclasses
from collections.abc import Callable

from models.config import CONFIGS
from train.config.axes import idle
from train.config.changes import Flags, kept_inputs
from train.config.optimizer_flags import BLOCKS, HAAR
from train.config.optimizers import OPTIMIZERS
from train.config.run import INT8, Pretrain
from train.config.validate import NARROWEST_BLOCK
from train.program.chunks import chunk_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change of flags that may save memory.

    Attributes:
      flags: The flags that it changes in a run on a number of shards of a batch.
      applies: Whether it changes anything there.
      price: What it costs besides operations.
      keeps_results: Whether an update stays the same up to rounding.
    """

    flags: Callable[[Pretrain, int], Flags]
    applies: Callable[[Pretrain, int], bool]
    price: str
    keeps_results: bool = False


def _logits_are_whole(run: Pretrain, _: int) -> bool:
    return chunk_of(run.model.logits, run.model.vocab_size, 1, run.data.seq_len) is None


def _can_halve_rank(run: Pretrain, _: int) -> bool:
    flags = run.optimizer
    if "rank" not in OPTIMIZERS[flags.optimizer].takes or flags.rank == 1:
        return False
    if "basis" not in OPTIMIZERS[flags.optimizer].takes or not flags.basis.startswith(BLOCKS):
        return True
    return flags.rank % (2 * flags.blocks) == 0 if flags.blocks else flags.rank >= 4 * NARROWEST_BLOCK


def _kept_inputs(run: Pretrain) -> int:
    return kept_inputs(CONFIGS[run.model.model].num_layers)


def _has_moments(run: Pretrain) -> bool:
    return OPTIMIZERS[run.optimizer.optimizer].package in ("grass_optax", "axes")


def _moments(precision: str) -> Remedy:
    order = ("float32", "bfloat16", "float8")

    def applies(run: Pretrain, _: int) -> bool:
        present = (run.optimizer.mu_dtype, run.optimizer.nu_dtype)
        return _has_moments(run) and any(order.index(one) < order.index(precision) for one in present)

    return Remedy(
        flags=lambda *_: {"mu_dtype": precision, "nu_dtype": precision},
        applies=applies,
        price="moments are rounded stochastically",
    )


# In the order in which they are preferred: what leaves the results as they are comes first.
REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        flags=lambda *_: {"logits": "chunked"},
        applies=_logits_are_whole,
        price="none: the results are the same",
        keeps_results=True,
    ),
    Remedy(
        flags=lambda *_: {"remat": "dots"},
        applies=lambda run, _: run.model.remat == "none" and not run.optimizer.update_in_backward,
        price="none: the results are the same",
        keeps_results=True,
    ),
    Remedy(
        flags=lambda *_: {"remat": "block"},
        applies=lambda run, _: run.model.remat != "block" and not run.optimizer.update_in_backward,
        price="none: the results are the same",
        keeps_results=True,
    ),
    Remedy(
        flags=lambda run, shards: {"accumulate": run.data.batch_size // shards},
        applies=lambda run, shards: (
            run.data.batch_size > shards * run.data.accumulate and not run.optimizer.update_in_backward
        ),
        price="smaller products, which may be slower; the results are the same",
        keeps_results=True,
    ),
    Remedy(
        # It computes blocks again by itself, and has no gradients to add up.
        flags=lambda *_: {"update_in_backward": True, "remat": "none", "accumulate": 1},
        applies=lambda run, _: (
            OPTIMIZERS[run.optimizer.optimizer].updates_apart and not run.optimizer.update_in_backward
        ),
        price="a clip needs a second backward pass; the results are the same",
        keeps_results=True,
    ),
    Remedy(
        flags=lambda run, _: {"keep_every": _kept_inputs(run)},
        applies=lambda run, _: run.optimizer.update_in_backward and run.optimizer.keep_every == 1 < _kept_inputs(run),
        price="blocks are computed once more in each backward pass; the results are the same",
        keeps_results=True,
    ),
    Remedy(
        # Unlike parts of a batch it needs no sums of gradients beside the gradients.
        flags=lambda _, shards: {"batch_size": shards, "accumulate": 1},
        applies=lambda run, shards: run.data.batch_size > shards,
        price="more steps for the same tokens, and noisier gradients",
    ),
    Remedy(
        flags=lambda *_: {"precision": "mixed"},
        applies=lambda run, _: run.model.precision == "float32",
        price="products and activations are rounded",
    ),
    Remedy(
        flags=lambda *_: {"basis": BLOCKS},
        applies=lambda run, _: (
            "basis" not in idle(run.optimizer)
            and run.optimizer.basis == HAAR
            and run.optimizer.rank >= 2 * NARROWEST_BLOCK
        ),
        price="other random bases",
    ),
    Remedy(
        flags=lambda *_: {"store_basis": False, "basis_dtype": "float32"},
        applies=lambda run, _: "store_basis" not in idle(run.optimizer) and run.optimizer.store_basis,
        price="bases are drawn again at each step",
    ),
    Remedy(
        flags=lambda *_: {"basis_dtype": "bfloat16"},
        applies=lambda run, _: "basis_dtype" not in idle(run.optimizer) and run.optimizer.basis_dtype == "float32",
        price="bases are rounded",
    ),
    _moments("bfloat16"),
    _moments("float8"),
    Remedy(
        flags=lambda *_: {"optimizer": "grassjump"},
        applies=lambda run, _: not _has_moments(run),
        price="another optimizer, with its own learning rate",
    ),
    Remedy(
        flags=lambda run, _: {"rank": run.optimizer.rank // 2},
        applies=_can_halve_rank,
        price="subspaces of half the dimension",
    ),
    Remedy(
        flags=lambda *_: {"precision": "bfloat16"},
        applies=lambda run, _: run.model.precision != "bfloat16",
        price="products, activations and weights are rounded, weights at random",
    ),
    Remedy(
        flags=lambda *_: {"weights": INT8},
        applies=lambda run, _: run.model.weights != INT8 and not run.devices.mesh,
        price="weights of the layers are rounded to 8 bits, at random",
    ),
)
