"""The report is one page that needs nothing else, whatever texts are in it."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import parse
from train.config.finetune import ExampleFlags, Finetune, StartFlags
from train.config.run import Pretrain
from train.config.stored import Stored
from train.watch.page import Results, as_html

HOSTILE = "</pre></style><script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp;<b>"
VOID = {"meta", "img", "br", "link"}


class Tree(HTMLParser):
    """The tags of a page, each of which must be closed, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def has(self, text: str) -> bool:
        return any(text in shown for shown in self.texts)


def stored(prompt: str = "def ", **machine: Any) -> Stored:
    config = parse(["pretrain", "--run-dir", "x", "--steps", "40"])
    assert isinstance(config, Pretrain)
    config = dataclasses.replace(config, report=dataclasses.replace(config.report, sample_prompt=prompt))
    return Stored(config=config, fingerprint="", versions={"jax": "0.1.2"}, machine=machine)


def rows(steps: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"step": 0, "eval_loss": 9.0, "bits_per_byte": 4.0, "seconds": 0.0, "tokens": 0}]
    for t in range(1, steps + 1):
        spent = {"seconds": t / 2, "tokens": 64 * t}
        made.append({"step": t, "loss": 9 / t, "lr": 0.1, "tokens_per_second": 128.0, **spent})
    return made


def figures(text: str) -> list[tuple[str, str]]:
    """Title and horizontal axis of every figure."""
    return re.findall(r'aria-label="(.*?) over (.*?)"', text)


def test_hostile_texts_are_shown_and_not_run() -> None:
    sample = Results(rows(3), sample=HOSTILE, summary={"device": HOSTILE, "eval_loss": 3.0})
    text = as_html(HOSTILE, stored(HOSTILE, processor=HOSTILE), sample)
    tree = Tree(text)
    assert not {"script", "img", "b"} & {tag for tag, _ in tree.tags} - {"b"}
    assert sum(tag == "b" for tag, _ in tree.tags) == len(figures(text)) + text.count('class="tile"')
    assert sum(HOSTILE in shown for shown in tree.texts) >= 5  # title, heading, sample, prompt, machine, device


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = as_html("run", stored(), Results(rows(30)))
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"src", "href", "srcset"} & {name for _, attributes in Tree(text).tags for name in attributes}


def test_it_fits_a_phone_and_both_colour_schemes() -> None:
    text = as_html("run", stored(), Results(rows(3)))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    svg = next(attributes for tag, attributes in Tree(text).tags if tag == "svg")
    assert "viewbox" in svg
    assert "width" not in svg


def test_there_is_a_curve_for_every_question() -> None:
    text = as_html("run", stored(), Results(rows(5)))
    assert figures(text) == [
        ("Loss", "steps"),
        ("Loss", "tokens"),
        ("Loss", "seconds of training"),
        ("Held-out loss", "steps"),
        ("Bits per byte", "steps"),
        ("Learning rate", "steps"),
        ("Speed", "steps"),
    ]
    more = [row | ({"mfu": 0.4, "peak_memory_bytes": 10**9} if "loss" in row else {}) for row in rows(5)]
    shown = figures(as_html("run", stored(), Results(more)))
    assert shown[7:] == [("MFU", "steps"), ("Peak memory", "steps")]


def test_settings_machine_versions_summary_and_sample_are_shown() -> None:
    summary = {"eval_loss": 1.25, "optimizer_bytes": 6268144, "seconds": 3725.0}
    text = as_html("run", stored(processor="an abacus"), Results(rows(40), "def f", summary))
    tree = Tree(text)
    for shown in ("finished", "def f", "an abacus", "0.1.2", "update_proj_gap", "6,268,144 bytes", "6.27 MB", "1:02:05",
                  "1.2500 nats per token"):  # fmt: skip
        assert tree.has(shown), shown


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_run_that_has_just_begun_has_a_report(count: int) -> None:
    tree = Tree(as_html("run", stored(), Results(rows(count) if count else [])))
    assert tree.has(f"not finished: {count} of 40 steps so far")
    assert tree.has("There is no update yet.") == (count == 0)


def test_rows_without_seconds_and_tokens_have_the_other_curves() -> None:
    old = [{name: row[name] for name in row if name not in ("seconds", "tokens")} for row in rows(5)]
    assert [x for title, x in figures(as_html("run", stored(), Results(old))) if title == "Loss"] == ["steps"]


def test_the_report_of_fine_tuning_names_the_model_and_the_unit(tmp_path: Path) -> None:
    config = Finetune(
        run_dir=tmp_path, start=StartFlags(init_from=Path("models/b")), data=ExampleFlags(task="regression")
    )
    made = [{"step": 0, "eval_loss": 1.0, "pearson": 0.5, "seconds": 0.0, "tokens": 0}, *rows(2)[1:]]
    text = as_html("run", Stored(config=config, fingerprint="", versions={}), Results(made))
    assert Tree(text).has("finetune: models/b with grassjump, not finished: 2 steps so far")
    assert ("Pearson", "steps") in figures(text)
    assert "squared error" in text
    assert json.dumps("nats per token") not in text
