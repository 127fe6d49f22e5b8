"""A study resumes where it stopped, compares seed by seed, and measures what it says."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import bases, losses_of_transports, pretraining
from experiments.bases import CONTEST
from experiments.pretraining import Outcome, Run, study_of
from experiments.study import BEGIN, END, run_command, write_tables
from train.config.optimizers import OPTIMIZERS
from train.config.run import UserError
from train.data.cache import Tokens

STUDY = CONTEST.study
RUN = Run(contestant="haar", rank=32, update_proj_gap=100, learning_rate=5e-3, seed=0)
OUTCOME = Outcome(eval_loss=4.0, energy=0.5, seconds=1.0, corpus="none", device="cpu")


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus that is found at once, and no cache of the user."""
    monkeypatch.setattr(pretraining, "load_tokens", lambda *_: Tokens("another", None, 0, None, None))  # type: ignore[arg-type]


def write(path: Path, outcomes: dict[Run, Outcome]) -> None:
    path.write_text("".join(STUDY.line(run, outcome) for run, outcome in outcomes.items()))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    outcomes = {RUN: OUTCOME, RUN.at(seed=1): OUTCOME._replace(eval_loss=4.1)}
    write(tmp_path / "runs.jsonl", outcomes)
    assert STUDY.read(tmp_path / "runs.jsonl") == outcomes
    assert STUDY.read(tmp_path / "none.jsonl") == {}


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    write(path, {RUN: OUTCOME})
    before = path.read_text()
    STUDY.make([RUN, RUN], path, workers=1)
    assert path.read_text() == before


@pytest.mark.usefixtures("text")
def test_runs_on_another_text_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    write(path, {RUN: OUTCOME})
    with pytest.raises(UserError, match="another text.* another --results file"):
        STUDY.make([RUN.at(seed=1)], path, workers=1)


def test_a_rate_is_chosen_on_a_seed_of_its_own_when_its_neighbours_were_tried() -> None:
    tried = [run for run in CONTEST.missing_trials({}) if run.contestant == "haar"]
    assert {run.seed for run in tried}.isdisjoint(CONTEST.seeds)
    assert [run.learning_rate / tried[0].learning_rate for run in tried] == [1, 0.5, 2]
    losses = dict(zip(tried, (4.2, 4.1, 4.3), strict=True))
    outcomes = {run: OUTCOME._replace(eval_loss=loss) for run, loss in losses.items()}
    (quarter,) = (run for run in CONTEST.missing_trials(outcomes) if run.contestant == "haar")
    assert CONTEST.rates(outcomes)["haar"] == (RUN.learning_rate, RUN.scale)
    outcomes[quarter] = OUTCOME._replace(eval_loss=4.4)
    assert CONTEST.rates(outcomes)["haar"] == (tried[1].learning_rate, RUN.scale)


def test_a_scale_is_chosen_with_the_rate_where_both_are_tuned() -> None:
    contest, name = losses_of_transports.CONTEST, "grassjump, with hats"
    tried = [run for run in contest.missing_trials({}) if run.contestant == name]
    assert [(run.learning_rate, run.scale) for run in tried] == [
        (0.005, 0.25), (0.0025, 0.25), (0.01, 0.25), (0.005, 0.075), (0.005, 0.75),
    ]  # fmt: skip
    losses = dict(zip(tried, (4.2, 4.3, 4.3, 4.3, 4.1), strict=True))
    outcomes = {run: OUTCOME._replace(eval_loss=loss) for run, loss in losses.items()}
    more = [run for run in contest.missing_trials(outcomes) if run.contestant == name]
    assert [(run.learning_rate, run.scale) for run in more] == [(0.0025, 0.75), (0.01, 0.75), (0.005, 2.5)]
    outcomes |= {run: OUTCOME._replace(eval_loss=4.4) for run in more}
    assert contest.rates(outcomes)[name] == contest.shown_rates(outcomes)[name] == (0.005, 0.75)
    outcomes[tried[0].at(seed=0)] = OUTCOME  # until there is a run of what was found, the one before is shown
    assert contest.shown_rates(outcomes)[name] == (0.005, 0.25)
    outcomes[tried[-1].at(seed=0)] = OUTCOME
    assert contest.shown_rates(outcomes)[name] == (0.005, 0.75)


def test_the_scale_that_is_not_tuned_is_that_of_both_methods() -> None:
    assert {OPTIMIZERS[name].scale for name in ("grassjump", "grasswalk")} == {Run.scale}


def test_contestants_are_compared_seed_by_seed() -> None:
    other = RUN.at(contestant="blocks:8")
    losses = {RUN: 4.0, RUN.at(seed=1): 4.2, other: 4.1, other.at(seed=1): 4.1, RUN.at(seed=2): 4.4}
    text = CONTEST.report({run: OUTCOME._replace(eval_loss=loss) for run, loss in losses.items()})
    assert text.count("**") == 2  # in the other table of blocks:8 it would be alone
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| 0.005 | 0.25 | 3 | 4.200 | 0.200 | - |" in rows["| haar"]
    assert "| 2 | 4.100 | 0.000 | +0.100, -0.100 |" in rows["| blocks:8"]


