"""RACS and SinkGD for one matrix (outputs x inputs), as a PyTorch weight lies, in float64 NumPy.

As the papers print them, with diagonal matrices and norms. Nothing is shared with the library.
"""

import numpy as np


class RacsOracle:
    """Algorithm 1 of arXiv 2502.07752."""

    def __init__(self, *, alpha, beta, gamma, iterations=5):
        self.alpha, self.beta, self.gamma, self.iterations = alpha, beta, gamma, iterations
        self.s = self.q = self.phi = 0.0
        self.t = 0

    def scales(self, G):
        """Eq. 16 from Q = I."""
        Q = np.eye(G.shape[0])
        for _ in range(self.iterations):
            S = np.diag(np.diag(G.T @ Q @ G) / np.linalg.norm(Q, "fro") ** 2)
            Q = np.diag(np.diag(G @ S @ G.T) / np.linalg.norm(S, "fro") ** 2)
        return np.diag(S), np.diag(Q)

    def step(self, G):
        """The direction for the gradient G."""
        G = np.asarray(G, np.float64)
        self.t += 1
        s, q = self.scales(G)
        self.s = self.beta * self.s + (1 - self.beta) * s
        self.q = self.beta * self.q + (1 - self.beta) * q
        scaled = np.diag(self.q**-0.5) @ G @ np.diag(self.s**-0.5)
        norm = np.linalg.norm(scaled, "fro")
        eta = self.gamma / max(norm / self.phi, self.gamma) if self.t > 1 else 1.0
        self.phi = eta * norm
        return self.alpha * eta * scaled


class SinkgdOracle:
    """Algorithms 3 and 4 of arXiv 2502.06742: rows of norm sqrt(n), columns of norm sqrt(m)."""

    def __init__(self, *, alpha, iterations=5):
        self.alpha, self.iterations = alpha, iterations

    def step(self, G):
        """The direction for the gradient G."""
        X = np.array(G, np.float64)
        m, n = X.shape
        for _ in range(self.iterations):
            for i in range(m):
                X[i] *= np.sqrt(n) / np.linalg.norm(X[i])
            for j in range(n):
                X[:, j] *= np.sqrt(m) / np.linalg.norm(X[:, j])
        return self.alpha * X
