"""The same four blocks along axis 0, along axis 1, and as subtrees of their own."""

import jax
import numpy as np

N, K = 4, 3
CYCLE = N * K
PREFIXES = ["layers/0", "layers/1", "layers/2", "layers/10"]  # "layers/1" is not the beginning of "layers/10"
ADAM = dict(b1=0.8, b2=0.95, eps=1e-6)


def stacked(dtype="float32"):
    """Four blocks along axis 0. NumPy, here and below: slicing a JAX array compiles."""
    return {"k": np.ones((N, 3, 5), dtype), "v": np.ones((N, 2), dtype)}


def gradients(t, dtype="float32", like=None):
    """Gradients of step t: Gaussians around a mean, so that both moments mean something."""
    rng = np.random.default_rng(t)
    return jax.tree.map(lambda x: (1 + rng.normal(size=x.shape)).astype(dtype), like or stacked())


def apart(tree):
    """The same blocks as subtrees."""
    return {"layers": {p.split("/")[1]: jax.tree.map(lambda x, i=i: x[i], tree) for i, p in enumerate(PREFIXES)}}


def together(tree):
    return jax.tree.map(lambda *x: np.stack(x), *(tree["layers"][p.split("/")[1]] for p in PREFIXES))


def moved(tree):
    """The same blocks along axis 1."""
    return jax.tree.map(lambda x: np.moveaxis(x, 0, 1), tree)


VIEWS = {"axis 0": (0, lambda x: x, lambda x: x), "axis 1": (1, moved, moved), "paths": (PREFIXES, apart, together)}
