"""How fast a text is prepared, and how much memory that takes.

Writes a text of made-up words, half of it a single file and half JSON lines. Another process
prepares it; its time, speed and peak of resident memory are printed.

python -m benchmarks.preparation --megabytes 2000
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.children import ROOT

WORDS, LINE, DOCUMENT = 50_000, 12, 20  # different words, words of a line, lines of a document

CHILD = """
import json, pathlib, sys, time
from benchmarks.children import resident
from train.config.run import DataFlags
from train.data.tokens import load_tokens
flags = DataFlags(data=sys.argv[1], data_megabytes=0.0, cache_dir=pathlib.Path(sys.argv[2]))
times, say = [], lambda line: print(line, file=sys.stderr, flush=True)
for _ in range(2):
    began = time.perf_counter()
    tokens = load_tokens(flags, 2048, say=say)
    times.append(time.perf_counter() - began)
print(json.dumps([*times, len(tokens.train), len(tokens.held_out), resident("VmHWM")]))
"""


class Measured(NamedTuple):
    """The cost of a preparation."""

    seconds: float
    seconds_again: float  # with the tokens in the cache
    train: int  # tokens
    held_out: int
    peak: int  # bytes of resident memory


def write_text(folder: Path, megabytes: int) -> None:
    """Write the text, a megabyte at a time: the same on every machine."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", "S1")
    words = [b"".join(letters[rng.geometric(0.12, rng.integers(2, 10)) % 26].tolist()) for _ in range(WORDS)]
    with open(folder / "long.txt", "wb") as long, open(folder / "short.jsonl", "wb") as short:
        for file, is_json in ((long, False), (short, True)):
            size = 0
            while size < megabytes * 500_000:
                chosen = rng.zipf(1.3, (3000, LINE)) % WORDS
                lines = [b" ".join(words[i] for i in line) for line in chosen.tolist()]
                if is_json:
                    texts = (b"\n".join(lines[at : at + DOCUMENT]).decode() for at in range(0, len(lines), DOCUMENT))
                    block = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
                else:
                    block = b"\n".join(lines) + b"\n"
                size += file.write(block)


def measured(folder: Path, megabytes: int) -> Measured:
    """Write a text into a folder, and prepare it in another process."""
    (texts := folder / "texts").mkdir()
    write_text(texts, megabytes)
    command = [sys.executable, "-c", CHILD, f"files:{texts}/*", str(folder / "cache")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    seconds, again, train, held_out, peak = json.loads(output)
    return Measured(seconds, again, train, held_out, peak)


def main() -> None:
    """Measure a text, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder), megabytes)
    print(f"{megabytes} MB of text: {result.seconds:.0f} s, {megabytes / result.seconds:.1f} MB/s")
    print(
        f"{result.train + result.held_out:,} tokens, {result.held_out / (result.train + result.held_out):.1%} held out"
    )
    print(
        f"peak resident memory {result.peak / 1e6:,.0f} MB; {result.seconds_again:.2f} s with the tokens in the cache"
    )


if __name__ == "__main__":
    main()
