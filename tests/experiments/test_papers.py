"""The papers' experiments: `pretrain` accepts every run, and the tables say what was found."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grass_optax
from experiments.papers import (
    ablation,
    ackley,
    command,
    completion,
    equal_memory,
    interval,
    limiter,
    long_run,
    rank,
    ratio,
    step_size,
    trained,
    wall_time,
)
from experiments.papers.__main__ import MODULES, overview
from experiments.papers.curves import curves_figure
from experiments.papers.drawing import figure
from experiments.papers.experiment import Experiment, run_of
from experiments.papers.scales import SCALES, Scale
from experiments.papers.tables import report, size_of, to_do
from experiments.papers.trained import STUDY, Outcome, Run
from experiments.study import Study
from models.config import CONFIGS
from train.__main__ import parse
from train.config.mistakes import check_effect
from train.config.optimizer_flags import default_optimizer
from train.config.presets import PRESETS
from train.config.run import DIVERGED, Pretrain
from train.config.stored import settings_of
from train.config.validate import check

CPU = SCALES["cpu"]
OUTCOME = Outcome(4.0, 60.0, 2_000_000, None, device="abacus", corpus="of the text", commit="abc", date="2026-01-01")
GRID: Experiment = ablation.EXPERIMENT


def of_seed(experiment: Experiment, scale: Scale, outcomes: dict[Run, Outcome], seed: int) -> list[Run]:
    """The run of each arm."""
    return [experiment.by_seed(scale, arm, outcomes)[seed] for arm in experiment.arms(scale)]


@pytest.mark.parametrize("model", ["tiny", "60m", "7b"])
def test_methods_of_equal_memory_keep_as_much_as_muon(model: str) -> None:
    config, rank = CONFIGS[model], equal_memory.rank_of_equal_state(model)
    widths = {"q": config.hidden_size, "k": config.kv_heads * config.head_dim, "up": config.intermediate_size}
    shapes = [(config.hidden_size, widths[name]) for name in ("q", "q", "k", "k", "up", "up", "up")]
    params = {str(number): jax.ShapeDtypeStruct(shape, jnp.float32) for number, shape in enumerate(shapes)}

    def kept(rank: int) -> int:
        state = jax.eval_shape(grass_optax.grasswalk(1.0, rank=rank).init, params)
        return sum(x.size for x in jax.tree.leaves(state) if x.ndim > 1)

    muon = sum(m * n for m, n in shapes)
    assert kept(rank) <= muon < kept(rank + 1)
    assert sum(2 * n * min(shape) // 2 for shape in shapes for n in (max(shape),)) == muon  # FOAM at half of m


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_run_is_one_that_pretrain_accepts(module: Any, scale: str) -> None:
    experiment, size = module.EXPERIMENT, SCALES[scale]
    arms = experiment.arms(size)
    assert len({(arm.method, arm.x) for arm in arms}) == len(arms)
    assert size.seed_of_rates not in size.seeds
    for run in {*experiment.trials(size, {}), *of_seed(experiment, size, {}, 0)}:
        config = run.config()
        check(config)
        if size.preset is None:  # a preset gives all optimizers a rank
            usual = default_optimizer(run.optimizer, run.model)
            check_effect(config, dataclasses.replace(config, optimizer=usual))


def test_a_run_at_the_scale_of_the_paper_has_the_paper_s_settings() -> None:
    (run,) = [run for run in GRID.runs(SCALES["paper"], {}) if (run.rule, run.residual) == ("frozen", "recovery")]
    column = PRESETS["paper-1b"]
    assert (run.model, run.batch_size, run.accumulate, run.steps) == ("1b", 64, 2, 10_000)
    assert (run.rank, run.learning_rate, run.precision) == (column.rank, column.learning_rate, "bfloat16")
    assert GRID.trials(SCALES["paper"], {}) == []
    tracking = [run for run in GRID.runs(SCALES["paper"], {}) if run.rule == "tracking"]
    assert [run.step_size for run in tracking] == [column.step_size] * 4
    assert {run.step_size for run in GRID.runs(SCALES["paper"], {}) if run.rule != "tracking"} == {None}


def test_a_run_is_a_command_line_of_pretrain() -> None:
    arm = next(arm for arm in GRID.arms(CPU) if arm.method == "tracking + RS")
    config = run_of(CPU, arm, seed=2).config()
    words = "--optimizer assemble --rule tracking --transport keep --update-proj-gap 20 --seed 2 --sample-tokens 0"
    plain = parse(["pretrain", "--run-dir", "x", "--save-every", "1000", "--save-minutes", "10", *words.split()])
    assert isinstance(plain, Pretrain)
    assert settings_of(config) == settings_of(plain)


def test_no_limit_and_random_angles_are_what_the_library_calls_none() -> None:
    growths = {run.max_norm_growth for run in of_seed(limiter.EXPERIMENT, CPU, {}, 0)}
    assert growths == {0.1, 1.01, 10.0, None}
    assert of_seed(step_size.EXPERIMENT, CPU, {}, 0)[0].step_size is None
    assert {run.update_proj_gap for run in of_seed(interval.EXPERIMENT, SCALES["gpu"], {}, 0)} == set(
        interval.INTERVALS
    )


def test_a_rate_is_chosen_on_a_seed_of_its_own_when_its_neighbours_are_worse() -> None:
    arm = GRID.arms(CPU)[0]
    usual = run_of(CPU, arm, CPU.seed_of_rates)
    losses = {0.5: None, 1.0: 4.2, 2.0: 4.1, 4.0: 4.3}  # of factors of the trainer's rate
    outcomes = {
        usual.at(learning_rate=factor * usual.learning_rate): OUTCOME._replace(eval_loss=loss)
        for factor, loss in losses.items()
    }
    first_three = dict(list(outcomes.items())[:3])
    first_trials = GRID.trials(CPU, {})
    assert [run for run in GRID.trials(CPU, first_three) if run not in first_trials] == list(outcomes)[3:]
    assert GRID.best(CPU, arm, first_three) == (usual.learning_rate, 0.25, False)
    assert GRID.best(CPU, arm, outcomes) == (2 * usual.learning_rate, 0.25, True)
    assert of_seed(GRID, CPU, outcomes, 0)[0].learning_rate == 2 * usual.learning_rate


def test_an_arm_has_rates_of_its_own_if_its_experiment_tunes_each() -> None:
    first, second = (arm for arm in completion.EXPERIMENT.arms(CPU) if arm.x in {5, 20} and "none" in arm.method)
    usual = run_of(CPU, second, CPU.seed_of_rates)
    losses = {0.5: 4.2, 1.0: 4.1, 2.0: 4.3}
    outcomes = {
        usual.at(learning_rate=factor * usual.learning_rate): OUTCOME._replace(eval_loss=loss)
        for factor, loss in losses.items()
    }
    assert [completion.EXPERIMENT.best(CPU, arm, outcomes).is_final for arm in (first, second)] == [False, True]
    shared = dataclasses.replace(completion.EXPERIMENT, tunes_each_arm=False)
    assert shared.trials(CPU, {}) == [
        run for run in completion.EXPERIMENT.trials(CPU, {}) if run.update_proj_gap == first.x
    ]


def test_a_ratio_is_chosen_with_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials are made until the best is inside, here at a corner of the first ones."""
    grassjump = command.only(ratio.EXPERIMENT, CPU, ["grassjump"])
    results = tmp_path / "runs.jsonl"

    def make(study: Study[Run, Outcome], runs: Iterable[Run], path: Path, workers: int) -> None:
        with open(path, "a") as file:
            for run in runs:
                loss = abs(np.log(run.learning_rate / 0.02)) + abs(np.log(run.scale / 0.025))
                file.write(STUDY.line(run, OUTCOME._replace(eval_loss=float(loss))))

    monkeypatch.setattr(Study, "make", make)
    command.make_trials(grassjump, CPU, results, workers=1)
    outcomes = STUDY.read(results)
    assert grassjump.best(CPU, grassjump.arms(CPU)[0], outcomes) == (0.02, 0.025, True)
    assert len(outcomes) == len(results.read_text().splitlines()) < 20
    (chosen,) = of_seed(grassjump, CPU, outcomes, 0)
    assert (chosen.learning_rate, chosen.scale) == (0.02, 0.025)
    assert "| grassjump | 0.02 x 0.025 | 1 |" in report(grassjump, outcomes | {chosen: OUTCOME})


