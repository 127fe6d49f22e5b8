"""FOAM and GWT for one matrix (m, n), m <= n, in float64 NumPy.

FOAM from `foam_torch/foam_adam.py` of its authors and from arXiv 2512.07112; GWT from
`galore_torch/waveadamw.py` of its authors and from arXiv 2501.07237, with a Haar transform level by
level. Both as the codes have them: moments without hats, the correction a factor of the step, which
here belongs to the direction, and eps in the place where Optax has it. Nothing is shared with the
library.
"""

import numpy as np

from tests.oracles.scaling import Limiter


class Folded:
    """Adam's moments of blocks of neighbouring rows, for r blocks; the first are longer by one."""

    def __init__(self, *, rank, scale, b1, b2, eps):
        self.rank, self.scale, self.b1, self.b2, self.eps = rank, scale, b1, b2, eps
        self.t, self.M, self.V = 0, 0.0, 0.0

    def averaged(self, first, second):
        self.t += 1
        self.M = self.b1 * self.M + (1 - self.b1) * first
        self.V = self.b2 * self.V + (1 - self.b2) * second

    def step_size(self):
        return np.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)

    def root(self, square):
        """With eps beside the corrected root, as in Optax."""
        return np.sqrt(square) + self.eps * np.sqrt(1 - self.b2**self.t)


class Foam(Folded):
    """U = alpha (E M + c R) / sqrt(E V + c^2 R^2)."""

    def __init__(self, *, residual_scale, of_squares, **options):
        super().__init__(**options)
        self.c, self.of_squares = residual_scale, of_squares

    def fold(self, X):
        return np.stack([block.mean(axis=0) for block in np.array_split(X, self.rank)])

    def unfold(self, Y, m):
        rows = [len(block) for block in np.array_split(np.arange(m), self.rank)]
        return np.concatenate([np.tile(y, (c, 1)) for y, c in zip(Y, rows, strict=True)])

    def step(self, G):
        folded = self.fold(G)
        self.averaged(folded, self.fold(G**2) if self.of_squares else folded**2)
        R = G - self.unfold(folded, len(G))
        M, V = (self.unfold(x, len(G)) for x in (self.M, self.V))
        return self.scale * self.step_size() * (M + self.c * R) / self.root(V + self.c**2 * R**2)


def haar(X, levels):
    """Approximation and details, the coarsest first, of the orthonormal transform of the rows."""
    details = []
    for _ in range(levels):
        even, odd = X[0::2], X[1::2]
        X, details = (even + odd) / np.sqrt(2), [(even - odd) / np.sqrt(2), *details]
    return X, details


def inverse_haar(X, details):
    for D in details:
        rows = np.empty((2 * len(X), X.shape[1]))
        rows[0::2], rows[1::2] = (X + D) / np.sqrt(2), (X - D) / np.sqrt(2)
        X = rows
    return X


class Gwt(Folded):
    """Adam on the approximations of the Haar transform; details over roots, copied level by level.

    `growth` is None without the limit.
    """

    def __init__(self, *, growth, **options):
        super().__init__(**options)
        self.limit = Limiter(np.inf if growth is None else growth)

    def step(self, G):
        levels = int(np.log2(len(G) / self.rank))
        A, details = haar(G, levels)
        self.averaged(A, A**2)
        root = self.root(self.V)
        N = self.step_size() * self.M / root
        limited = self.limit(N)
        factor = np.linalg.norm(limited) / np.linalg.norm(N)
        divided = []
        for D in details:
            divided.append(factor * self.step_size() * D / root)
            root = np.repeat(root, 2, axis=0)
        return self.scale * inverse_haar(limited, divided)
