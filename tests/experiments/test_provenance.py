"""The line of a page says what its runs record, and no more."""

from typing import NamedTuple

from experiments.provenance import UNKNOWN, made_by, made_on


class Outcome(NamedTuple):
    corpus: str = "2-0123456789abcdef"
    device: str = "cpu"
    processor: str = "abacus"
    date: str = "2026-01-02"
    commit: str = "abc"


def test_all_that_runs_have_in_common_is_said_once() -> None:
    made = made_on([Outcome(), Outcome()], "stdlib")
    assert made == "stdlib of hash 2-0123456789; on cpu, processor abacus, date 2026-01-02, commit abc"
    assert made_on([Outcome()]) == made.partition("; ")[2]


def test_several_runs_have_all_their_commits_and_the_first_and_the_last_day() -> None:
    days = [Outcome(date=f"2026-01-0{day}", commit=f"abc{day}") for day in (4, 2, 3)]
    assert made_on(days).endswith("date 2026-01-02 to 2026-01-04, commit abc2, abc3, abc4")
    both = made_on([Outcome(device="gpu", processor="slide rule"), Outcome()])
    assert both.startswith("on cpu, gpu, processor abacus, slide rule, ")


def test_what_no_run_or_not_every_run_records_is_said() -> None:
    old = Outcome(processor=UNKNOWN, date=UNKNOWN, commit=UNKNOWN)
    assert made_on([old]) == "on cpu, processor not recorded, date not recorded, commit not recorded"
    assert made_on([old, Outcome()]) == (
        "on cpu, processor abacus or not recorded, date 2026-01-02 or not recorded, commit abc or not recorded"
    )


def test_a_plus_is_explained_where_it_is() -> None:
    assert made_on([Outcome(commit="abc+")]).endswith("commit abc+ (+: with changes that were not committed)")


def test_a_run_that_begins_now_has_them_all() -> None:
    assert made_by().keys() == {"commit", "date", "processor"}
    assert all(made_by().values())
