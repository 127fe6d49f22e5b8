"""Texts continue as the model and its tokenizer have it, and stop where they end."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.foreign import BEGIN, END
from train.__main__ import main
from train.config.run import UserError
from train.sample import continuation
from train.sample.continuation import Draws, continued
from train.storage.loaded import LoadedModel, load_model

GREEDY = Draws(tokens=6, temperature=0.0, top_k=0, top_p=1.0, seed=0)


@pytest.fixture(scope="module")
def model(imported: Path) -> LoadedModel:
    return load_model(imported, None, None)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What reaches the generation, which writes the tokens `written`."""
    arguments: dict[str, object] = {"written": []}

    def generate(llama: object, prompt: np.ndarray, length: int, key: object, **options: object) -> np.ndarray:
        arguments.update(options, prompt=prompt[0].tolist(), length=length)
        return np.append(prompt, [arguments["written"]], axis=1).astype(np.int32)

    monkeypatch.setattr(continuation, "generate", generate)
    return arguments


def sample(run_dir: Path, *words: str) -> int:
    return main(["sample", "--run-dir", str(run_dir), *words])


def test_the_command_writes_what_a_run_wrote_at_its_end(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(trained, "--prompt", "def ", "--tokens", "5") == 0
    expected = (trained / "sample.txt").read_text()
    assert capsys.readouterr().out == f"--- sample of step 12\n{expected}---\n"


def test_several_prompts_do_not_depend_on_each_other(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def texts(*prompts: str) -> list[str]:
        assert sample(imported, "--tokens", "4", "--prompt", *prompts) == 0
        return capsys.readouterr().out.split("--- sample of step 0\n")[1:]

    first, second = texts("A lamp", "")
    assert first.startswith("A lamp")
    assert texts("") == [second]
    assert texts("A lamp") == [first]


def test_seeds_and_checkpoints_are_chosen(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in (["--seed", "1"], ["--seed", "2"], ["--seed", "1"], ["--seed", "1", "--step", "10"]):
        assert sample(trained, "--tokens", "12", "--temperature", "2", *words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[2] != texts[1]
    assert texts[3].startswith("--- sample of step 10\n")


def test_a_prompt_is_encoded_as_the_tokenizer_does(model: LoadedModel, seen: dict[str, object]) -> None:
    tokenizer = model.stored.tokenizer
    begin, plain = tokenizer.token_to_id(BEGIN), tokenizer.encode("the sea", add_special_tokens=False).ids
    continued(model.llama, model.stored, "the sea", GREEDY)
    assert seen["prompt"] == [begin, *plain]
    continued(model.llama, model.stored, "", GREEDY)
    assert seen["prompt"] == [begin]
    continued(model.llama, model.stored, f"the sea{END}", GREEDY)  # as people write special tokens
    assert seen["prompt"] == [begin, *plain, tokenizer.token_to_id(END)]
    assert seen["window"] == 32


def test_a_prompt_of_a_run_begins_as_its_documents_do(trained: Path, seen: dict[str, object]) -> None:
    model = load_model(trained, None, None)
    end = model.stored.end_of_text
    continued(model.llama, model.stored, "", GREEDY)
    assert seen["prompt"] == [end]
    continued(model.llama, model.stored, "def", GREEDY)
    assert seen["prompt"] == [end, *model.stored.tokenizer.encode("def").ids]


def test_a_text_is_cut_where_it_ends(model: LoadedModel, seen: dict[str, object]) -> None:
    tokenizer = model.stored.tokenizer
    more = tokenizer.encode(" read aloud", add_special_tokens=False).ids
    seen["written"] = [*more, tokenizer.token_to_id(END), *more]
    assert continued(model.llama, model.stored, "the man", GREEDY) == "the man read aloud"
    seen["written"] = [*more, *more]
    assert continued(model.llama, model.stored, "the man", GREEDY) == "the man read aloud read aloud"
    seen["written"] = [tokenizer.token_to_id(END)]
    assert continued(model.llama, model.stored, "", GREEDY) == ""


def test_a_text_ends_at_every_token_that_the_files_of_the_model_name(model: LoadedModel, tmp_path: Path) -> None:
    assert model.stored.ends == (model.stored.end_of_text,)
    stored = dataclasses.replace(model.stored, files=tmp_path)
    assert stored.ends == model.stored.ends
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [7, {stored.end_of_text}, 5]}}')
    assert stored.ends == (stored.end_of_text, 7, 5)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json is no JSON"):
        _ = stored.ends


def test_all_tokens_are_drawn_from_if_top_k_is_zero_or_larger_than_the_vocabulary(
    model: LoadedModel, seen: dict[str, object]
) -> None:
    for top_k, expected in ((0, None), (7, 7), (10**6, 310)):
        continued(model.llama, model.stored, "", Draws(tokens=1, temperature=1.0, top_k=top_k, top_p=0.5, seed=0))
        assert (seen["top_k"], seen["top_p"]) == (expected, 0.5)


def test_the_most_likely_tokens_are_those_of_the_whole_forward_pass(model: LoadedModel) -> None:
    tokenizer = model.stored.tokenizer
    tokens = tokenizer.encode("the sea").ids
    for _ in range(GREEDY.tokens):
        tokens.append(int(jnp.argmax(model.llama(jnp.asarray([tokens]))[0, -1])))
    expected = tokenizer.decode(tokens[1:], skip_special_tokens=False).partition(END)[0]
    assert continued(model.llama, model.stored, "the sea", GREEDY) == expected


MISTAKES = [
    ("--top-p 0", "--top-p 0.0 must be above 0 and at most 1"),
    ("--top-p 1.5", "--top-p 1.5 must be above 0 and at most 1"),
    ("--top-p nan", "--top-p nan must be a finite number"),
    ("--temperature -0.1", "--temperature -0.1 must be at least 0"),
    ("--temperature inf", "--temperature inf must be a finite number"),
    ("--top-k -1", "--top-k -1 must be at least 0"),
    ("--tokens 0", "--tokens 0 must be at least 1"),
    ("--seed -1", "--seed -1 must be at least 0 and below 2^32"),
    ("--seed 4294967296", "--seed 4294967296 must be at least 0 and below 2^32"),
    ("--step -2", "--step -2 must be at least 0"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_before_anything_is_read(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(Path("nowhere"), *words.split()) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(tmp_path) == 2
    assert "has no model.json: give the folder of a run or of an import" in capsys.readouterr().err
