"""The flags that benchmarks share."""

import argparse
from pathlib import Path

from benchmarks.shapes import SIZES

LAYOUTS = ("stacked", "unstacked")


def command(name: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>`, which may write JSON."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", type=Path)
    return parser


def add_matrices(parser: argparse.ArgumentParser, layouts: tuple[str, ...] = LAYOUTS[:1]) -> None:
    """Which matrices, and whether as stacks."""
    parser.add_argument("--size", choices=SIZES, default="60m")
    parser.add_argument("--layers", type=int, help="only so many layers of it")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(layouts))
