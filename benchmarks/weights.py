"""How much memory do `import` and `export` take, compared with the file of the weights?

    python -m benchmarks.weights --megabytes 500

A random LLaMA in float32 is imported and exported. Each command runs in a separate process; from
the peak of its resident memory that of a process is subtracted which imports the same modules and
starts JAX, but reads nothing. Linux only. Both figures should be little more than the file: the
weights are in memory once.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks import children, flags, measure
from benchmarks.children import resident
from models import CONFIGS, LlamaConfig, count_parameters, to_hf_config, to_hf_state_dict
from models.hf_folder import write_folder
from train.export.command import run_export
from train.export.config import Export
from train.import_.command import run_import
from train.import_.config import Import
from train.program.task import abstract_params

COMMANDS = ("import", "export")
SHAPE = dataclasses.replace(CONFIGS["350m"], vocab_size=8000)


def network(megabytes: int) -> LlamaConfig:
    """A LLaMA whose weights have at least this size, with layers as in 350m."""
    one, two = (count_parameters(dataclasses.replace(SHAPE, num_layers=layers)) for layers in (1, 2))
    layers = -((2 * one - two - megabytes * 10**6 // 4) // (two - one))
    return dataclasses.replace(SHAPE, num_layers=max(layers, 1))


def write_random(folder: Path, config: LlamaConfig) -> None:
    """Write a folder of Hugging Face with random weights."""
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.standard_normal(x.shape, np.float32), abstract_params(config))
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    settings = to_hf_config(config, 256) | {"eos_token_id": 0}
    write_folder(folder, settings, to_hf_state_dict(config, params), {"tokenizer.json": tokenizer.to_str().encode()})


def child(args: argparse.Namespace) -> dict[str, Any]:
    """Do one thing in this process; return the peak of its memory, and the time."""
    folder, start = Path(args.folder), time.perf_counter()
    if args.one == "write":
        write_random(folder / "theirs", network(args.megabytes))
    elif args.one == "import":
        run_import(Import(source=folder / "theirs", out=folder / "ours"))
    elif args.one == "export":
        run_export(Export(run_dir=folder / "ours", out=folder / "again"))
    else:
        jax.local_devices()
    return {"peak": resident("VmHWM"), "seconds": time.perf_counter() - start, "machine": measure.machine()}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = flags.command("weights", __doc__)
    result.add_argument("--megabytes", type=int, default=500, help="size of the weights")
    result.add_argument("--folder", type=Path, help="where to put them; a temporary folder by default")
    result.add_argument("--one", choices=("write", "nothing", *COMMANDS), help=argparse.SUPPRESS)  # in the child
    result.set_defaults(methods=list(COMMANDS))
    return result


def measured(folder: Path, megabytes: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the table, and the machine."""
    peaks = {}
    for one in ("write", "nothing", *COMMANDS):
        words = ["--one", one, "--folder", str(folder), "--megabytes", str(megabytes)]
        peaks[one] = children.in_a_child("benchmarks.weights", words)
        if "error" in peaks[one]:
            raise RuntimeError(f"{one}: {peaks[one]['error']}")
    size = sum(path.stat().st_size for path in (folder / "theirs").glob("*.safetensors"))
    rows = [
        {
            "name": one,
            "file": size,
            "grown": peaks[one]["peak"] - peaks["nothing"]["peak"],
            "ratio": (peaks[one]["peak"] - peaks["nothing"]["peak"]) / size,
            "seconds": peaks[one]["seconds"],
        }
        for one in COMMANDS
    ]
    return rows, peaks["nothing"]["machine"]


def text(rows: list[dict[str, Any]]) -> str:
    """The table, in megabytes."""
    header = ["", "file, MB", "peak, MB", "peak over file", "seconds"]
    lines = [
        [r["name"], *(f"{r[key] / 1e6:.0f}" for key in ("file", "grown")), f"{r['ratio']:.2f}", f"{r['seconds']:.1f}"]
        for r in rows
    ]
    return measure.table(header, lines)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write, and return the tables."""
    args = parser().parse_args(arguments)
    if args.one:
        print(json.dumps(child(args)))
        return []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows, where = measured(Path(folder), args.megabytes)
    print(text(rows))
    measure.say_where(where)
    tables = [{"rows": rows}]
    measure.write_json(args.json, args, where, tables)
    return tables


if __name__ == "__main__":
    main()
