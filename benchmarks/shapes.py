"""The weight matrices of the LLaMA sizes, as parameters, gradients and dimension numbers.

Seven matrices per layer: four of attention, three of the MLP. Embeddings, head and norms are left
out, because every method leaves them to Adam: including them would move all ratios towards 1 by an
amount that depends on the vocabulary. Stacked, each of the seven leaves has a leading layer axis;
unstacked, every matrix is a leaf.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from models.config import CONFIGS

# The rank that the papers use for each size.
RANKS = {"60m": 128, "130m": 256, "350m": 256, "1b": 512, "3b": 512, "7b": 1024}
OTHER_RANKS = {"tiny": 32}  # a quarter of the hidden size, like most of theirs
RATE = 1e-3


SIZES = tuple(OTHER_RANKS | RANKS)


def every_matrix(params: Any) -> Any:
    """Mark the last two axes of each leaf as a matrix, (input, output)."""
    return jax.tree.map(lambda w: MuonDimensionNumbers(w.ndim - 2, w.ndim - 1), params)


def stacked_only(params: Any) -> Any:
    """Mark leaves with three axes as stacks of matrices, and split no others, as in
    `models.Llama`.
    """
    return jax.tree.map(lambda w: MuonDimensionNumbers(1, 2) if w.ndim == 3 else None, params)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The input of every optimizer of a run."""

    shapes: dict[str, tuple[int, ...]]  # of the leaves: (input, output), or (layers, input, output)
    rank: int
    gap: int  # updates between refreshes
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
        """Bytes of one gradient of all parameters, the unit of the memory tables."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())


def layer_shapes(size: str) -> dict[str, tuple[int, int]]:
    """(input, output) of the seven matrices of a layer."""
    d, f = CONFIGS[size].hidden_size, CONFIGS[size].intermediate_size
    return {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "gate": (d, f), "up": (d, f), "down": (f, d)}


def rank_of(size: str) -> int:
    """The rank that the papers use."""
    return (RANKS | OTHER_RANKS)[size]


def make_problem(size: str, *, stacked: bool, gap: int, layers: int | None = None, rank: int | None = None) -> Problem:
    """The matrices of one size, or of its first `layers` layers, at the papers' rank or another."""
    count = CONFIGS[size].num_layers if layers is None else layers
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layer_shapes(size).items():
        if stacked:
            shapes[name] = (count, *shape)
        else:
            shapes |= {f"{name}{i:03}": shape for i in range(count)}
    return Problem(shapes, rank_of(size) if rank is None else rank, gap)


def repeated(size: str, leaves: int, gap: int) -> Problem:
    """`leaves` unstacked leaves: the matrices of one layer, repeated."""
    layer = list(layer_shapes(size).items())
    named = ((*layer[i % len(layer)], i) for i in range(leaves))
    return Problem({f"{name}{i:03}": shape for name, shape, i in named}, rank_of(size), gap)


def random_params(problem: Problem, seed: int = 0) -> dict[str, jax.Array]:
    """Random weights with standard deviation 0.02."""
    return _random(problem, seed, 0.02, decays=False)


def random_grads(problem: Problem, seed: int = 1) -> dict[str, jax.Array]:
    """Random gradients whose singular values fall roughly as 1/i, like those of a network.

    Iterative orthonormalisation takes more passes on a flatter or steeper spectrum.
    """
    return _random(problem, seed, 1e-3, decays=True)


def _random(problem: Problem, seed: int, deviation: float, *, decays: bool) -> dict[str, jax.Array]:
    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        fall = 1 / (1 + jnp.arange(shape[-2], dtype=jnp.float32))[:, None] if decays else 1.0
        return deviation * fall * jax.random.normal(key, shape)

    keys = jax.random.split(jax.random.key(seed), len(problem.shapes))
    draw_leaf = jax.jit(draw, static_argnums=1)
    return {name: draw_leaf(key, shape) for key, (name, shape) in zip(keys, problem.shapes.items(), strict=True)}
