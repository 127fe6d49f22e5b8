"""A checkpoint of which only the weights are left."""

from pathlib import Path

import tensorstore

from train.storage.checkpoint import ITEM
from train.storage.checksums import seal


def without_the_rest(checkpoint: Path) -> list[str]:
    """Remove every array but the parameters, and return the keys that are gone.

    All arrays are in one database, so they are removed there. New checksums make the checkpoint an
    intact one.
    """
    base = f"file://{(checkpoint / ITEM).absolute()}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    removed = [key for key in keys if not key.startswith("params.")]
    for key in removed:
        store.write(key, None).result()
    seal(checkpoint)
    return removed
