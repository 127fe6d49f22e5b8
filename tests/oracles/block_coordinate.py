"""BAdam and FRUGAL's block mode for one stack of blocks (N, ...), in float64 NumPy, block by block.

Which blocks are active at a step is given: random draws cannot be transcribed. Nothing is shared
with the library.
"""

import numpy as np


class BlockOracle:
    """Adam for the active blocks, begun anew at t = 1 + jK; the sign of the gradient, or nothing,
    for the others.
    """

    def __init__(self, *, b1, b2, eps, switch_gap, sign=False):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.switch_gap, self.sign = switch_gap, sign
        self.t = 0

    def step(self, G, window):
        """The direction U for the gradients G (N, ...); `window` holds the numbers of the active
        blocks.
        """
        G = np.asarray(G, np.float64)
        if self.t % self.switch_gap == 0:
            self.s, self.moments = 0, dict.fromkeys(window, (0.0, 0.0))
        self.t += 1
        self.s += 1
        U = np.sign(G) if self.sign else np.zeros_like(G)
        for i in window:
            M, V = self.moments[i]
            M = self.b1 * M + (1 - self.b1) * G[i]
            V = self.b2 * V + (1 - self.b2) * G[i] ** 2
            self.moments[i] = M, V
            U[i] = (M / (1 - self.b1**self.s)) / (np.sqrt(V / (1 - self.b2**self.s)) + self.eps)
        return U

    def weights(self, W, G, window, rate, decay):
        """BAdam's new weights: those of the active blocks move and decay, the others stay."""
        U = self.step(G, window)
        W = np.array(W, np.float64)
        for i in window:
            W[i] -= rate * (U[i] + decay * W[i])
        return W
