"""LDAdam for one matrix (m, n), m <= n, in float64 NumPy, in the order of the released code (arXiv
2410.16103).

Nothing is shared with the library.
"""

import numpy as np


class LDAdam:
    """step(g, U) is the direction in the basis U of this step."""

    def __init__(self, *, b1, b2, eps, blend, feedback):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.blend, self.feedback = blend, feedback
        self.k = 0  # steps done
        self.e = 0.0

    def power(self, g):
        """B B^T U_prev of the next step, whose Q of a QR factorisation is the basis that the
        released code takes.
        """
        a = g + self.e
        b = self.blend * self.U @ (self.M / (1 - self.b1**self.k)) + (1 - self.blend) * a
        return b @ (b.T @ self.U)

    def step(self, g, U):
        a = g + self.e
        if self.k == 0:
            self.U, self.M, self.V = np.zeros_like(U), np.zeros((U.shape[1], g.shape[1])), 0.0
        low = U.T @ a
        C = U.T @ self.U
        carried = C @ self.M
        if self.feedback:
            self.e = a - U @ low + self.b1 / (1 - self.b1) * (self.U @ self.M - U @ carried)
        if self.k > 0:
            bc1, bc2 = 1 - self.b1**self.k, 1 - self.b2**self.k
            self.V = bc2 * np.abs(C**2 @ (self.V / bc2 - (self.M / bc1) ** 2) + (carried / bc1) ** 2)
            self.M = carried
        self.U = U
        self.M = self.b1 * self.M + (1 - self.b1) * low
        self.V = self.b2 * self.V + (1 - self.b2) * low**2
        self.k += 1
        mean, square = self.M / (1 - self.b1**self.k), self.V / (1 - self.b2**self.k)
        return U @ (mean / (np.sqrt(square) + self.eps))
