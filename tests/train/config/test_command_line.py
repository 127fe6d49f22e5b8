"""The command line: flags arrive, defaults follow, mistakes are reported in one line."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.small_run import ROOT
from train.__main__ import Command, main, parse
from train.config.machine_flags import ProcessFlags
from train.config.optimizers import OPTIMIZERS
from train.config.resumed import refuse_conflicts
from train.config.run import Pretrain, UserError
from train.config.stored import COMMANDS, groups_of, settings_of
from train.evaluate.config import Evaluate
from train.export.config import Export
from train.import_.config import Import
from train.sample.config import Sample

# For every stored flag a value that is not a default.
OTHER: dict[str, object] = {
    "model": "20m",
    "vocab_size": 999,
    "precision": "bfloat16",
    "weights": "int8",
    "attention": "xla",
    "logits": "whole",
    "remat": "dots",
    "data": "files:texts/*.txt",
    "data_megabytes": 3.5,
    "tokenizer": "/somewhere/tokenizer.json",
    "end_of_text": "<end>",
    "skip_unreadable": True,
    "cache_dir": "/somewhere/else",
    "batch_size": 7,
    "accumulate": 7,
    "seq_len": 33,
    "seed": 11,
    "optimizer": "grasswalk",
    "learning_rate": 0.5,
    "adam_learning_rate": 0.25,
    "rule": "tracking",
    "transport": "keep",
    "residual": "dropped",
    "rank": 5,
    "basis": "gaussian",
    "store_basis": False,
    "step_size": 0.5,
    "walk_rank": 2,
    "jump_every": 3,
    "tracking_rank": 3,
    "completion": "isotropic",
    "max_norm_growth": 1.5,
    "update_proj_gap": 17,
    "scale": 0.75,
    "weight_decay": 0.125,
    "decay": "all",
    "clip": 2.5,
    "mu_dtype": "bfloat16",
    "nu_dtype": "float8",
    "basis_dtype": "bfloat16",
    "update_in_backward": True,
    "clip_by": "layer",
    "keep_every": 2,
    "schedule": "wsd",
    "warmup": "5%",
    "cooldown": 13,
    "final_lr_fraction": 0.375,
    "steps": 77,
    "log_every": 4,
    "log": ["tensorboard"],
    "diagnostics": True,
    "eval_every": 9,
    "eval_batches": 6,
    "save_every": 8,
    "save_minutes": 1.5,
    "keep": 3,
    "keep_best": True,
    "skip_nonfinite": 5,
    "skip_spikes": 4.0,
    "profile": "3:4",
    "sample_tokens": 21,
    "sample_prompt": "import ",
    "mesh": "fsdp=1",
}


def command(*words: object) -> list[str]:
    return ["pretrain", "--run-dir", "runs/x", *map(str, words)]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def flat(config: Command) -> dict[str, Any]:
    """The stored settings by name, without their groups, and without --init-from, which needs a
    model (`tests.train.pretrain.test_start`).
    """
    assert isinstance(config, Pretrain)
    groups = settings_of(config)
    assert groups.pop("start") == {"init_from": None, "init_step": None}
    return {name: value for group in groups.values() for name, value in group.items()}


def words(name: str, value: object) -> list[object]:
    """A flag and its value; a boolean flag has none, and a list several."""
    if value is False:
        return [flag(f"no_{name}")]
    return [flag(name), *([] if value is True else value if isinstance(value, list) else [value])]


def test_other_covers_every_flag() -> None:
    assert list(OTHER) == list(flat(parse(command())))


# Without these a flag would have no effect.
BESIDE = {
    "skip_unreadable": ("--data", "files:x"),
    "cooldown": ("--schedule", "wsd"),
    "decay": ("--weight-decay", "0.1"),
    **dict.fromkeys(("rule", "transport", "residual"), ("--optimizer", "assemble")),
    **dict.fromkeys(("step_size", "walk_rank"), ("--optimizer", "grasswalk")),
    "jump_every": ("--optimizer", "assemble", "--rule", "random_walk_with_jumps"),
    "tracking_rank": ("--optimizer", "subtrack"),
}


@pytest.mark.parametrize("name", OTHER)
def test_every_flag_arrives_alone(name: str) -> None:
    value, beside = OTHER[name], BESIDE.get(name, ())
    assert flat(parse(command()))[name] != value
    assert flat(parse(command(*words(name, value), *beside)))[name] == value


def test_all_flags_arrive_together() -> None:
    absent = {"rule", "transport", "residual", "step_size", "walk_rank", "jump_every", "tracking_rank"}
    absent |= {"basis_dtype"}  # of bases that are stored
    other = {name: value for name, value in OTHER.items() if name not in absent} | {"optimizer": "grassjump"}
    config = parse(command(*(word for name, value in other.items() for word in words(name, value))))
    assert {name: value for name, value in flat(config).items() if name not in absent} == other
    assert config.run_dir == Path("runs/x")
    assert not config.resume


def test_help_does_not_import_jax() -> None:
    script = "import sys, train.__main__; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_a_command_line_with_few_flags_has_the_defaults_of_tiny() -> None:
    line = "pretrain --model tiny --optimizer grassjump --steps 300 --run-dir runs/demo --seed 0"
    config = parse(line.split())
    assert (config.model.vocab_size, config.schedule.warmup) == (2048, 30)
    assert config.data.data_megabytes == 16
    assert config.optimizer.rank == 32


def test_defaults_follow_model_optimizer_corpus_and_steps() -> None:
    words = ("--model", "60m", "--optimizer", "adamw", "--data", "files:x", "--steps", 50)
    settings = flat(parse(command(*words)))
    assert settings["vocab_size"] == 32000
    assert settings["rank"] == 128
    assert settings["learning_rate"] == 1e-3
    assert settings["data_megabytes"] == 0
    assert settings["warmup"] == 5


def test_the_cache_goes_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert flat(parse(command()))["cache_dir"] == "/caches/grass_optax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert flat(parse(command()))["cache_dir"] == "/home/me/.cache/grass_optax"


def test_a_configuration_is_frozen() -> None:
    config = parse(command())
    for part in (config, *(getattr(config, group) for group in groups_of(Pretrain))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


def test_no_name_is_in_two_groups() -> None:
    names = [name for group in settings_of(parse(command())).values() for name in group]
    assert len(names) == len(set(names))


def test_conflicts_are_named_and_what_changes_no_result_may_change() -> None:
    stored = parse(command())
    with pytest.raises(UserError) as error:
        refuse_conflicts(parse(command("--rank", 8, "--steps", 20)), stored)
    for part in ("--rank 8 (the run has 32)", "--steps 20 (the run has 300)", "another --run-dir"):
        assert part in str(error.value)
    free = ("--steps", 300, "--log", "tensorboard", "--cache-dir", "/x", "--log-every", 1, "--save-every", 7)
    refuse_conflicts(parse(command(*free)), stored)
    refuse_conflicts(parse(command("--sample-tokens", 3, "--sample-prompt", "x")), stored)


def test_help_shows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "pretrain" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for name in (*OTHER, "run_dir", "resume", "config", *vars(ProcessFlags())):
        assert flag(name) in shown
    assert all(name in shown for name in OPTIMIZERS)
    assert "--data." not in shown


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("import", ("--from", "--out")),
        ("report", ("--run-dir",)),
        ("figures", ("--run-dir", "--out")),
        ("export", ("--run-dir", "--step", "--out", "--verify")),
        (
            "sample",
            ("--run-dir", "--step", "--prompt", "--tokens", "--temperature", "--top-k", "--top-p", "--seed", "--dtype"),
        ),
        (
            "evaluate",
            (
                "--run-dir",
                "--step",
                "--data",
                "--data-megabytes",
                "--eval-batches",
                "--batch-size",
                "--seq-len",
                "--json",
            ),
        ),
    ],
)
def test_help_shows_the_flags_of_the_commands_that_use_a_model(
    name: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in flags)


def test_commands_that_use_a_model_have_the_defaults_of_their_flags() -> None:
    assert parse(["sample", "--run-dir", "x", "--prompt", "a", "b"]) == Sample(run_dir=Path("x"), prompt=("a", "b"))
    assert parse(["evaluate", "--run-dir", "x"]) == Evaluate(run_dir=Path("x"))
    assert parse(["export", "--run-dir", "x", "--out", "y"]) == Export(run_dir=Path("x"), out=Path("y"))
    assert parse(["import", "--from", "x", "--out", "y"]) == Import(source=Path("x"), out=Path("y"))


MISTAKES = [
    ("--model huge", "--model huge is unknown: choose one of tiny, 9m"),
    ("--steps -5", "--steps -5 must be at least 1"),
    ("--steps 0", "--steps 0 must be at least 1"),
    ("--rank 128", "--rank 128 must be below the hidden size of tiny, which is 128"),
    ("--optimizer muon --rank 0", "--rank 0 has no effect on muon: leave it out"),
    ("--optimizer badam --scale 0.5", "--scale 0.5 has no effect on badam: leave it out"),
    ("--rank 0", "--rank 0 must be at least 1"),
    ("--basis qr", "--basis qr must be one of haar, gaussian, blocks, columns, cosine, or blocks:NUMBER"),
    ("--basis haar:2", "--basis haar:2 must be one of"),
    ("--basis blocks", "--basis blocks makes a single block at --rank 32, a dense basis: give blocks:NUMBER"),
    ("--basis blocks:²", "--basis blocks:² must be one of"),
    ("--basis blocks:two", "--basis blocks:two must be one of"),
    ("--basis blocks:3", "--basis blocks:3 must have a number that divides the hidden size 128 and --rank 32"),
    ("--optimizer adamw --basis blocks", "--basis blocks has no effect on adamw: leave it out"),
    ("--warmup 300", "--warmup 300 must be below --steps 300, or the peak is never reached"),
    ("--steps 5 --warmup 6", "--warmup 6 must be below --steps 5"),
    ("--steps 2 --warmup 99%", "--warmup 99% must be below --steps 2"),
    ("--warmup 100%", "--warmup 100% must be below 100%"),
    ("--warmup -1", "--warmup -1 must be at least 0"),
    ("--warmup 0.1", "--warmup 0.1 must be a number of updates, or a percentage of them, such as 10%"),
    ("--warmup %", "--warmup % must be a number of updates, or a percentage"),
    ("--schedule wsd --cooldown 0", "--cooldown 0 must be at least 1 and at most 270 updates, those after the peak"),
    ("--schedule wsd --cooldown 91%", "--cooldown 91% must be at least 1 and at most 270 updates"),
    ("--schedule wsd --cooldown ten", "--cooldown ten must be a number of updates, or a percentage"),
    ("--cooldown 10%", "--cooldown 10% has no effect on --schedule cosine: leave it out"),
    ("--schedule constant --final-lr-fraction 0", "--final-lr-fraction 0.0 has no effect on --schedule constant"),
    ("--optimizer adamw --rank 8", "--rank 8 has no effect on adamw: leave it out"),
    ("--optimizer apollo_mini --rank 8", "--rank 8 has no effect on apollo_mini"),
    ("--optimizer muon --update-proj-gap 5", "--update-proj-gap 5 has no effect on muon"),
    ("--optimizer column_sgd --update-proj-gap 5", "--update-proj-gap 5 has no effect on column_sgd"),
    ("--optimizer muon --nu-dtype bfloat16", "--nu-dtype bfloat16 has no effect on muon"),
    ("--decay all", "--decay all has no effect without --weight-decay: leave it out"),
    ("--accumulate 0", "--accumulate 0 must be at least 1"),
    ("--accumulate 3", "--accumulate 3 must divide --batch-size 16"),
    ("--diagnostics --optimizer adamw", "--diagnostics needs another optimizer than adamw, one with subspaces"),
    ("--diagnostics --optimizer frugal", "than frugal, one whose subspaces are stored or fixed"),
    ("--diagnostics --no-store-basis", "--diagnostics needs the bases in the state: leave out --no-store-basis"),
    ("--optimizer galore --no-store-basis", "--no-store-basis has no effect on galore: leave it out"),
    ("--optimizer assemble --rule svd --no-store-basis", "--no-store-basis has no effect on assemble with --rule svd"),
    ("--diagnostics --update-in-backward", "--diagnostics needs the gradient of the whole model"),
    ("--update-in-backward --accumulate 2", "--accumulate 2 adds gradients up, and --update-in-backward keeps none"),
    ("--weights int8 --mesh data=2", "--weights int8 has blocks that --mesh data=2 would cut"),
    ("--update-in-backward --remat block", "--remat block has no effect on --update-in-backward"),
    ("--update-in-backward --optimizer badam", "--update-in-backward needs an optimizer that updates layers apart"),
    ("--clip-by layer", "--clip-by layer has no effect without --update-in-backward: add it, or leave this out"),
    ("--update-in-backward --clip 0 --clip-by previous", "--clip-by previous has no effect on --clip 0"),
    ("--keep-every 2", "--keep-every 2 has no effect without --update-in-backward: add it, or leave this out"),
    ("--update-in-backward --keep-every 0", "--keep-every 0 must be at least 1"),
    ("--update-in-backward --keep-every 3", "--keep-every 3 must divide the 4 layers, and be less: give one of 1, 2"),
    ("--update-in-backward --keep-every 4", "--keep-every 4 must divide the 4 layers, and be less: give one of 1, 2"),
    ("--profile 3", "--profile 3 must be FIRST:LAST, two updates from 1 on, for example 10:12"),
    ("--profile 4:3", "--profile 4:3 must be FIRST:LAST"),
    ("--profile 301:302", "--profile 301:302 has no effect on --steps 300: leave it out"),
    ("--steps 3 --warmup 1 --profile 4:4", "--profile 4:4 has no effect on --steps 3: leave it out"),
    ("--sample-tokens 0 --sample-prompt a", "--sample-prompt a has no effect on --sample-tokens 0: leave it out"),
    ("--skip-unreadable", "--skip-unreadable has no effect on --data stdlib: leave it out"),
    ("--data hf:x --skip-unreadable", "--skip-unreadable has no effect on --data hf:x: leave it out"),
    ("--vocab-size 256", "--vocab-size 256 must be at least 257"),
    ("--learning-rate 0", "--learning-rate 0.0 must be positive"),
    ("--learning-rate nan", "--learning-rate nan must be a finite number"),
    ("--adam-learning-rate -1", "--adam-learning-rate -1.0 must be positive"),
    ("--clip -1", "--clip -1.0 must be at least 0"),
    ("--clip nan", "--clip nan must be a finite number"),
    (
        "--optimizer muon --mu-dtype float8",
        "--mu-dtype float8 has no effect on muon: leave it out",
    ),
    ("--seed 4294967296", "--seed 4294967296 must be below 2^32"),
    ("--data wikipedia", "--data wikipedia must be stdlib, hf:NAME or files:GLOB, for example 'files:texts/**/*.txt'"),
    ("--data files:", "--data files: must be stdlib, hf:NAME or files:GLOB"),
    ("--data files:/nonexistent/*.txt", "files:/nonexistent/*.txt matches no file"),
    ("--data-megabytes 0.0000001", "has no text within --data-megabytes 1e-07"),
    ("--tokenizer nowhere.json", "--tokenizer nowhere.json cannot be read (No such file or directory)"),
    ("--end-of-text </s>", "--end-of-text </s> has no effect without --tokenizer: leave it out"),
    ("--data-megabytes 0.05 --seq-len 99999", "use more text or a smaller --seq-len"),
    ("--log wandb wandb", "--log wandb wandb contains a name twice: give each once"),
    ("--num-processes 2", "--num-processes only applies to a multi-process run: add --distributed, or leave it out"),
    ("--resume", "contains no run to resume: check the folder, or leave --resume out"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_before_anything_is_written(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    status = main(["pretrain", "--run-dir", str(folder), "--cache-dir", str(cache), *words.split()])
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert not folder.exists()


@pytest.mark.parametrize("words", ["--optimizer sgd", "--steps many", "--precision int8", "--rnak 3"])
def test_an_invalid_value_or_flag_is_reported(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(command(*words.split()))
    assert left.value.code == 2
    assert words.split()[0] in capsys.readouterr().err


def test_a_used_folder_is_refused_before_the_text_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"data_fingerprint": "2-0"}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    arguments = ["pretrain", "--run-dir", str(tmp_path), "--data", "files:/nonexistent/*"]
    assert main(arguments) == 2
    assert "already contains a run: add --resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--run-dir", "--cache-dir"])
def test_a_folder_that_cannot_be_written_is_reported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a.txt").write_text("a text " * 999)
    folders = {"--run-dir": tmp_path / "run", "--cache-dir": tmp_path / "cache"}
    words = [str(word) for pair in (folders | {name: tmp_path / "file" / "x"}).items() for word in pair]
    assert main(["pretrain", "--data", f"files:{tmp_path}/*.txt", "--seq-len", "8", *words]) == 2
    assert "cannot be written (Not a directory): choose another" in capsys.readouterr().err


def test_the_groups_are_the_fields_of_a_configuration() -> None:
    for name, kind in COMMANDS.items():
        fields = [field.name for field in dataclasses.fields(kind)]
        first = ["run_dir", "resume", "config", *(["preset"] if name == "pretrain" else [])]
        assert fields == [*first, "processes", *groups_of(kind)], name


def test_the_processes_are_not_stored() -> None:
    words = "--distributed --coordinator-address node1:1234 --num-processes 8 --process-id 3 --heartbeat-timeout 9"
    config = parse(command(*words.split()))
    assert config.processes == ProcessFlags(
        distributed=True, coordinator_address="node1:1234", num_processes=8, process_id=3, heartbeat_timeout=9
    )
    assert not set(vars(config.processes)) & set(flat(config))


def test_a_flag_of_a_stored_run_may_be_repeated_but_not_changed() -> None:
    stored = parse(command("--remat", "block"))
    assert stored.model.build().remat == "block"
    assert parse(command()).model.build().remat == "none"
    refuse_conflicts(parse(command("--remat", "block")), stored)
    refuse_conflicts(parse(command("--remat", "dots")), stored)  # which changes how sums are rounded
    with pytest.raises(UserError, match=r"--seed 7 \(the run has 0\)"):
        refuse_conflicts(parse(command("--remat", "block", "--seed", "7")), stored)


@pytest.mark.parametrize(
    ("precision", "products", "weights"),
    [("float32", "float32", "float32"), ("mixed", "bfloat16", "float32"), ("bfloat16", "bfloat16", "bfloat16")],
)
def test_a_precision_is_a_type_of_products_and_one_of_weights(precision: str, products: str, weights: str) -> None:
    network = parse(command("--precision", precision)).model.build()
    assert (network.dtype, network.param_dtype) == (products, weights)
