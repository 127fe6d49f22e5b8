"""The training step lowered for an NVIDIA GPU on a machine without one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo  # private: what asks for a GPU is replaced

from tests.models.small import BERT
from tests.util import long_but
from train.config.optimizer_flags import OptimizerFlags, default_optimizer
from train.config.optimizers import OPTIMIZERS, OptimizerName
from train.config.run import DataFlags, ModelFlags, WeightsName
from train.config.schedule import ScheduleFlags
from train.program.labelling import Labelling
from train.program.program import make_program, pretraining
from train.program.sharding import make_mesh
from train.program.task import LanguageModel, Task

PRETRAINING = [name for name, row in OPTIMIZERS.items() if not row.only_finetunes]
DATA = DataFlags(batch_size=4, seq_len=16)


def lowered(
    optimizer: OptimizerFlags, change: Callable[[LanguageModel], LanguageModel] = lambda x: x, **flags: str
) -> str:
    model = ModelFlags(**flags)  # type: ignore[arg-type]
    task = change(pretraining(model, DATA, make_mesh("", DATA.batch_size)))
    return lowered_step(task, optimizer, model.weights)


def lowered_step(task: Task, optimizer: OptimizerFlags, weights: WeightsName = "float") -> str:
    program = make_program(make_mesh("", DATA.batch_size), task, optimizer, ScheduleFlags(), 0, weights=weights)
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention widens bfloat16 scores implicitly
        step = program.train_step.trace(program.state, program.batch).lower(lowering_platforms=("cuda",))
    return str(step.as_text())


def flags_of(optimizer: OptimizerName) -> OptimizerFlags:
    return dataclasses.replace(default_optimizer(optimizer, "tiny"), rank=8)


@pytest.mark.parametrize("optimizer", long_but(["grassjump"], PRETRAINING))
def test_the_step_of_every_optimizer_lowers_for_cuda(optimizer: OptimizerName) -> None:
    """In mixed precision, with logits in chunks: products of bfloat16, no call back to the host."""
    text = lowered(flags_of(optimizer), precision="mixed", logits="chunked")
    assert "xbf16>" in text
    assert "callback" not in text


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "grasswalk"])
def test_a_step_with_weights_of_16_bits_lowers_for_cuda(optimizer: OptimizerName) -> None:
    flags = dataclasses.replace(flags_of(optimizer), mu_dtype="float32")
    assert "callback" not in lowered(flags, precision="bfloat16", remat="dots")


BACKWARD = {"update_in_backward": True, "keep_every": 2}
NARROW = {"basis": "blocks:2", "mu_dtype": "float8", "nu_dtype": "float8"}


@pytest.mark.parametrize(
    ("flags", "weights"),
    long_but(
        [(BACKWARD | NARROW, "int8")],
        [(BACKWARD, "float"), (NARROW, "float"), ({}, "int8"), (BACKWARD | NARROW, "int8")],
    ),
)
def test_a_step_that_takes_less_memory_lowers_for_cuda(flags: dict[str, Any], weights: str) -> None:
    """One lever at a time, and all of docs/guides/card.md together."""
    optimizer = dataclasses.replace(flags_of("grassjump"), **flags)
    text = lowered(optimizer, precision="bfloat16", weights=weights)
    assert "callback" not in text
    assert ("xi8>" in text) == (weights == "int8")
    assert ("xf8E4M3FN>" in text) == ("mu_dtype" in flags)


def test_the_step_of_an_encoder_lowers_for_cuda() -> None:
    text = lowered_step(Labelling(network=BERT, batch_size=4, seq_len=8), flags_of("grassjump"))
    assert "callback" not in text


def test_the_mark_of_a_program_for_cuda_is_no_accident() -> None:
    """The exact SVD is a callback on CPUs before jaxlib 0.11, and a call of cuSOLVER on a GPU."""
    assert "cusolver" in lowered(flags_of("galore"))


@pytest.mark.long
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_step_with_flash_attention_lowers_for_cuda(is_packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, as on an H100 with cuDNN 9.10, which JAX would look for here."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)

    def with_cudnn(task: LanguageModel) -> LanguageModel:
        network = dataclasses.replace(task.network, attention="cudnn")
        return dataclasses.replace(task, network=network, is_packed=is_packed)

    text = lowered(flags_of("adamw"), with_cudnn, precision="mixed")
    assert "__cudnn$fmha" in text
    assert "Backward" in text
