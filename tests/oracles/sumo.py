"""SUMO for one matrix (m, n), m <= n, in float64 NumPy (Algorithm 1 of arXiv 2505.24749), and
Muon's quintic.

Nothing is shared with the library.
"""

import numpy as np

from tests.oracles.galore import GaLore


def polar(M):
    """A B^T of M = A Sigma B^T."""
    A, _, Bt = np.linalg.svd(M, full_matrices=False)
    return A @ Bt


def quintic(M):
    """Muon's five steps of Newton-Schulz."""
    X = M / np.linalg.norm(M)
    for _ in range(5):
        gram = X @ X.T
        X = 3.4445 * X - 4.7750 * gram @ X + 2.0315 * gram @ gram @ X
    return X


class Sumo(GaLore):
    """M <- mu M + S^T G, carried to each new basis; U = scale S orthogonalised(M)."""

    def __init__(self, *, momentum, orthogonalized, **options):
        super().__init__(b1=momentum, b2=0.0, eps=0.0, **options)
        self.orthogonalized = orthogonalized

    def moved(self, S):
        self.M = S.T @ self.S @ self.M

    def adam(self, g):
        self.M = self.b1 * self.M + g
        return self.orthogonalized(self.M)
