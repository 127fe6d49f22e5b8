"""config.json: settings survive it, and a broken file is reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import main, parse
from train.config.finetune import EpochFlags
from train.config.optimizers import KNOBS
from train.config.run import Pretrain, UserError
from train.config.schedule import ScheduleFlags
from train.config.stored import differences, read_config, settings_of

FLAGS = "--model 20m --optimizer ldadam --learning-rate 0.1 --adam-learning-rate 3 --seed 7 --remat block --steps 9"


def pretrain(*words: str) -> Pretrain:
    config = parse(["pretrain", "--run-dir", "runs/x", *words])
    assert isinstance(config, Pretrain)
    return config


def write(path: Path, settings: Any) -> Path:
    path.write_text(json.dumps({"config": settings}))
    return path


def changed(group: str, **values: Any) -> dict[str, Any]:
    settings = settings_of(pretrain())
    return settings | {group: settings[group] | values}


@pytest.mark.parametrize("words", ["", FLAGS, "--sample-prompt=--x --clip 0.1 --mesh fsdp=2"])
def test_a_configuration_survives_json(words: str, tmp_path: Path) -> None:
    config = pretrain(*words.split())
    assert read_config(write(tmp_path / "c.json", settings_of(config)), config.run_dir) == config


def test_a_config_file_repeats_a_command_line(tmp_path: Path) -> None:
    config = pretrain(*FLAGS.split())
    path = write(tmp_path / "config.json", settings_of(config))
    repeated = parse(["pretrain", "--run-dir", "elsewhere", "--config", str(path)])
    assert isinstance(repeated, Pretrain)
    assert settings_of(repeated) == settings_of(config)
    assert repeated.run_dir == Path("elsewhere")


def test_flags_override_a_config_file_and_nothing_else_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", settings_of(pretrain(*FLAGS.split())))
    repeated = pretrain("--config", str(path), "--steps", "40", "--optimizer", "adamw", "--remat", "none")
    stored = json.loads(path.read_text())["config"]
    assert sorted(differences(settings_of(repeated), stored)) == [
        ("--optimizer", "adamw", "ldadam"),
        ("--remat", "none", "block"),
        ("--steps", 40, 9),
    ]


def test_a_config_file_does_not_name_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "config.json", settings_of(pretrain()))
    with pytest.raises(SystemExit):
        parse(["pretrain", "--config", str(path)])
    assert "--run-dir" in capsys.readouterr().err


def test_settings_that_did_not_exist_yet_have_their_defaults(tmp_path: Path) -> None:
    settings = settings_of(pretrain("--seed", "3"))
    del settings["devices"], settings["model"]["remat"]
    for name in (*KNOBS - {"basis", "blocks"}, "rule", "transport", "residual", "jump_every"):
        del settings["optimizer"][name]
    config = read_config(write(tmp_path / "c.json", settings), Path("runs/x"))
    assert (config.devices.mesh, config.model.remat, config.data.seed) == ("", "none", 3)
    assert config.optimizer == pretrain("--seed", "3").optimizer


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"dtype": "float32", "param_dtype": "float32", "remat": False}, ("float32", "none")),
        ({"dtype": "bfloat16", "param_dtype": "float32", "remat": True}, ("mixed", "block")),
    ],
)
def test_settings_of_older_versions_have_their_new_names(
    before: dict[str, Any], now: tuple[str, str], tmp_path: Path
) -> None:
    settings = settings_of(pretrain())
    del settings["model"]["precision"], settings["model"]["remat"]
    config = read_config(write(tmp_path / "c.json", settings | {"model": settings["model"] | before}), Path("runs/x"))
    assert isinstance(config, Pretrain)
    assert (config.model.precision, config.model.remat) == now


def older(**schedule: Any) -> dict[str, Any]:
    """The settings of a run before schedules had names."""
    settings = settings_of(pretrain("--optimizer", "adamw", "--weight-decay", "0.1"))
    del settings["optimizer"]["decay"]
    return settings | {"schedule": {"steps": 40, "final_lr_fraction": 0.1} | schedule}


def test_the_settings_of_an_older_run_are_repeated_under_their_new_names(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", older(warmup_steps=4))
    repeated = read_config(path, tmp_path)
    assert repeated.schedule == ScheduleFlags(steps=40, warmup=4)
    assert repeated.optimizer.decay == "all"  # as it was, of every parameter
    fraction = {"command": "finetune", "config": {"schedule": {"warmup_fraction": 0.06, "epochs": 2.0}}}
    path.write_text(json.dumps(fraction))
    assert read_config(path, tmp_path).schedule == EpochFlags(epochs=2.0, warmup="6%")


def test_an_older_run_is_not_resumed_with_other_learning_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "config.json", older(warmup_steps=4))
    assert main(["pretrain", "--run-dir", str(tmp_path), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "was started by an older version, whose learning rates differ: finish it with that version" in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


BROKEN = [
    ("{", "is not JSON"),
    ("[]", 'has no object "config"'),
    ("{}", 'has no object "config"'),
    ({"model": "tiny", "steps": 3}, "was written by an older version, whose settings were not grouped"),
    ({"modle": {}}, "has an unknown group of settings, 'modle'"),
    ({"data": 3}, "has an unknown group of settings, 'data'"),
    ({"data": {"sed": 3, "seed": 1, "size": 2}}, "has unknown settings: data.sed, data.size. Remove them."),
    ({"schedule": {"steps": "many"}}, "has schedule.steps = 'many': it must be an integer"),
    ({"schedule": {"steps": True}}, "has schedule.steps = True: it must be an integer"),
    ({"schedule": {"steps": 2.5}}, "has schedule.steps = 2.5: it must be an integer"),
    ({"model": {"remat": 1}}, "has model.remat = 1: it must be one of none, block, dots"),
    ({"model": {"dtype": "bfloat16", "param_dtype": "bfloat16"}}, "dtype bfloat16 and param_dtype bfloat16, which no"),
    ({"optimizer": {"optimizer": "sgd"}}, "has optimizer.optimizer = 'sgd': it must be one of grassjump, grasswalk"),
    ({"optimizer": {"adam_learning_rate": "x"}}, "it must be a number or null"),
    ({"data": {"cache_dir": None}}, "has data.cache_dir = None: it must be a string"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_broken_config_file_is_reported(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"config": content}))
    assert main(["pretrain", "--run-dir", str(tmp_path / "run"), "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json cannot be read \(No such file or directory\): check the path"):
        read_config(tmp_path / "nothing.json", tmp_path)


def test_values_in_a_config_file_are_checked_like_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for settings, message in (
        (changed("model", model="huge"), "--model huge is unknown: choose one of tiny"),
        (changed("schedule", steps=-1), "--steps -1 must be at least 1"),
    ):
        path = write(tmp_path / "config.json", settings)
        assert main(["pretrain", "--run-dir", str(tmp_path / "run"), "--config", str(path)]) == 2
        assert message in capsys.readouterr().err
