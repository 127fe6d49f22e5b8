"""The command line of a comparison, its runs, and the mistakes it reports."""

import dataclasses
import json
from pathlib import Path

import pytest

from train.__main__ import main, parse
from train.compare.config import Compare, CompareFinetune
from train.compare.grid import OF_AN_OPTIMIZER, Cell, cells, common_settings, run_of
from train.compare.validate import check_comparison
from train.config.finetune import Finetune
from train.config.optimizers import NO_GAP, OPTIMIZERS
from train.config.run import Pretrain
from train.config.stored import differences, settings_of
from train.loop.child import child_arguments
from train.system.files import locked


def comparison(words: str) -> Compare:
    config = parse(["compare", "--run-dir", "runs/x", *words.split()])
    assert isinstance(config, Compare)
    return config


LINE = (
    "--model tiny --optimizers adamw muon column_sgd galore fira apollo subtrack ldadam frugal grasswalk grassjump "
    "--steps 50"
)


def test_without_a_sweep_each_optimizer_has_its_own_rate_and_scale() -> None:
    config = comparison(LINE)
    assert [cell.optimizer for cell in cells(config)] == LINE.split()[3:-2]
    for cell in cells(config):
        row = OPTIMIZERS[cell.optimizer]
        assert cell == (row.name, (), *row.pretraining("tiny")[:2], 0, ())
    assert (config.schedule.steps, config.schedule.warmup) == (50, 5)
    assert (config.report.eval_every, config.report.sample_tokens) == (5, 0)


def test_the_sweeps_are_a_grid_for_each_optimizer() -> None:
    rates, factors = (3e-4, 1e-3, 3e-3, 1e-2), (0.125, 0.25, 0.5, 1.0)
    config = comparison(f"{LINE} --sweep learning_rate=3e-4,1e-3,3e-3,1e-2 --sweep scale=0.125,0.25,0.5,1")
    expected = [
        (name, (), lr, scale**2 if name == "apollo" else scale, 0, ())  # its scale enters as a square root
        for name in config.compare.optimizers
        for lr in rates
        for scale in factors
    ]
    assert cells(config) == expected
    assert len(expected) == 11 * 16


def test_swept_scales_are_ratios_of_rates_and_badam_has_one() -> None:
    config = comparison("--optimizers apollo_mini badam apollo --sweep scale=0.5,2")
    assert [(cell.optimizer, cell.scale) for cell in cells(config)] == [
        ("apollo_mini", 32.0),
        ("apollo_mini", 512.0),
        ("badam", 1.0),
        ("apollo", 0.25),
        ("apollo", 4.0),
    ]


def test_defaults_follow_the_model_the_corpus_and_the_steps() -> None:
    config = comparison("--optimizers adamw --model 60m --data files:x --steps 7")
    assert (config.compare.rank, config.model.vocab_size, config.data.seq_len) == (128, 32000, 256)
    assert (config.data.data_megabytes, config.report.eval_every) == (0, 1)
    config = comparison("--optimizers adamw --rank 8 --eval-every 3 --sample-tokens 9 --clip 0 --weight-decay 0.5")
    assert (config.compare.rank, config.report.eval_every, config.report.sample_tokens) == (8, 3, 9)
    assert (config.compare.clip, config.compare.weight_decay) == (0, 0.5)


def test_a_run_of_a_comparison_is_an_ordinary_run(tmp_path: Path) -> None:
    """Its command line reads the same run; without a sweep it is the default run of `pretrain`."""
    words = "--optimizers muon ldadam --steps 50 --seed 3"
    config = comparison(
        f"{words} --sweep learning_rate=0.1 --sweep scale=1e-7 --sample-tokens 4 --sample-prompt=--x --remat block"
    )
    for cell in cells(config):
        run = run_of(config, cell)
        for is_begun in (False, True):
            *line, path, resume = [*child_arguments(run, tmp_path, is_begun), *([""] if not is_begun else [])]
            assert (path, resume) == (str(tmp_path), "--resume" if is_begun else "")
            child = parse([*line, str(run.run_dir)])
            assert isinstance(child, Pretrain)
            assert dataclasses.replace(child, config=None) == run
        assert run.run_dir == Path("runs/x") / f"{cell.optimizer}-lr0.1-scale1e-07-seed3"
    for cell in cells(comparison(words)):
        plain = parse(["pretrain", "--run-dir", "x", "--optimizer", cell.optimizer, *words.split()[3:]])
        assert isinstance(plain, Pretrain)
        changes = differences(settings_of(run_of(comparison(words), cell)), settings_of(plain))
        assert list(changes) == [("--eval-every", 5, 0), ("--sample-tokens", 0, 64)]


