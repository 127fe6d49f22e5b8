"""The tutorials run from top to bottom, in a process of their own, without warnings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
# What a reader is promised.
PRINTED = {
    "first_run": (r"adamw +loss .* -> .* in", r"second/kernel +0\.\d\d of the norm"),
    "your_own_method": (r"orthonormal up to \d\.\d+e-0[67]", r"outside dropped +loss"),
    "sharded_and_resumed": (
        r"basis P\('fsdp',\)",
        r"the same bits\? True",
        r"difference of a loss \d\.\d+e-0[789]|0\.0",
    ),
}


def blocks(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


def test_every_tutorial_is_run() -> None:
    assert {page.stem for page in TUTORIALS.glob("*.md")} == PRINTED.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_a_tutorial_is_python_that_uses_public_names(name: str) -> None:
    code = blocks(TUTORIALS / f"{name}.md")
    compile(code, name, "exec")
    assert "grass_optax" in code
    assert not re.search(r"grass_optax[\w.]*\._[a-z]", code)


@pytest.mark.long
@pytest.mark.parametrize("name", PRINTED)
def test_a_tutorial_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    script = tmp_path / f"{name}.py"
    script.write_text(blocks(TUTORIALS / f"{name}.md"))
    line = [sys.executable, "-W", "error", str(script)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for pattern in PRINTED[name]:
        assert re.search(pattern, ran.stdout), (pattern, ran.stdout)