def found(*losses: tuple[int, int, float | None]) -> dict[Run, Outcome]:
    """Outcomes of arms of the grid, each (number, seed, loss)."""
    return {of_seed(GRID, CPU, {}, seed)[number]: OUTCOME._replace(eval_loss=loss) for number, seed, loss in losses}


def test_the_table_has_means_differences_by_seed_and_what_is_missing() -> None:
    outcomes = found((0, 0, 4.0), (0, 1, 4.2), (1, 0, 4.1), (1, 1, 4.1), (2, 0, None))
    text = report(GRID, outcomes)
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    rates = "0.005 x 0.25, not searched"
    assert rows["| jump"] == f"| jump | {rates} | 2 | 4.100 ± 0.141 | - | 1.00 | 2.00 | 6.16 |"
    assert rows["| jump + AO"] == f"| jump + AO | {rates} | 2 | 4.100 ± 0.000 | +0.100, -0.100 | 1.00 | 2.00 | 4.94 |"
    assert "| 1 | diverged | - |" in rows["| jump + RS"]
    assert "Not made yet: 46 runs of the table, 51 or more that choose rates." in text
    made = "stdlib of hash of the text; on abacus, processor not recorded, date 2026-01-01, commit abc."
    assert made in text.replace("\n", " ")
    assert report(GRID, {}) == ""
    assert to_do(GRID, CPU, outcomes).splitlines()[-1].startswith("97 runs are missing: about 3.3 hours")