def test_runs_differ_in_what_belongs_to_a_cell_only() -> None:
    config = comparison("--optimizers adamw galore ldadam --sweep learning_rate=1,2 --sweep scale=3,4")
    common = common_settings(config)
    for cell in cells(config):
        settings = settings_of(run_of(config, cell))
        own = {name: settings[group].pop(name) for group, names in OF_AN_OPTIMIZER.items() for name in names}
        assert settings == common
        assert (own["optimizer"], (), own["learning_rate"], own["scale"], own["seed"], ()) == tuple(cell)
        assert own["update_proj_gap"] == (OPTIMIZERS[cell.optimizer].update_proj_gap or NO_GAP)


def test_what_all_share_is_given_to_each_that_has_it() -> None:
    config = comparison("--optimizers adamw ldadam --adam-learning-rate 0.5 --update-proj-gap 7 --rank 16")
    runs = [run_of(config, cell).optimizer for cell in cells(config)]
    assert [run.adam_learning_rate for run in runs] == [0.5, 0.5]
    assert [run.update_proj_gap for run in runs] == [NO_GAP, 7]
    assert [run.rank for run in runs] == [16, 16]


def test_a_flag_that_acts_in_some_cell_of_the_sweep_is_accepted() -> None:
    check_comparison(comparison("--optimizers adamw grassjump --rank 7 --update-proj-gap 5"))
    check_comparison(comparison("--optimizers adamw --decay all --sweep weight_decay=0,0.1"))


def finetuning(model: Path, words: str) -> CompareFinetune:
    folders = ["--run-dir", "runs/x", "--init-from", str(model), "--data", "files:x"]
    config = parse(["compare-finetune", *folders, *words.split()])
    assert isinstance(config, CompareFinetune)
    return config


