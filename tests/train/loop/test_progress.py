"""The line of an update has the same numbers with and without a terminal."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from train.loop import progress
from train.loop.progress import Display

ROW = {"step": 3, "loss": 4.25, "lr": 0.005, "tokens_per_second": 12345.6, "seconds": 1.0, "tokens": 99}
LINE = "step 3/12 (25%)  loss 4.2500  lr 5.00e-03  12,346 tokens/s  ETA -"


def shown(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], every: int = 1, **options: Any) -> str:
    """What a display prints on a console of its own."""
    output = io.StringIO()

    def console(**given: Any) -> Console:
        return Console(file=output, **(given | options))

    monkeypatch.setattr(progress, "Console", console)
    with Display(12, every) as display:
        for row in rows:
            display.update(row)
    return output.getvalue()


def test_without_a_terminal_there_is_a_plain_line_at_every_so_many_steps_and_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [ROW | {"step": step} for step in range(1, 13)]
    lines = shown(monkeypatch, rows, every=5).splitlines()
    assert [re.findall(r"^step (\d+)/12 \((\d+)%\)  loss 4.2500 ", line) for line in lines] == [
        [("5", "41")], [("10", "83")], [("12", "100")],
    ]  # fmt: skip


def test_mfu_and_memory_are_shown_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, [ROW]) == LINE + "\n"
    more = {"mfu": 0.4123, "peak_memory_bytes": 61_234_000_000}
    assert "12,346 tokens/s  MFU 41.2%  memory 61.2 GB  ETA -\n" in shown(monkeypatch, [ROW | more])


def test_on_a_terminal_the_same_numbers_are_redrawn_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"mfu": 0.4123, "peak_memory_bytes": 61_234_000_000}
    for width in (200, 80, 40):
        text = shown(monkeypatch, [ROW | more], force_terminal=True, width=width, color_system=None)
        words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[━╸╺]", " ", text).split()
        for word in (*LINE.split(), "41.2%", "61.2"):
            assert word in words, (width, word)


def test_the_remaining_time_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run takes no pace from the steps before it."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    display = Display(12, 1, quiet=True)
    assert display._remaining(6) == "-"
    assert display._remaining(8) == "0:00:20"  # four steps of five seconds