def test_the_figure_has_units_and_error_bars() -> None:
    drawn = figure(GRID, "cpu", found((0, 0, 4.0), (0, 1, 4.2), (1, 0, 4.1)))
    assert drawn is not None
    (axes,) = drawn.axes
    assert axes.get_xlabel() == "held-out loss (nats per token)"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["jump", "jump + AO"]
    first = axes.containers[0].lines[2][0].get_segments()[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(first[:, 0], 4.1 + np.array([-1, 1]) * 0.02**0.5)
    assert figure(GRID, "gpu", {}) is None
    lengths = figure(long_run.EXPERIMENT, "cpu", dict.fromkeys(of_seed(long_run.EXPERIMENT, CPU, {}, 0), OUTCOME))
    assert lengths is not None
    titles = [axes.get_title() for axes in lengths.axes]
    assert titles == ["300 updates of the run, 1 seed", "3000 updates of the run, 1 seed"]
    runs = of_seed(limiter.EXPERIMENT, CPU, {}, 0)
    swept = figure(limiter.EXPERIMENT, "cpu", dict.fromkeys(runs, OUTCOME))
    assert swept is not None
    assert swept.axes[0].get_xlabel() == "zeta, the largest growth (100: no limit)"
    assert [text.get_text() for text in swept.axes[0].get_legend().get_texts()] == ["grasswalk", "grassjump"]  # type: ignore[union-attr]


def test_long_runs_have_curves_of_their_losses() -> None:
    outcomes = dict[Run, Outcome]()
    for seed in (0, 1):
        for run in of_seed(long_run.EXPERIMENT, CPU, {}, seed):
            curve = [[step, step / 10, 9.0 - step / 1000 + seed] for step in range(0, 3001, 300)]
            outcomes[run] = OUTCOME._replace(curve=curve if run.steps >= trained.LONG else None)
    drawn = curves_figure(long_run.EXPERIMENT, "cpu", outcomes)
    assert drawn is not None
    for axes, last in zip(drawn.axes, (3000, 5), strict=True):
        lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
        assert list(lines) == [arm.method for arm in long_run.arms(CPU) if arm.x == 3000]
        for line in lines.values():
            assert len(line) == 10
            np.testing.assert_allclose(line[-1], (last, 6.5))
    assert curves_figure(ratio.EXPERIMENT, "cpu", {}) is None


@pytest.mark.parametrize(("steps", "every"), [(300, 0), (999, 0), (3000, 300)])
def test_a_long_run_is_evaluated_on_its_way(steps: int, every: int) -> None:
    run = of_seed(ratio.EXPERIMENT, CPU, {}, 0)[0].at(steps=steps)
    assert run.config().report.eval_every == every


def test_a_finished_run_is_not_made_again_and_a_diverged_one_has_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace_runs(tmp_path, monkeypatch)
    run = of_seed(GRID, CPU, {}, 0)[0]
    outcome = trained.train(run)
    assert trained.train(run) == outcome
    assert outcome[:3] == (4.5, 7.5, 12)
    assert (outcome.corpus, outcome.device, made) == ("a text", "abacus", ["random_jump"])
    diverged = trained.train(run.at(rule="svd"))
    assert (diverged.eval_loss, diverged.seconds) == (None, 7.5)
    path = tmp_path / "runs.jsonl"
    path.write_text(STUDY.line(run, outcome))
    assert STUDY.read(path) == {run: outcome}


def replace_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace `pretrain` by what writes its files. The list gets the rule of each run."""
    monkeypatch.setattr(trained, "RUNS", runs)
    made: list[str] = []

    def child(config: Pretrain, folder: Any, poll: object) -> int:
        folder.path.mkdir(parents=True)
        settings = {"config": settings_of(config), "data_fingerprint": "a text"}
        (folder.path / "config.json").write_text(json.dumps(settings))
        (folder.path / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0, "seconds": 7.5}\n')
        made.append(config.optimizer.rule)
        if config.optimizer.rule == "svd":
            return DIVERGED
        summary = {"eval_loss": 4.5, "optimizer_bytes": 12, "device": "abacus"}
        (folder.path / "summary.json").write_text(json.dumps(summary))
        return 0

    monkeypatch.setattr(trained, "run_child", child)
    return made


def test_times_are_of_runs_made_one_at_a_time_and_of_no_other_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace_runs(tmp_path, monkeypatch)
    losses, times = interval.EXPERIMENT, wall_time.EXPERIMENT
    run = next(run for run in of_seed(losses, CPU, {}, 0) if run in of_seed(times, CPU, {}, 0))
    for experiment, count in ((losses, 1), (times, 2), (limiter.EXPERIMENT, 2), (times, 2)):
        experiment.study.train(run)
        assert len(made) == count
    workers = []
    monkeypatch.setattr(Study, "make", lambda study, runs, path, number: workers.append(number))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for experiment in (losses, times):
        monkeypatch.setattr("sys.argv", [experiment.name, "--default-rates", "--results", str(tmp_path / "none")])
        command.main(experiment, None)
    assert workers == [8, 1]


def test_the_command_lists_what_is_missing_and_writes_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "papers.jsonl"
    outcomes = found((0, 0, 4.0))
    results.write_text("".join(STUDY.line(run, outcome) for run, outcome in outcomes.items()))
    monkeypatch.setattr("sys.argv", ["ablation", "--list", "--seeds", "1", "--results", str(results)])
    command.main(GRID, None)
    assert "67 runs are missing" in capsys.readouterr().out
    page = tmp_path / "ablation.md"
    page.write_text("# Title\n\n<!-- tables -->\nold\n<!-- end of tables -->\nend\n")
    command.write_page(GRID, results, outcomes)
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- tables -->\n\n**Parts of a method**")
    assert text.endswith("<!-- end of tables -->\nend\n")
    assert "old" not in text
    assert (tmp_path / "ablation-cpu.png").read_bytes()[:4] == b"\x89PNG"


def test_some_methods_can_be_made_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablation", "--list", "--results", str(tmp_path / "none.jsonl"), "--only"]
    monkeypatch.setattr("sys.argv", [*words, "jump", "frozen + RS"])
    command.main(GRID, None)
    assert "12 runs are missing" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "leap"])
    with pytest.raises(SystemExit, match="--only 'leap' is no method of ablation: choose from jump, jump \\+ AO"):
        command.main(GRID, None)


def test_the_page_has_the_overview() -> None:
    assert overview() in (Path(__file__).parents[2] / "docs" / "results" / "papers.md").read_text()


def test_ackley_is_least_at_zero_and_columns_stay_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [float(ackley.height(np.array(point, np.float32))) for point in ([0, 0], [1, 0], [0.05, 0.0])]
    assert at[0] == pytest.approx(0, abs=1e-5)
    assert at[1] > at[2] > 0.01
    monkeypatch.setattr(ackley, "STEPS", 12)
    monkeypatch.setattr(ackley, "STARTS", 4)
    found = ackley.paths(ackley.Run(method="no recovery, jump", scale=1.0, learning_rate=0.1))
    assert found.shape == (13, 4, 2)
    steps = np.diff(found[:11], axis=0)  # within an interval all steps of a point are on one line
    across = steps[0, :, 0] * steps[5, :, 1] - steps[0, :, 1] * steps[5, :, 0]
    np.testing.assert_allclose(across, 0, atol=1e-6)


def test_every_path_on_ackley_is_inside_its_panel() -> None:
    outcomes = ackley.STUDY.read(Path(__file__).parents[2] / ackley.RESULTS)
    drawn = ackley.figure(outcomes)
    assert [axes.get_title() for axes in drawn.axes] == 2 * list(ackley.METHODS[:5])
    for axes in drawn.axes:
        points = np.asarray(axes.get_lines()[0].get_xydata())
        low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
        assert ((low < points) & (points < high)).all()
        assert np.ptp(points, axis=0).max() > 0.2 * (high - low).max()


@pytest.mark.long
def test_an_experiment_makes_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run of a few updates, resumed by its results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    run = of_seed(GRID, CPU, {}, 0)[0].at(steps=3)
    STUDY.make([run], tmp_path / "runs.jsonl", workers=1)
    outcome = STUDY.read(tmp_path / "runs.jsonl")[run]
    assert outcome.eval_loss is not None
    assert 5 < outcome.eval_loss < 7.8
    assert outcome.optimizer_bytes


@pytest.mark.parametrize(
    ("experiment", "said"),
    [(equal_memory, "tiny, 300 steps, r = 49 or 64"), (rank, "tiny, 300 steps"), (ratio, "tiny, 300 steps, r = 32")],
)
def test_a_caption_has_what_the_rows_have(experiment: Any, said: str) -> None:
    assert size_of(experiment.EXPERIMENT, CPU) == said
