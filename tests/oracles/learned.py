"""Methods whose bases take gradient steps of their own: Online Subspace Descent (arXiv 2408.12857),
COAP (2412.00071).

One matrix (m, n), m <= n, in float64 NumPy, in the order of the released codes, whose P is the
transpose of S for the second. Gradients are worked out by hand. Nothing is shared with the library.
"""

import numpy as np

from tests.oracles.galore import GaLore


def reconstruction(S, G):
    """||S S^T G' - G'||_F^2, G' = G / ||G||_F."""
    G = G / np.linalg.norm(G)
    return np.sum((S @ S.T @ G - G) ** 2)


def reconstruction_gradient(S, G):
    """With E = S S^T G' - G', dE = dS S^T G' + S dS^T G'."""
    G = G / np.linalg.norm(G)
    E = S @ S.T @ G - G
    return 2 * (E @ G.T @ S + G @ E.T @ S)


class OnlineSubspaceDescent(GaLore):
    """Project, Adam and lift in P_t, and then a step of torch's AdamW on P: lr 1/T, weight decay
    0.01.
    """

    any_sign = False

    def __init__(self, *, every, **options):
        super().__init__(gap=1, **options)
        self.lr = 1 / every
        self.mean = self.square = 0.0

    def refresh(self, G):
        return self.P

    def step(self, G, S):
        U = super().step(G, S)
        slope = reconstruction_gradient(S, G)
        self.mean = 0.9 * self.mean + 0.1 * slope
        self.square = 0.999 * self.square + 0.001 * slope**2
        mhat, vhat = self.mean / (1 - 0.9**self.t), self.square / (1 - 0.999**self.t)
        self.P = S - self.lr * 0.01 * S - self.lr * mhat / (np.sqrt(vhat) + 1e-8)
        return U


def alignment(S, G, M):
    """MSE(S S^T G, G) (1 - mean_i cos((S M)_i, G_i)) over columns i."""
    return np.mean((S @ S.T @ G - G) ** 2) * (1 - np.mean(cosines(S @ M, G)))


def alignment_gradient(S, G, M):
    E = S @ S.T @ G - G
    mse, mse_slope = np.mean(E**2), 2 / E.size * (E @ G.T @ S + G @ E.T @ S)
    X = S @ M
    cosine, X_slope = cosines(X, G), np.zeros_like(X)
    for i in range(G.shape[1]):
        x, y = np.linalg.norm(X[:, i]), np.linalg.norm(G[:, i])
        if x > 0 and y > 0:
            X_slope[:, i] = (G[:, i] / y - cosine[i] * X[:, i] / x) / x
    return mse_slope * (1 - np.mean(cosine)) - mse * (X_slope @ M.T) / G.shape[1]


def cosines(X, Y):
    """Of columns; 0 where one is zero, as torch has it."""
    x, y = np.linalg.norm(X, axis=0), np.linalg.norm(Y, axis=0)
    return np.sum(X * Y, axis=0) / np.maximum(x * y, 1e-8)


class Coap(GaLore):
    """Every `gap` steps P takes a step of SGD, lr 0.1, its gradient clipped to norm 1; every
    `recompute` of these a cheap SVD instead.
    """

    def __init__(self, *, recompute, **options):
        super().__init__(**options)
        self.recompute = recompute
        self.stepped = self.clipped = 0

    def refresh(self, G):
        if self.t % (self.recompute * self.gap) == 0:
            self.any_sign = True
            Q = np.linalg.qr(G.T @ self.S)[0]
            return np.linalg.svd(Q.T @ G.T, full_matrices=False)[2].T
        self.any_sign = False
        slope = alignment_gradient(self.S, G, self.M)
        norm = np.linalg.norm(slope)
        self.clipped += int(norm > 1)
        self.stepped += 1
        return self.S - 0.1 * slope / max(norm, 1)