def test_a_run_of_fine_tuning_is_an_ordinary_run(imported: Path, encoder: Path, tmp_path: Path) -> None:
    for model, metric in ((imported, "eval_loss"), (encoder, "accuracy")):
        config = finetuning(model, "--optimizers lora badam apollo_mini --seeds 3 4")
        assert config.metric == metric
        for cell in cells(config):
            line = ["--init-from", str(model), "--data", "files:x", "--seed", "3", "--sample-tokens", "0"]
            plain = parse(["finetune", "--run-dir", "x", "--optimizer", cell.optimizer, *line])
            assert isinstance(plain, Finetune)
            run = run_of(config, cell)
            assert settings_of(run) == settings_of(plain)
            assert cell.learning_rate == OPTIMIZERS[cell.optimizer].finetuning.learning_rate
            child = parse(child_arguments(run, tmp_path, is_begun=False))
            assert settings_of(child) == settings_of(run)
    assert finetuning(encoder, "--optimizers lora --task regression").metric == "pearson"
    for early in ("--patience 2", "--keep-best"):
        config = finetuning(encoder, f"--optimizers lora --metric f1 {early} --eval-every 3")
        run = run_of(config, cells(config)[0])
        assert isinstance(run, Finetune)
        assert run.report.metric == config.metric == "f1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 1 2 1", "--seeds 1 2 1 contains a value twice: give each once"),
        ("--seeds", "--seeds is empty: give at least one value, for example --seeds 0 1 2"),
        ("--seeds 1 2 --seed 3", "--seed 3 has no effect beside --seeds: leave it out"),
        ("--seeds 1 -2", "--seed -2 must be at least 0"),
        ("--metric pearson", "--metric pearson must be one of eval_loss, accuracy, f1, matthews for this task"),
        ("--task language", "--task language needs a decoder, such as LLaMA"),
        ("--init-step 7", "has no checkpoint of step 7: it has 0"),
        ("--rank 16", "--rank 16 must be below the hidden size"),
        ("--steps 9 --epochs 2", "--epochs 2.0 has no effect beside --steps 9: leave it out"),
        ("--steps 9 --sweep epochs=1,2", "--sweep epochs=1,2 has no effect on these --optimizers: leave it out"),
        ("--data files:nothing*", "files:nothing* matches no file"),
    ],
)
def test_a_mistake_in_fine_tuning_is_reported_before_anything_is_written(
    words: str, message: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--run-dir", str(tmp_path / "runs"), "--init-from", str(encoder), "--data", "files:x"]
    assert main(["compare-finetune", *folders, "--optimizers", "adamw", "lora", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_comparison_of_another_command_is_refused(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"settings": common_settings(comparison("--optimizers adamw")), "data_fingerprint": "x"}
    (tmp_path / "compare.json").write_text(json.dumps(record))
    line = ["--run-dir", str(tmp_path), "--init-from", str(encoder), "--data", "files:x", "--optimizers", "adamw"]
    assert main(["compare-finetune", *line]) == 2
    assert f"--run-dir {tmp_path} contains a comparison of `compare`: choose another folder" in capsys.readouterr().err


def test_settings_other_than_rate_and_scale_are_rows_of_their_own() -> None:
    config = comparison(
        "--optimizers adamw grassjump --sweep basis=haar,gaussian,blocks:4 --sweep learning_rate=1,2 --rank 16"
    )
    assert [cell.name for cell in cells(config)[::2]] == [
        "adamw", "grassjump basis=haar", "grassjump basis=gaussian", "grassjump basis=blocks:4"
    ]  # fmt: skip
    last = run_of(config, cells(config)[-1])
    assert last.run_dir == Path("runs/x/grassjump-basis=blocks-4-lr2-scale0.25-seed0")
    assert (last.optimizer.basis, last.optimizer.blocks) == ("blocks:4", 4)


def test_a_sweep_shares_the_runs_that_have_the_values_of_no_sweep() -> None:
    plain = comparison("--optimizers adamw grasswalk")
    config = comparison(
        "--optimizers adamw grasswalk --sweep rank=16,32 --sweep update-proj-gap=20,100 --sweep clip=1,2"
    )
    assert {cell.folder for cell in cells(plain)} < {cell.folder for cell in cells(config)}
    shared = next(cell for cell in cells(config) if cell.folder == cells(plain)[1].folder)
    assert shared.name == "grasswalk rank=32 update_proj_gap=100 clip=1"
    assert run_of(config, shared) == run_of(plain, cells(plain)[1])
    assert common_settings(config) == common_settings(plain)
    assert [cell.name for cell in cells(config)][:2] == ["adamw clip=1", "adamw clip=2"]
    assert len(cells(config)) == 2 + 8


def test_any_setting_of_a_run_can_be_swept() -> None:
    words = "--sweep steps=300,600 --sweep batch_size=8 --sweep warmup=5,10% --sweep update_in_backward=True,False"
    config = comparison(f"--optimizers grassjump {words} --sweep max_norm_growth=None,2 --sweep remat=block")
    run = run_of(config, cells(config)[-1])
    assert isinstance(run, Pretrain)
    assert (run.schedule.steps, run.schedule.warmup, run.data.batch_size, run.model.remat) == (600, "10%", 8, "block")
    assert (run.optimizer.update_in_backward, run.optimizer.max_norm_growth) == (False, 2.0)
    longer = run_of(config := comparison("--optimizers adamw --sweep steps=300,600"), cells(config)[-1])
    assert (longer.schedule.steps, longer.schedule.warmup) == (600, 60)


def test_the_papers_ablation_is_one_command() -> None:
    axes = "--sweep rule=tracking,random_walk,random_jump,svd,frozen --sweep transport=keep,rotate"
    config = comparison(f"--optimizers assemble {axes} --sweep residual=dropped,recovery")
    names = [cell.name for cell in cells(config)]
    assert len(names) == 4 * 4 + 2
    assert names[-1] == "assemble rule=frozen residual=recovery"  # which no transport changes
    assert names[0] == "assemble rule=tracking transport=keep residual=dropped"


def test_how_often_a_walk_jumps_makes_rows_only_where_it_jumps() -> None:
    words = "--sweep rule=random_walk,random_walk_with_jumps --sweep jump_every=2,5"
    rows = [dict(cell.own) for cell in cells(comparison(f"--optimizers assemble {words}"))]
    assert rows == [
        {"rule": "random_walk"},
        *({"rule": "random_walk_with_jumps", "jump_every": every} for every in (2, 5)),
    ]


def test_no_two_cells_share_a_folder() -> None:
    close = [Cell("adamw", (), lr, 1.0, 0) for lr in (0.1, 0.1000000001, 1e-5, 1.0, 10.0)]
    assert [cell.folder for cell in close] == [
        f"adamw-lr{lr}-scale1-seed0" for lr in ("0.1", "0.1000000001", "1e-05", "1", "10")
    ]


def test_help_shows_the_flags_and_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compare", "--help"])
    assert left.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for name in ("optimizers", "sweep", "tuning-seeds", "run-dir", "steps", "data", "seed", "batch-size", "rank"):
        assert f"--{name}" in shown
    assert "--learning-rate" not in shown
    assert all(name in shown for name in OPTIMIZERS)


MISTAKES = [
    ("--optimizers adamw --sweep basis=blocks", "--sweep basis=blocks has no effect on these --optimizers"),
    ("--optimizers grassjump --sweep basis=haar,haar", "--sweep basis=haar,haar contains a value twice"),
    ("--optimizers grassjump --sweep basis=qr", "--basis qr must be one of haar, gaussian, blocks"),
    ("", "--optimizers is empty: give at least one value"),
    ("--optimizers adamw muon adamw", "--optimizers adamw muon adamw contains a value twice: give each once"),
    ("--optimizers adamw --sweep rank", "--sweep rank needs a setting and values, for example --sweep rank=16,32"),
    ("--optimizers adamw --sweep learning_rate=", "--sweep learning_rate= needs a setting and values"),
    ("--optimizers adamw --sweep learning_rate=1e-3,0.001", "--sweep learning_rate=1e-3,0.001 contains a value twice"),
    ("--optimizers adamw --sweep learning_rate=0.1,0", "--learning-rate 0.0 must be positive"),
    ("--optimizers adamw --sweep learning_rate=nan", "--sweep learning_rate=nan has the value nan: it must be a fin"),
    ("--optimizers adamw --sweep scale=inf", "--sweep scale=inf has the value inf: it must be a finite number"),
    ("--optimizers adamw --sweep scale=-1", "--scale -1.0 must be at least 0"),
    ("--optimizers badam --sweep scale=1,2", "--sweep scale=1,2 has no effect on these --optimizers: leave it out"),
    ("--optimizers adamw muon --rank 7", "--rank 7 has no effect on these --optimizers: leave it out"),
    ("--optimizers adamw muon --update-proj-gap 5", "--update-proj-gap 5 has no effect on these --optimizers: leave"),
    ("--optimizers adamw muon --decay all", "--decay all has no effect without --weight-decay: leave it out"),
    ("--optimizers adamw --sweep decay=all,matrices", "--sweep decay=all,matrices has no effect on these --optimizers"),
    ("--optimizers adamw --sweep cooldown=1,2", "--sweep cooldown=1,2 has no effect on these --optimizers: leave it"),
    ("--optimizers adamw --sweep seed=1,2", "--sweep seed=1,2 is not possible: seed is no setting of pretrain that"),
    ("--optimizers adamw --sweep sead=1", "--sweep sead=1 is not possible: sead is no setting of pretrain that may"),
    ("--optimizers adamw --sweep steps=many", "--sweep steps=many has the value 'many': it must be an integer."),
    ("--optimizers subtrack --sweep step_size=a", "has the value 'a': it must be a number or None."),
    ("--optimizers adamw --sweep update_in_backward=yes", "has the value 'yes': it must be one of True, False."),
    ("--optimizers grassjump --sweep completion=all", "has the value 'all': it must be one of none, isotropic"),
    ("--optimizers grasswalk --sweep rank=8 --sweep rank=9", "--sweep rank=9 sweeps rank a second time: give all"),
    ("--optimizers grasswalk --sweep walk_rank=2,64", "--walk-rank 64 must be at most 32"),
    ("--optimizers adamw --tuning-seeds 1", "--tuning-seeds 1 have no effect without --sweep learning_rate=... or"),
    ("--optimizers adamw --sweep scale=1,2 --tuning-seeds 0", "--tuning-seeds 0 has 0, which the table would have"),
    ("--optimizers adamw --lr 1", "--lr is not a flag of this command: give --sweep learning_rate=VALUE"),
    ("--optimizers adamw --steps 0", "--steps 0 must be at least 1"),
    ("--optimizers adamw grassjump --rank 128", "--rank 128 must be below the hidden size of tiny, which is 128"),
    ("--optimizers adamw --model huge", "--model huge is unknown"),
    ("--optimizers adamw --data files:/nonexistent/*", "files:/nonexistent/* matches no file"),
    ("--optimizers adamw --data-megabytes 0.05 --seq-len 99999", "use more text or a smaller --seq-len"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_before_anything_is_written(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--run-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")]
    assert main(["compare", *folders, *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_optimizer_is_reported_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compare", "--run-dir", "runs/x", "--optimizers", "adamw", "sgd"])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert "sgd" in shown
    assert "grasswalk" in shown


def refusal(run_dir: Path, words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", "--run-dir", str(run_dir), *words.split()]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("thesis.tex", "Abstract"), ("compare.json", "[]"), ("compare.json", "{")])
def test_a_folder_that_holds_something_else_is_refused(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert "is not empty, and contains no comparison that this version can read: choose" in refusal(
        tmp_path, "--optimizers adamw", capsys
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_other_common_flags_are_refused_but_other_optimizers_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"settings": common_settings(comparison("--optimizers adamw")), "data_fingerprint": "of another text"}
    (tmp_path / "compare.json").write_text(json.dumps(record))
    error = refusal(tmp_path, "--optimizers adamw --steps 40 --rank 8", capsys)
    assert "--warmup 4 (it has 30), --steps 40 (it has 300)" in error
    assert "--rank 8 (it has 32)" in error
    assert "choose another --run-dir" in error
    # These flags may change, so the next error is that the text has changed.
    error = refusal(tmp_path, "--optimizers muon galore --sweep learning_rate=1,2 --log-every 3", capsys)
    assert "--data stdlib is no longer the text of the comparison" in error


def test_a_shared_flag_that_was_never_given_is_added_by_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison began without subspaces, so without a rank, and gets one that has a rank."""
    record = {"settings": common_settings(comparison("--optimizers adamw")), "data_fingerprint": "of another text"}
    (tmp_path / "compare.json").write_text(json.dumps(record))
    error = refusal(tmp_path, "--optimizers adamw grassjump --rank 8 --eval-every 7", capsys)
    assert "so use the same ones, add rows with other values by --sweep rank=8, or choose another --run-dir" in error
    error = refusal(tmp_path, "--optimizers adamw --eval-every 7", capsys)
    assert "so use the same ones, or choose another --run-dir" in error
    advised = "--optimizers adamw grassjump --sweep rank=8"
    assert "--data stdlib is no longer the text of the comparison" in refusal(tmp_path, advised, capsys)
    names = [cell.name for cell in cells(comparison(advised))]
    assert names == ["adamw", "grassjump rank=8"]


def test_one_comparison_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("some text " * 999)
    with locked(tmp_path / "runs"):
        words = f"--optimizers adamw --data files:{tmp_path}/*.txt --seq-len 8 --cache-dir {tmp_path}/cache"
        assert "another process is comparing in --run-dir" in refusal(tmp_path / "runs", words, capsys)