def test_a_contest_can_be_of_some_contestants() -> None:
    some = CONTEST.only(["haar", "walk"])
    assert [table.contestants for table in some.tables[:3]] == [("haar",), ("walk",), ("haar",)]
    assert set(some.missing_trials({})) == {
        run for run in CONTEST.missing_trials({}) if run.contestant in ("haar", "walk")
    }
    assert CONTEST.only(None) == CONTEST
    with pytest.raises(UserError, match="--only 'hair' is no contestant: choose from haar; gaussian; "):
        CONTEST.only(["haar", "hair"])


def test_a_contest_has_a_model_and_shares_of_its_hidden_size() -> None:
    larger = dataclasses.replace(CONTEST, model="20m")
    trial = next(run for run in larger.missing_trials({}) if run.contestant == "haar")
    assert (trial.model, trial.rank, trial.learning_rate) == ("20m", 64, 0.0022)
    runs = [run for run in larger.runs(larger.tables[0], larger.rates({})) if run.seed == 0]
    text = CONTEST.report(dict.fromkeys([*runs, RUN, RUN.at(contestant="blocks:8")], OUTCOME))
    assert [line[: line.index("r =")] for line in text.splitlines() if line.startswith("**")] == [
        "**Jumps**: tiny, ",
        "**Jumps**: 20m, ",
    ]


def test_a_page_has_a_figure_with_a_panel_for_each_table(tmp_path: Path) -> None:
    names = ("haar", "blocks:8", "walk", "walk, blocks:4")
    outcomes = {
        run: OUTCOME
        for table in CONTEST.tables[:2]
        for run in CONTEST.runs(table, CONTEST.rates({}))
        if run.contestant in names
    }
    drawn = CONTEST.figure(outcomes)
    assert drawn is not None
    titles = ["Jumps: tiny, r = m/4, T = 100, 4 seeds", "Walks: tiny, r = m/4, T = 100, 4 seeds"]
    assert [axes.get_title() for axes in drawn.axes] == titles
    CONTEST.write_page(tmp_path / "bases.jsonl", outcomes)
    assert [path.name for path in tmp_path.iterdir()] == ["bases.png"]  # there is no page
    assert CONTEST.figure({}) is None


@pytest.mark.parametrize("module", [bases, losses_of_transports])
def test_every_contestant_has_a_trial_and_its_neighbours_and_an_optimizer(module: Any) -> None:
    params = {"layers": {"q": {"kernel": jnp.ones((2, 128, 256))}}}
    trials, each = module.CONTEST.missing_trials({}), 1 + 2 * len(module.CONTEST.tunes)
    assert len(trials) == each * len(module.CONTEST.contestants())
    for run in trials[::each]:
        tx = module.optimizer(run, lambda _: 0.1)
        updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def _fail(run: Run, learning_rate: object) -> None:
    raise ArithmeticError(f"no optimizer for seed {run.seed}")


@pytest.mark.usefixtures("text")
def test_a_run_that_fails_stops_the_study_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no optimizer for seed 0"):
        study_of(_fail).make([RUN.at(seed=seed) for seed in range(20)], tmp_path / "runs.jsonl", workers=1)
    assert STUDY.read(tmp_path / "runs.jsonl") == {}


@pytest.mark.long
def test_a_study_makes_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short ones side by side; a random subspace captures its share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for the workers, too
    runs = [RUN.at(contestant=name, steps=20, update_proj_gap=5) for name in ("haar", "walk, blocks:8")]
    STUDY.make(runs, tmp_path / "runs.jsonl", workers=2)
    found = STUDY.read(tmp_path / "runs.jsonl")
    assert set(found) == set(runs)
    assert all(5 < outcome.eval_loss < 7.7 for outcome in found.values())
    assert abs(found[runs[0]].energy - 0.5) < 0.03


def test_a_command_says_in_one_sentence_what_its_user_can_put_right() -> None:
    def refused() -> None:
        raise UserError("another text")

    with pytest.raises(SystemExit, match="^error: another text$"):
        run_command(refused)


@pytest.mark.parametrize("between", ["", "\n| old |\n"])
def test_tables_go_between_the_marks_of_a_page(between: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_tables(page, "| new |")  # there is none
    assert not page.exists()
    page.write_text(f"before\n{BEGIN}\n{between}{END}\n\nafter\n")
    for _ in range(2):
        write_tables(page, "| new |")
        assert page.read_text() == f"before\n{BEGIN}\n\n| new |\n\n{END}\n\nafter\n"


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN}\nno end", f"no beginning\n{END}"])
def test_a_page_without_marks_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match=r"page\.md has no place for its tables: add a line <!-- tables -->"):
        write_tables(page, "| new |")
    assert page.read_text() == text
