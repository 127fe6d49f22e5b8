"""What must hold before a release: `python -m tests.packaging.release dist v1.2.3`, without JAX.

`make dist` runs it on what it has built, and a tag is only given by the release workflow.
"""

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version() -> str:
    """The version, which is written in one place only."""
    text = (ROOT / "grass_optax" / "__init__.py").read_text()
    return re.findall(r'(?m)^__version__ = "(.*)"$', text)[0]


def wrong_files(wheel: Path) -> set[str]:
    """What a wheel holds too much, and what is missing in it."""
    names = set(zipfile.ZipFile(wheel).namelist())
    library = {str(file.relative_to(ROOT)) for file in (ROOT / "grass_optax").rglob("*.py")}
    expected = library | {"grass_optax/py.typed"}
    info = f"grass_optax-{version()}.dist-info"
    records = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "top_level.txt", "RECORD", "licenses/LICENSE")}
    return names ^ (expected | records)


def wrong_tag(tag: str, changelog: str) -> list[str]:
    """Why a tag is not the release of this version."""
    errors = []
    if tag != f"v{version()}":
        errors.append(f"the tag is {tag}, and the version {version()}: set __version__, or tag v{version()}")
    if not re.search(rf"(?m)^## \[{re.escape(tag.removeprefix('v'))}\] - \d{{4}}-\d\d-\d\d$", changelog):
        errors.append(f"CHANGELOG.md has no section '## [{tag.removeprefix('v')}] - date': rename [Unreleased]")
    return errors


def main(folder: str, tag: str = "") -> int:
    """Print what is wrong, and return whether anything is."""
    built = sorted(file.name for file in Path(folder).iterdir())
    expected = [f"grass_optax-{version()}-py3-none-any.whl", f"grass_optax-{version()}.tar.gz"]
    errors = [] if built == expected else [f"{folder} holds {built}, and should hold {expected}"]
    errors += [f"the wheel differs from the library: {sorted(wrong_files(wheel))}"
               for wheel in Path(folder).glob("*.whl") if wrong_files(wheel)]  # fmt: skip
    errors += wrong_tag(tag, (ROOT / "CHANGELOG.md").read_text()) if tag else []
    sys.stdout.write("\n".join(errors or [f"{', '.join(built)}: ready"]) + "\n")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
