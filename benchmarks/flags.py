"""Flags shared by the benchmarks."""

import argparse
from pathlib import Path

from benchmarks.shapes import SIZES

LAYOUTS = ("stacked", "unstacked")


def command(name: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>`, with `--json`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the number of contestants whose memory is measured at the same time."""
    parser.add_argument("--jobs", type=int, default=1, help="contestants whose memory is measured at once")


def add_matrices(parser: argparse.ArgumentParser, layouts: tuple[str, ...] = LAYOUTS[:1]) -> None:
    """Add the flags that choose the matrices, and whether they are stacked."""
    parser.add_argument("--size", choices=SIZES, default="60m")
    parser.add_argument("--layers", type=int, help="use only this many layers")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(layouts))
