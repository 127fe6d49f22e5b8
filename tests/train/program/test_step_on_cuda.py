"""The training step lowered for an NVIDIA GPU on a machine without one."""

import dataclasses

import jax
import pytest

from tests.util import long_but
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.run import DataFlags, ModelFlags, OptimizerFlags, ScheduleFlags, default_optimizer
from train.program.program import make_program, pretraining
from train.program.sharding import make_mesh

PRETRAINING = [name for name, row in OPTIMIZERS.items() if not row.only_finetunes]
DATA = DataFlags(batch_size=4, seq_len=16)


def lowered(optimizer: OptimizerFlags, **flags: str) -> str:
    mesh = make_mesh("", DATA.batch_size)
    model = ModelFlags(**flags)  # type: ignore[arg-type]
    program = make_program(mesh, pretraining(model, DATA, mesh), optimizer, ScheduleFlags(), 0)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention widens bfloat16 scores implicitly
        step = program.train_step.trace(program.state, program.batch)
    return str(step.lower(lowering_platforms=("cuda",)).as_text())


@pytest.mark.parametrize("optimizer", long_but(["grassjump"], PRETRAINING))
def test_the_step_of_every_optimizer_lowers_for_cuda(optimizer: OptimizerName) -> None:
    """In mixed precision, with logits in chunks: products of bfloat16, no call back to the host."""
    text = lowered(default_optimizer(optimizer, rank=8), precision="mixed", logits="chunked")
    assert "xbf16>" in text
    assert "callback" not in text


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "grasswalk"])
def test_a_step_with_weights_of_16_bits_lowers_for_cuda(optimizer: OptimizerName) -> None:
    flags = dataclasses.replace(default_optimizer(optimizer, rank=8), mu_dtype="float32")
    assert "callback" not in lowered(flags, precision="bfloat16", remat="dots")


def test_the_mark_of_a_program_for_cuda_is_no_accident() -> None:
    """The exact SVD is a callback on CPUs before jaxlib 0.11, and a call of cuSOLVER on a GPU."""
    assert "cusolver" in lowered(default_optimizer("galore", rank=8))
