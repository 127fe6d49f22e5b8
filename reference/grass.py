"""GrassJump and GrassWalk in NumPy, for one matrix: the file to read first.

It follows Algorithm 1 of "Randomized Gradient Subspaces for Efficient Large Language Model
Training" (arXiv 2510.01878), equation by equation, in the paper's symbols:

    W  (m, n)  the weights, with m <= n      G  (m, n)  their gradient
    S  (m, r)  the basis, S^T S = I          g  (r, n)  S^T G, the projected gradient
    M  (r, n)  Adam's first moment           V  (r, n)  Adam's second moment
    N  (r, n)  Adam's direction              R  (m, n)  G - S g, the residual
    L  (m, n)  the recovered residual        U  (m, n)  the direction of the update
    Q  (r, r)  S_t^T S_{t-1}, the rotation from the old basis to the new one

A training loop with T updates between two jumps:

    optimizer = GrassOracle(scale=0.25, b1=0.9, b2=0.999, eps=1e-8, zeta=1.01, gap=T)
    for t in range(steps):
        if t % T == 0:
            S = jump(rng, m, r)
        W -= learning_rate * optimizer.step(gradient(W), S)

The library does the same for whole trees of stacked, sharded and transposed matrices, and never
forms R. The tests compare it with this file in float64. No code is shared between the two.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def jump(rng: np.random.Generator, m: int, r: int) -> Array:
    """GrassJump (sec. 4): a basis (m, r) drawn uniformly, independent of the old one."""
    return np.linalg.qr(rng.standard_normal((m, r)))[0]


def walk(rng: np.random.Generator, S: Array) -> Array:
    """GrassWalk (eq. 4, rank one): turn one direction of the subspace towards one outside it."""
    m, r = S.shape
    v = unit(rng.standard_normal((r,)))  # S v: the direction of the subspace that turns
    z = rng.standard_normal((m,))
    u = unit(z - S @ (S.T @ z))  # the direction outside
    theta = rng.uniform(0, 2 * np.pi)  # the paper's step, 10^4 times a singular value, modulo 2 pi
    return S + np.outer((np.cos(theta) - 1) * (S @ v) + np.sin(theta) * u, v)


class GrassOracle:
    """Eq. 1 and 5-11 for one matrix. `gap` is T, the number of updates between two bases.

    Two details differ from the paper as printed. Eq. 8 has the bias corrections of LDAdam, from
    which it comes. The limit of eq. 10 compares with the norm after limiting.
    """

    def __init__(
        self, *, scale: float, b1: float, b2: float, eps: float, zeta: float | None, gap: int, completion: str = "none"
    ) -> None:
        self.scale, self.b1, self.b2, self.eps = scale, b1, b2, eps
        self.zeta, self.gap, self.completion = zeta, gap, completion
        self.t = 0
        self.p = 0.0  # ||L_{t-1}||; 0 means "not set"
        self.S: Array  # the basis of the last step

    def step(self, G: npt.ArrayLike, basis: npt.ArrayLike) -> Array:
        """Return U for the gradient G, in the basis of this step: W <- W - learning_rate U."""
        G, S = np.asarray(G, np.float64), np.asarray(basis, np.float64)
        self.t += 1
        t, b1, b2 = self.t, self.b1, self.b2
        if t == 1:
            self.M = np.zeros((S.shape[1], G.shape[1]))
            self.V = np.zeros_like(self.M)
        elif (t - 1) % self.gap == 0:
            self.transport(S.T @ self.S)
        self.S = S
        g = S.T @ G  # eq. 1
        self.M = b1 * self.M + (1 - b1) * g  # eq. 5
        self.V = b2 * self.V + (1 - b2) * g**2  # eq. 6
        N = (self.M / (1 - b1**t)) / (np.sqrt(self.V / (1 - b2**t)) + self.eps)
        return self.scale * S @ N + self.limit(recover(G - S @ g, g, N))  # eq. 11

    def transport(self, Q: Array) -> None:
        """Eq. 7-8: rotate the moments of step t - 1 into the new basis."""
        correct1, correct2 = 1 - self.b1 ** (self.t - 1), 1 - self.b2 ** (self.t - 1)
        M, V = self.M / correct1, self.V / correct2
        variance, mean = V - M**2, Q @ M
        moved = np.abs(Q**2 @ variance + mean**2)
        if self.completion == "isotropic":  # not in the paper: restore what Q^2 leaves behind
            moved += np.outer(np.clip(1 - (Q**2).sum(axis=1), 0, None), V.mean(axis=0))
        self.M, self.V = Q @ self.M, correct2 * moved

    def limit(self, L: Array) -> Array:
        """Eq. 10: let the norm of L grow by at most the factor zeta from step to step."""
        if self.zeta is None:
            return L
        norm = np.linalg.norm(L)
        if self.p > 0 and norm > self.zeta * self.p:
            L = L * (self.zeta * self.p / norm)
        self.p = float(np.linalg.norm(L))
        return L


def recover(R: Array, g: Array, N: Array) -> Array:
    """Eq. 9: scale each column of R as Adam scaled its projection, by ||N_i|| / ||g_i||."""
    norms = np.linalg.norm(g, axis=0)
    L = np.zeros_like(R)
    for i in range(R.shape[1]):
        if norms[i] > 1e-6 * np.sqrt(np.mean(norms**2)):  # else the ratio would be noise
            L[:, i] = np.linalg.norm(N[:, i]) / norms[i] * R[:, i]
    return L


def unit(x: Array) -> Array:
    """Return x at length one."""
    return x / np.linalg.norm(x)
