"""A checkpoint of which only a part is left."""

from pathlib import Path

import tensorstore

from train.storage.checkpoint import ITEM
from train.storage.checksums import CHECKSUMS, seal


def leave(part: str, checkpoint: Path) -> list[str]:
    """Remove the numbers of every array outside a part of the state; return the keys that are gone.

    All arrays are in one database, so they are removed there; their shapes and types stay, which
    Orbax looks up. New checksums make the checkpoint an intact one.
    """
    base = f"file://{(checkpoint / ITEM).absolute()}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    removed = [key for key in keys if not key.startswith(f"{part}.") and not key.endswith(".zarray")]
    for key in removed:
        store.write(key, None).result()
    (checkpoint / CHECKSUMS).unlink()
    seal(checkpoint)
    return removed
