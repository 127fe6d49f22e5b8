"""Conversion of weights to and from Hugging Face's checkpoints, in NumPy.

Hugging Face stores linear weights as (out, in) and each layer separately; here kernels are
(in, out) and the layers are stacked on a leading axis. Both rotate the pairs (c, c + half of the
head), so columns keep their order. `models.parameters` has the names and shapes.

Arrays are read one at a time, so a mapping that loads them when asked needs the memory of the
result and of one array.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from models.config import TransformerConfig
from models.parameters import Parameter, Table, is_stacked, table_of


def from_hf_state_dict(config: TransformerConfig, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the parameters of a model as nested dicts of arrays, with unchanged dtypes.

    Load them with `nnx.update(model, jax.tree.map(jnp.asarray, params))`. What is left out:

    * derived buffers, such as `rotary_emb.inv_freq` and `embeddings.position_ids`;
    * the head of a LLaMA whose head is tied;
    * the heads of BERT and RoBERTa for pretraining, and the pooler if no head of ours has it.

    Args:
      config: The configuration, which must ask for a head if and only if the checkpoint has one for
        classification.
      state_dict: The checkpoint. Encoders may be alone or in a model with a head, whose names then
        begin with `bert.` or `roberta.`.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped entry, or one of another type than
        those of the layers before it.
    """
    if config.num_layers > len(state_dict):
        raise ValueError(f"the config has {config.num_layers} layers, but the checkpoint {len(state_dict)} tensors.")
    table = table_of(config)
    entries = _entries(table, state_dict)
    expected = _expected(table)
    ignored = _ignored(table, entries)
    _check(
        {entries.get(name, name): shape for name, shape in expected.items()},
        {entry: _shape(state_dict, entry) for entry in entries.values() if entry not in ignored},
    )

    def read(name: str) -> np.ndarray:
        return np.asarray(state_dict[entries[name]])

    return _nest({path: _from_hf(path, parameter, read) for path, parameter in table.parameters.items()})


def left_out(config: TransformerConfig, state_dict: Mapping[str, np.ndarray]) -> list[str]:
    """Return the entries of a checkpoint that `from_hf_state_dict` leaves out."""
    table = table_of(config)
    return sorted(_ignored(table, _entries(table, state_dict)))


def to_hf_state_dict(config: TransformerConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return `params`, nested dicts or `nnx.state(model)`, in the layout of Hugging Face.

    This is the inverse of `from_hf_state_dict`. An encoder without a head is written alone, as
    Sentence Transformers has it; one with a head as a model for sequence classification. The arrays
    are views of those of `params`, so that nothing is copied: they are transposed when they are
    read.

    Raises:
      ValueError: Names every missing, unexpected or mis-shaped path.
    """
    parameters = table_of(config).parameters
    arrays = dict(_flatten(params))
    _check(
        {path: parameter.shape for path, parameter in parameters.items()},
        {path: array.shape for path, array in arrays.items()},
    )
    named = {}
    for path, parameter in parameters.items():
        transposed = _transpose(path, arrays[path])
        for i, layer in enumerate(transposed if is_stacked(path) else [transposed]):
            named[parameter.name.format(i)] = layer
    return named


def _entries(table: Table, state_dict: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The entries of a checkpoint by their names in the spelling of the table."""
    entries: dict[str, str] = {}
    for entry in state_dict:
        if (name := table.spelled(entry)) in entries:
            raise ValueError(f"{entries[name]} and {entry} are one parameter: remove one of them.")
        entries[name] = entry
    return entries


def _expected(table: Table) -> dict[str, tuple[int, ...]]:
    """The names of all parameters at Hugging Face, with their shapes."""
    return {name: shape for path, x in table.parameters.items() for name, shape in _hf_shapes(path, x).items()}


def _ignored(table: Table, entries: Mapping[str, str]) -> set[str]:
    """The entries that no parameter here is made of, and that may be left out."""
    expected = _expected(table)
    return {entry for name, entry in entries.items() if name not in expected and table.ignored.fullmatch(name)}


def _hf_shapes(path: str, parameter: Parameter) -> dict[str, tuple[int, ...]]:
    """The Hugging Face names of a parameter, one for each layer, with their shapes."""
    count, of_one = (parameter.shape[0], parameter.shape[1:]) if is_stacked(path) else (1, parameter.shape)
    return {parameter.name.format(i): of_one[::-1] if path.endswith("/kernel") else of_one for i in range(count)}


def _from_hf(path: str, parameter: Parameter, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Read a parameter, layer by layer, into an array of ours."""
    if not is_stacked(path):
        return _transpose(path, read(parameter.name))
    result: np.ndarray | None = None
    for i in range(parameter.shape[0]):
        layer = _transpose(path, read(parameter.name.format(i)))
        result = np.empty(parameter.shape, layer.dtype) if result is None else result
        if layer.dtype != result.dtype:
            raise ValueError(
                f"{parameter.name.format(i)} is {layer.dtype}, but the layers before it are {result.dtype}; layers are "
                "one array here. Save the checkpoint in one type."
            )
        result[i] = layer
    assert result is not None  # a config has a layer
    return result


def _shape(state_dict: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """The shape of an entry, without reading it where that is possible."""
    shape_of = getattr(state_dict, "shape_of", None)
    return tuple(np.shape(state_dict[name]) if shape_of is None else shape_of(name))


def _transpose(path: str, array: np.ndarray) -> np.ndarray:
    """Swap (in, out) and (out, in); norms and the embedding have the same layout in both."""
    return np.swapaxes(array, -1, -2) if path.endswith("/kernel") else array


def _check(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless names and shapes agree, with a line for each that does not."""
    problems = [f"missing: {name}" for name in expected if name not in actual]
    problems += [f"unexpected: {name}" for name in actual if name not in expected]
    problems += [
        f"wrong shape: {name} is {actual[name]}, the config needs {expected[name]}"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    if problems:
        raise ValueError("the weights do not fit the config:\n" + "\n".join(problems))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree
