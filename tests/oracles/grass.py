"""GrassWalk and GrassJump for one matrix (m, n), m <= n, in float64 NumPy, step by step from the
paper's equations.

The bases are given, one for each refresh: random draws cannot be transcribed. Nothing is shared
with the library.
"""

import numpy as np


class GrassOracle:
    """Eq. 5-11 and Algorithm 1 of arXiv 2510.01878, with the hats of LDAdam in eq. 8 and the norm
    after limiting in eq. 10.
    """

    def __init__(self, *, scale, b1, b2, eps, zeta, gap, completion="none"):
        self.scale, self.b1, self.b2, self.eps = scale, b1, b2, eps
        self.zeta, self.gap, self.completion = zeta, gap, completion
        self.t = 0
        self.p = 0.0

    def step(self, G, basis):
        """The direction U for the gradient G; `basis` is that of this step."""
        G, S = np.asarray(G, np.float64), np.asarray(basis, np.float64)
        self.t += 1
        t, b1, b2 = self.t, self.b1, self.b2
        if t == 1:
            self.M = np.zeros((S.shape[1], G.shape[1]))
            self.V = np.zeros_like(self.M)
        elif (t - 1) % self.gap == 0:
            self.transport(S.T @ self.S, t)
        self.S = S
        g = S.T @ G
        self.M = b1 * self.M + (1 - b1) * g
        self.V = b2 * self.V + (1 - b2) * g**2
        N = (self.M / (1 - b1**t)) / (np.sqrt(self.V / (1 - b2**t)) + self.eps)
        return self.scale * S @ N + self.recover(G - S @ g, g, N)

    def transport(self, C, t):
        correct1, correct2 = 1 - self.b1 ** (t - 1), 1 - self.b2 ** (t - 1)
        Mh, Vh = self.M / correct1, self.V / correct2
        V = np.abs((C**2) @ (Vh - Mh**2) + (C @ Mh) ** 2)
        if self.completion == "isotropic":
            missing = np.clip(1 - (C**2).sum(axis=1), 0, None)
            V += np.outer(missing, Vh.mean(axis=0))
        self.M, self.V = C @ self.M, correct2 * V

    def recover(self, R, g, N):
        norms = np.linalg.norm(g, axis=0)
        L = np.zeros_like(R)
        for i in range(R.shape[1]):
            if norms[i] > 1e-6 * np.sqrt(np.mean(norms**2)):
                L[:, i] = np.linalg.norm(N[:, i]) / norms[i] * R[:, i]
        if self.zeta is None:
            return L
        norm = np.linalg.norm(L)
        if self.p > 0 and norm > self.zeta * self.p:
            L *= self.zeta * self.p / norm
        self.p = np.linalg.norm(L)
        return L
