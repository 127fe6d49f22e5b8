"""Methods that scale columns of the gradient as Adam scales them in a subspace: Fira, APOLLO and
APOLLO-Mini.

From Algorithm 1 of arXiv 2410.01623 and Algorithm 1 of 2412.05270, with Adam's hats, the norm after
limiting as the one that the next may exceed, and a norm of zero as "not set". Nothing is shared
with the library.
"""

import numpy as np

from tests.oracles.galore import GaLore


def ratios(g, N):
    """||N_i|| / ||g_i||, and 0 for a column whose projected gradient is nothing beside the
    others.
    """
    below, above = np.linalg.norm(g, axis=0), np.linalg.norm(N, axis=0)
    present = below > 1e-6 * np.sqrt(np.mean(below**2))
    return np.array([a / b if there else 0.0 for a, b, there in zip(above, below, present, strict=True)])


class Limiter:
    """The norm may grow by the factor `growth` a step."""

    def __init__(self, growth):
        self.growth, self.last, self.fired = growth, 0.0, 0

    def __call__(self, X):
        norm = np.linalg.norm(X)
        if self.last > 0 and norm / self.last > self.growth:
            X = X * (self.growth * self.last / norm)
            self.fired += 1
        self.last = np.linalg.norm(X)
        return X


class Fira(GaLore):
    """U = alpha S N + limited(phi (G - removed S g)); `removed` is 1 in the paper and alpha in the
    released code.
    """

    def __init__(self, *, removed, growth, **options):
        super().__init__(**options)
        self.removed, self.limit = removed, Limiter(growth)

    def combine(self, G, g, N):
        return self.scale * self.S @ N + self.limit(ratios(g, N) * (G - self.removed * self.S @ g))


class Apollo(GaLore):
    """U_i = sqrt(alpha) (||N_i|| / ||g_i||) G_i, limited before the factor; bases are drawn, so
    they are given.
    """

    refresh = None

    def __init__(self, *, growth, **options):
        super().__init__(**options)
        self.limit = Limiter(growth)

    def combine(self, G, g, N):
        return np.sqrt(self.scale) * self.limit(G * self.scaling(g, N))

    def scaling(self, g, N):
        return ratios(g, N)


class ApolloMini(Apollo):
    """One number for the whole matrix."""

    def scaling(self, g, N):
        return np.linalg.norm(N) / np.linalg.norm(g)
