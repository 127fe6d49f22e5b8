"""`import`: weights, settings and tokenizer of Hugging Face in the form of a run."""

import json
import shutil

import jax

from models import count_parameters
from train.import_.config import Import
from train.import_.source import read_source
from train.storage.folder import RunFolder
from train.storage.model import FILES, MODEL, TOKENIZER, with_dtype
from train.storage.weights import save_params
from train.system.devices import require_devices
from train.system.files import appearing, refuse_nonempty


def run_import(config: Import) -> None:
    """Check everything, then write the folder, which appears in one rename."""
    require_devices()
    refuse_nonempty(config.out, "--out")
    source = read_source(config.source)
    params, files = source.params(), source.small_files()
    dtype = jax.tree.leaves(params)[0].dtype.name
    with appearing(config.out, "--out", source.weights.nbytes) as folder:
        (folder / MODEL).write_text(json.dumps(with_dtype(source.settings, dtype), indent=2) + "\n")
        shutil.copyfile(source.folder / TOKENIZER, folder / TOKENIZER)
        (folder / FILES).mkdir()
        for path in files:
            kept = folder / FILES / path.relative_to(source.folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
        save_params(RunFolder(folder).checkpoints, params)
    print(
        f"imported a {source.settings['model_type']} with {count_parameters(source.network):,} parameters in {dtype} "
        f"to {config.out}"
    )
    if names := source.left_out():
        print(f"left out, as the network here does not have them: {', '.join(names)}")
    if rates := source.dropout():
        print(f"note: there is no dropout here, so these settings have no effect: {', '.join(rates)}")
    if rows := source.without_token():
        print(
            f"note: {rows:,} of the {source.network.vocab_size:,} rows of the embedding have no token in {TOKENIZER}: "
            "check that it belongs to this model"
        )
