"""Alice for one matrix (m, n), m <= n, in float64 NumPy, from the algorithms of arXiv 2502.07752.

As in the library, the eps of Adam is that of moments with hats, and a basis keeps a little of the
old one where its gradients have a lower rank. Nothing is shared with the library.
"""

import numpy as np

from tests.oracles.scaling import Limiter


class Alice:
    """step(G, S) is the direction in the basis S of this step, `switched` what is kept next."""

    def __init__(self, *, rank, scale, leading, compensation, b1, b2, b3, eps, growth):
        self.rank, self.scale, self.leading, self.compensation = rank, scale, leading, compensation
        self.b1, self.b2, self.b3, self.eps = b1, b2, b3, eps
        self.K = np.zeros((rank, rank))
        self.M = self.V = self.p = 0.0
        self.t, self.limit = 0, Limiter(growth)

    def switched(self, G):
        """The eigenvectors of what is remembered, restricted to one step of subspace iteration."""
        Q = self.b3 * self.S @ self.K @ self.S.T + (1 - self.b3) * G @ G.T
        H = Q @ self.S
        U, _ = np.linalg.qr(np.sqrt(self.rank) * H / np.linalg.norm(H) + 1e-4 * self.S)
        _, W = np.linalg.eigh(U.T @ Q @ U)
        return U @ W[:, ::-1][:, : self.leading]

    def step(self, G, S):
        self.S, self.t = S, self.t + 1
        g = S.T @ G
        self.K = self.b3 * self.K + (1 - self.b3) * g @ g.T
        self.M = self.b1 * self.M + (1 - self.b1) * g
        self.V = self.b2 * self.V + (1 - self.b2) * g**2
        N = self.M / (np.sqrt(self.V) + self.eps * np.sqrt(1 - self.b2**self.t))
        R = G - S @ g
        self.p = self.b1 * self.p + (1 - self.b1) * np.sum(R**2, axis=0)
        m, n = G.shape
        C = np.zeros((m, n))
        present = np.sum(R**2, axis=0) > 1e-20
        C[:, present] = np.sqrt(m - self.rank) * R[:, present] / np.sqrt(self.p[present])
        return self.scale * (S @ N + self.compensation * self.limit(C))
