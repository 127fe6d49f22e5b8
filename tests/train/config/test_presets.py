"""--preset is a column of a paper's table, and every other flag overrides it."""

import json
from pathlib import Path

import jax
import optax
import pytest

from models.config import CONFIGS
from train.__main__ import parse
from train.compare.config import Compare
from train.compare.grid import cells, run_of
from train.config.optimizers import OPTIMIZERS
from train.config.presets import PRESETS
from train.config.run import Pretrain, UserError
from train.config.stored import settings_of
from train.config.validate import check
from train.program.optimizer import make_optimizer
from train.program.program import pretraining
from train.program.sharding import make_mesh


def pretrain(*words: str) -> Pretrain:
    config = parse(["pretrain", "--run-dir", "runs/x", *words])
    assert isinstance(config, Pretrain)
    return config


def test_the_column_of_1b_is_the_one_printed() -> None:
    config = pretrain("--preset", "paper-1b")
    assert (config.model.model, config.model.precision) == ("1b", "bfloat16")
    assert (config.data.batch_size, config.data.accumulate, config.schedule.steps) == (64, 2, 10_000)
    assert (config.schedule.warmup, config.optimizer.clip) == (1000, 1.0)
    flags = config.optimizer
    assert (flags.learning_rate, flags.rank, flags.update_proj_gap, flags.scale) == (1e-4, 512, 100, 0.25)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_optimizer_can_be_trained_with_every_preset(preset: str) -> None:
    for name, row in OPTIMIZERS.items():
        if row.only_finetunes:
            continue
        config = pretrain("--preset", preset, "--optimizer", name)
        check(config)
        flags, column = config.optimizer, PRESETS[preset]
        assert (flags.learning_rate, flags.rank) == (column.learning_rate, column.rank)
        assert flags.scale == (0.25 if row.scale == 0.25 else row.pretraining(column.model).scale)
        if row.refreshes and name != "badam":
            assert flags.update_proj_gap == column.update_proj_gap
        assert config.schedule.warmup == 1000
    assert pretrain("--preset", preset, "--optimizer", "ldadam").optimizer.update_proj_gap == 1


def test_eta_is_the_step_of_tracking_and_no_angle_of_a_walk() -> None:
    etas = [("subtrack", "paper-7b", 1e4), ("subtrack_grad", "subtrack-60m", 10.0), ("grasswalk", "paper-1b", None)]
    for name, preset, eta in etas:
        assert pretrain("--preset", preset, "--optimizer", name).optimizer.step_size == eta
    assembled = ["--preset", "paper-1b", "--optimizer", "assemble", "--rule"]
    assert pretrain(*assembled, "tracking").optimizer.step_size == 1e4
    assert pretrain(*assembled, "tracking", "--step-size", "3").optimizer.step_size == 3
    assert pretrain(*assembled, "random_walk").optimizer.step_size is None
    with pytest.raises(UserError, match="--rule tracking has no effect"):
        pretrain("--preset", "paper-1b", "--optimizer", "grassjump", "--rule", "tracking")


def test_a_sweep_of_the_rule_has_the_eta_where_it_tracks() -> None:
    words = "--preset paper-1b --optimizers assemble --sweep rule=tracking,svd"
    config = parse(["compare", "--run-dir", "x", *words.split()])
    assert isinstance(config, Compare)
    runs = [run_of(config, cell) for cell in cells(config)]
    assert [(run.optimizer.rule, run.optimizer.step_size) for run in runs] == [("tracking", 1e4), ("svd", None)]


def test_other_flags_override_a_preset_even_with_the_value_of_no_flag() -> None:
    words = "--preset paper-7b --model tiny --steps 300 --rank 32 --precision float32 --optimizer subtrack"
    config = pretrain(*words.split(), "--step-size", "None")
    assert (config.model.model, config.model.vocab_size, config.data.seq_len) == ("tiny", 2048, 128)
    assert (config.schedule.steps, config.schedule.warmup, config.optimizer.rank) == (300, 30, 32)
    assert (config.model.precision, config.optimizer.step_size) == ("float32", None)
    assert config.data.batch_size == 32


def test_a_comparison_and_a_plan_have_the_preset_too() -> None:
    config = parse(
        ["compare", "--run-dir", "x", "--preset", "paper-qwen-1.5b", "--optimizers", "adamw", "fira", "ldadam"]
    )
    assert isinstance(config, Compare)
    assert (config.compare.rank, config.data.batch_size, config.data.accumulate) == (256, 64, 4)
    flags = [config.optimizer(name) for name in config.compare.optimizers]
    assert [(one.learning_rate, one.scale, one.update_proj_gap) for one in flags[1:]] == [
        (1e-4, 0.25, 100), (1e-4, 1.0, 1)
    ]  # fmt: skip
    plan = parse(["plan", "--preset", "paper-7b", "--batch-size", "4"])
    assert (plan.model.model, plan.batch.batch_size, plan.batch.accumulate) == ("7b", 4, 4)  # type: ignore[union-attr]
    assert plan.optimizer.rank == 1024  # type: ignore[union-attr]


def test_a_run_of_a_preset_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    words = ["pretrain", "--run-dir", str(tmp_path), "--preset", "subtrack-60m", "--steps", "500", "--save-every", "7"]
    first = parse(words)
    assert isinstance(first, Pretrain)
    (tmp_path / "config.json").write_text(json.dumps({"config": settings_of(first)}))
    again = parse([*words, "--resume"])
    assert settings_of(again) == settings_of(first)  # type: ignore[arg-type]
    assert settings_of(parse([*words[:3], "--resume"])) == settings_of(first)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--resume continues .* was given .*--rank 512"):
        parse([*words[:3], "--preset", "subtrack-1b", "--resume"])
    with pytest.raises(UserError, match="--preset paper-1b has no effect beside --config"):
        parse(["pretrain", "--run-dir", "x", "--preset", "paper-1b", "--config", str(tmp_path / "config.json")])


def test_qwen_has_subspaces_for_all_kernels_that_are_wide_enough() -> None:
    """Its arrays, without making them: grouped keys and values of 256 columns get Adam."""
    config = pretrain("--preset", "paper-qwen-1.5b", "--optimizer", "grasswalk")
    assert CONFIGS["qwen2-1.5b"].kv_heads * CONFIGS["qwen2-1.5b"].head_dim == config.optimizer.rank
    task = pretraining(config.model, config.data, make_mesh("", config.data.batch_size))
    params = jax.eval_shape(lambda: task.draw(0))
    state = jax.eval_shape(make_optimizer(config.optimizer, config.schedule, 0).init, params)
    basis = optax.tree_utils.tree_get(state, "SplitState").basis["layers"]
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in
              jax.tree_util.tree_leaves_with_path(basis)}  # fmt: skip
    assert {name.split("/")[-2] for name in shapes} == {"q", "o", "gate", "up", "down"}
    assert set(shapes.values()) == {(28, 1536, 256)}
