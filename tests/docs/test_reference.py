"""reference/grass.py as a newcomer reads it: its loop trains, and its bases are the library's.

That the library computes the same updates is shown in `tests/oracles`.
"""

import ast
import re
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import reference.grass as algorithm
from grass_optax._linalg import grassmann


def loop():
    """The training loop of the module docstring."""
    block = re.search(r"    optimizer = .*?(?=\n\n)", algorithm.__doc__, re.DOTALL).group(0)
    return textwrap.dedent(block)


def test_the_loop_of_the_docstring_trains():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((12, 20))
    names = {"rng": rng, "m": 12, "r": 3, "T": 10, "steps": 200, "learning_rate": 0.05, "W": np.zeros((12, 20))}
    names |= vars(algorithm) | {"gradient": lambda W: W - target}
    exec(loop(), names)
    assert np.linalg.norm(names["W"] - target) < 0.1 * np.linalg.norm(target)


def test_bases_are_orthonormal():
    rng = np.random.default_rng(1)
    S = algorithm.jump(rng, 12, 3)
    for _ in range(20):
        np.testing.assert_allclose(S.T @ S, np.eye(3), atol=1e-12)
        S = algorithm.walk(rng, S)


def test_a_walk_turns_one_direction():
    """A step of rank one that is not zero."""
    rng = np.random.default_rng(2)
    S = algorithm.jump(rng, 12, 3)
    singular_values = np.linalg.svd(algorithm.walk(rng, S) - S)[1]
    assert singular_values[0] > 1e-3
    np.testing.assert_allclose(singular_values[1:], 0, atol=1e-12)


def test_a_walk_is_a_geodesic_of_the_library(monkeypatch):
    """Eq. 4 twice: in NumPy, and by `grassmann.exp_frames` from the same directions and angle."""
    drawn = {}
    monkeypatch.setattr(algorithm, "unit", lambda x, unit=algorithm.unit: drawn.setdefault(len(drawn), unit(x)))
    rng = np.random.default_rng(3)
    S = algorithm.jump(rng, 12, 3)
    state = rng.bit_generator.state
    stepped = algorithm.walk(rng, S)
    again = np.random.default_rng(0)
    again.bit_generator.state = state
    again.standard_normal((3,)), again.standard_normal((12,))
    theta = again.uniform(0, 2 * np.pi)
    with jax.enable_x64(True):
        v, u = (jnp.asarray(drawn[i])[:, None] for i in range(2))
        ours = grassmann.exp_frames(jnp.asarray(S), u, jnp.asarray([theta]), v)
    np.testing.assert_allclose(ours, stepped, atol=1e-12)


def test_it_shares_no_code_with_the_library():
    tree = ast.parse(Path(algorithm.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"numpy", "numpy.typing"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
