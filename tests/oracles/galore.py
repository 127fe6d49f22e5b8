"""GaLore and those that differ from it in what becomes of the moments or of the rest: GoLore,
FRUGAL.

One matrix (m, n), m <= n, in float64 NumPy, from Algorithm 2 of arXiv 2403.03507, Algorithm 1 of
2410.11289 and Algorithm 1 of 2411.07837; Adam with its hats. Nothing is shared with the library.
"""

import numpy as np


def leading(G, rank):
    """The first left singular vectors."""
    return np.linalg.svd(G)[0][:, :rank]


class GaLore:
    """U = alpha S Adam(S^T G); the moments keep their numbers when S moves."""

    any_sign = True  # the basis of `refresh` is determined up to the signs of its columns

    def __init__(self, *, rank, gap, scale, b1, b2, eps):
        self.rank, self.gap, self.scale = rank, gap, scale
        self.b1, self.b2, self.eps = b1, b2, eps
        self.t = self.count = 0
        self.M = self.V = 0.0

    def refresh(self, G):
        """The basis of a step at which it moves, in the oracle's own words."""
        return leading(G, self.rank)

    def step(self, G, S):
        """The direction U for the gradient G in the basis S of this step."""
        self.t += 1
        if self.t > 1 and (self.t - 1) % self.gap == 0:
            self.moved(S)
        self.S = S
        g = S.T @ G
        return self.combine(G, g, self.adam(g))

    def moved(self, S):
        """What the move to S does to the moments."""

    def adam(self, g):
        self.count += 1
        self.M = self.b1 * self.M + (1 - self.b1) * g
        self.V = self.b2 * self.V + (1 - self.b2) * g**2
        return self.normalized(self.M)

    def normalized(self, M):
        mean, square = M / (1 - self.b1**self.count), self.V / (1 - self.b2**self.count)
        return mean / (np.sqrt(square) + self.eps)

    def combine(self, G, g, N):
        return self.scale * self.S @ N


class GoLore(GaLore):
    """The first moment is carried to the new basis, M <- S_new^T S_old M. The second is not.

    `lost` is what the released code does: the carried moment makes the direction of that one step,
    and the state keeps the one from before it.
    """

    def __init__(self, *, lost=False, **options):
        super().__init__(**options)
        self.lost, self.kept = lost, None

    def moved(self, S):
        self.kept = self.M
        self.M = S.T @ self.S @ self.M

    def adam(self, g):
        N = super().adam(g)
        if self.lost and self.kept is not None:
            self.M = self.kept
        self.kept = None
        return N


class Frugal(GaLore):
    """Moments and count start again at each move; outside the subspace the sign of the gradient."""

    def __init__(self, *, sign_scale, **options):
        super().__init__(**options)
        self.sign_scale = sign_scale

    def moved(self, S):
        self.M = self.V = 0.0
        self.count = 0

    def combine(self, G, g, N):
        return self.scale * (self.S @ N + self.sign_scale * np.sign(G - self.S @ g))
