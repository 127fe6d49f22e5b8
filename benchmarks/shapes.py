"""The weight matrices of the LLaMA sizes, as parameters, gradients and dimension numbers.

Seven matrices a layer: four of attention, three of the MLP. Embeddings, head and norms are left
out, because Adam has them under every method here: with them all ratios would move towards 1 by an
amount that depends on the vocabulary. Stacked, a layer axis stands in front of each of the seven;
unstacked, every matrix is a leaf of its own.
"""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

# The rank that the papers use for each size.
RANKS = {"60m": 128, "130m": 256, "350m": 256, "1b": 512, "3b": 512, "7b": 1024}
OTHER_RANKS = {"tiny": 32}  # a quarter of the hidden size, as theirs mostly are
RATE = 1e-3


def _configs() -> dict[str, Any]:
    """`models.config.CONFIGS`, read without the package around it, whose model needs Flax."""
    path = Path(__file__).parent.parent / "models" / "config.py"
    spec = importlib.util.spec_from_file_location("benchmarks._llama_configs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    configs: dict[str, Any] = module.CONFIGS
    return configs


CONFIGS = _configs()
SIZES = tuple(OTHER_RANKS | RANKS)


def every_matrix(params: Any) -> Any:
    """The last two axes of each leaf are a matrix, (input, output)."""
    return jax.tree.map(lambda w: MuonDimensionNumbers(w.ndim - 2, w.ndim - 1), params)


def stacked_only(params: Any) -> Any:
    """Leaves with three axes are stacks of matrices, and no others are split: right for
    `models.Llama`.
    """
    return jax.tree.map(lambda w: MuonDimensionNumbers(1, 2) if w.ndim == 3 else None, params)


class Problem(NamedTuple):
    """What every optimizer of a run is given."""

    shapes: dict[str, tuple[int, ...]]  # of the leaves: (input, output), or (layers, input, output)
    rank: int
    gap: int  # updates from one refresh to the next
    dimension_numbers: Callable[[Any], Any] = every_matrix
    rate: float = RATE

    @property
    def abstract(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters as shapes, in float32."""
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in self.shapes.items()}

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """The (input, output) of every single matrix."""
        return [(s[-2], s[-1]) for s in self.shapes.values() for _ in range(math.prod(s[:-2]))]

    @property
    def is_stacked(self) -> bool:
        """Whether a leaf holds several matrices."""
        return any(len(shape) > 2 for shape in self.shapes.values())

    @property
    def gradient_bytes(self) -> int:
        """Bytes of one gradient of everything, the unit of the memory tables."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())


def layer_shapes(size: str) -> dict[str, tuple[int, int]]:
    """(input, output) of the seven matrices of a layer."""
    d, f = CONFIGS[size].hidden_size, CONFIGS[size].intermediate_size
    return {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "gate": (d, f), "up": (d, f), "down": (f, d)}


def rank_of(size: str) -> int:
    """The rank of the papers."""
    return (RANKS | OTHER_RANKS)[size]


def problem(size: str, *, stacked: bool, gap: int, layers: int | None = None) -> Problem:
    """The matrices of one size, or of its first `layers` layers."""
    count = CONFIGS[size].num_layers if layers is None else layers
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layer_shapes(size).items():
        if stacked:
            shapes[name] = (count, *shape)
        else:
            shapes |= {f"{name}{i:03}": shape for i in range(count)}
    return Problem(shapes, rank_of(size), gap)


def repeated(size: str, leaves: int, gap: int) -> Problem:
    """So many unstacked leaves: the matrices of a layer over and over."""
    layer = list(layer_shapes(size).items())
    named = ((*layer[i % len(layer)], i) for i in range(leaves))
    return Problem({f"{name}{i:03}": shape for name, shape, i in named}, rank_of(size), gap)


def random_params(problem: Problem, seed: int = 0) -> dict[str, jax.Array]:
    """Weights of deviation 0.02."""
    return _random(problem, seed, 0.02, decays=False)


def random_grads(problem: Problem, seed: int = 1) -> dict[str, jax.Array]:
    """Gradients whose singular values fall roughly as 1/i, as those of a network fall: what
    orthonormalises a basis in passes takes more of them on a flat spectrum or a steep one.
    """
    return _random(problem, seed, 1e-3, decays=True)


def _random(problem: Problem, seed: int, deviation: float, *, decays: bool) -> dict[str, jax.Array]:
    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        fall = 1 / (1 + jnp.arange(shape[-2], dtype=jnp.float32))[:, None] if decays else 1.0
        return deviation * fall * jax.random.normal(key, shape)

    keys = jax.random.split(jax.random.key(seed), len(problem.shapes))
    drawn = jax.jit(draw, static_argnums=1)
    return {name: drawn(key, shape) for key, (name, shape) in zip(keys, problem.shapes.items(), strict=True)}
