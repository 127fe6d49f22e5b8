"""Runs on a mesh: values of --mesh, shardings of parameters, and eight devices train as one."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from models import CONFIGS
from tests.train.small_run import SAME_LOSS, STEADY, Launcher, losses
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import UserError
from train.config.schedule import ScheduleFlags
from train.plan.cost import device_bytes
from train.program import sharding
from train.program.optimizer import make_optimizer, state_bytes
from train.program.sharding import AXES, check_micro_batches, make_mesh, param_shardings, placed, rows_of_a_device
from train.program.step import first_state
from train.program.task import LanguageModel
from train.storage.folder import RunFolder

TINY = CONFIGS["tiny"]
FIRST_WEIGHTS = jax.eval_shape(lambda: LanguageModel(network=TINY, batch_size=1, seq_len=1).draw(0))
STEPS = STEADY["steps"]


@pytest.mark.parametrize(
    ("spec", "batch_size", "message"),
    [
        ("rows=2", 16, "has the invalid part 'rows=2'"),
        ("data=two", 16, "has the invalid part 'data=two'"),
        ("data=0", 16, "has the invalid part 'data=0'"),
        ("data=-2", 16, "has the invalid part 'data=-2'"),
        ("data", 16, "has the invalid part 'data'"),
        ("data=2,data=4", 16, "has the invalid part 'data=4'"),
        ("data=-1,fsdp=-1", 16, "use -1 once"),
        ("fsdp=4", 16, "needs 4 devices or a multiple, and there are 8"),
        ("fsdp=-1,tensor=3", 16, "needs 3 devices or a multiple, and there are 8"),
        ("fsdp=-1,tensor=16", 16, "needs 16 devices or a multiple, and there are 8"),
        ("data=2,fsdp=4", 12, "over data x fsdp = 8 devices, but --batch-size is 12"),
    ],
)
def test_a_wrong_mesh_is_reported(monkeypatch: pytest.MonkeyPatch, spec: str, batch_size: int, message: str) -> None:
    monkeypatch.setattr(sharding.jax, "devices", lambda: [None] * 8)
    with pytest.raises(UserError, match=message):
        make_mesh(spec, batch_size)


def test_micro_batches_are_multiples_of_the_devices_that_share_a_batch() -> None:
    mesh = AbstractMesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    check_micro_batches(mesh, 24, 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--accumulate 2 makes micro-batches of 6 windows, .* multiple of 8\."):
        check_micro_batches(mesh, 12, 2)  # type: ignore[arg-type]
    assert [rows_of_a_device(mesh, 24, count) for count in (1, 3, 24)] == [6, 2, 1]  # type: ignore[arg-type]


def test_one_device_is_a_mesh_of_one() -> None:
    for spec in ("", "fsdp=-1", "data=1,tensor=1"):
        assert make_mesh(spec, 3).shape == dict.fromkeys(AXES, 1)


def test_parameters_are_sharded_as_documented() -> None:
    mesh = AbstractMesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    specs = jax.tree.map(lambda s: tuple(s.spec), param_shardings(mesh, FIRST_WEIGHTS))
    inwards, outwards = (None, "fsdp", "tensor"), (None, "tensor", "fsdp")
    assert specs["embed"]["embedding"] == ("tensor", "fsdp")
    assert specs["lm_head"]["kernel"] == ("fsdp", "tensor")
    assert specs["layers"]["mlp"]["down"]["kernel"] == outwards
    assert specs["layers"]["attention"]["o"]["kernel"] == (None, ("tensor", "fsdp"), None)  # square: the input side
    assert {specs["layers"]["attention"][name]["kernel"] for name in "qkv"} == {inwards}
    assert {specs["layers"]["mlp"][name]["kernel"] for name in ("gate", "up")} == {inwards}
    norms = specs["norm"], specs["layers"]["attention_norm"], specs["layers"]["mlp_norm"]
    assert norms == ({"scale": ()},) * 3


@pytest.mark.parametrize(("model", "devices"), [("60m", 8), ("1b", 8), ("7b", 8), ("7b", 64)])
def test_a_device_holds_its_share_of_the_state(model: str, devices: int) -> None:
    """At most 1.1 of the share if everything were divisible, as 5461 of 1b and bases are not."""
    mesh = AbstractMesh((1, devices, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    flags = OptimizerFlags(rank=CONFIGS[model].hidden_size // 4)
    tx = make_optimizer(flags, ScheduleFlags(), seed=0)
    task = LanguageModel(network=CONFIGS[model], batch_size=1, seq_len=1)
    state = placed(mesh, tx, jax.eval_shape(lambda: first_state(task.draw(0), tx)))  # type: ignore[arg-type]
    total = state_bytes(tx, state.params)
    assert total / devices <= device_bytes(state.opt_state) <= 1.1 * total / devices


def test_a_mesh_that_does_not_divide_the_model_is_reported() -> None:
    mesh = AbstractMesh((1, 3, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    with pytest.raises(UserError, match=r"the hidden axis of embed/embedding, of size 128, over fsdp=3: choose"):
        param_shardings(mesh, FIRST_WEIGHTS)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["grassjump", "grasswalk", "adamw"])
def test_eight_devices_train_as_one(launcher: Launcher, tmp_path: Path, optimizer: str) -> None:
    """The losses of 20 steps over five subspaces, and again from the middle on another mesh."""
    flags = STEADY | {"save_every": 10, "eval_every": 0, "optimizer": optimizer}
    one, eight = tmp_path / "one", tmp_path / "eight"
    launcher.finish(launcher.arguments(one, **flags))
    launcher.finish(launcher.arguments(eight, mesh="data=2,fsdp=2,tensor=-1", **flags), devices=8)
    expected = losses(one)
    assert list(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(losses(eight).values()), list(expected.values()), rtol=SAME_LOSS)

    RunFolder(eight).summary.unlink()
    shutil.rmtree(RunFolder(eight).checkpoints / str(STEPS))
    launcher.finish(["pretrain", "--run-dir", str(eight), "--resume", "--mesh", "fsdp=4"], devices=4)
    again = losses(eight)
    assert list(again) == list(expected)
    np.testing.assert_allclose(list(again.values()), list(expected.values()), rtol=SAME_LOSS)
