"""SCALE for one matrix (inputs, outputs), in float64 NumPy, column by column. Nothing is shared
with the library.
"""

import numpy as np


class ColumnOracle:
    """Algorithm 1 of arXiv 2506.16659; `rms` is the scaling of its released code. momentum = 0 but
    for the head.
    """

    def __init__(self, *, momentum=0.0, scale=1.0, eps=1e-8, rms=True):
        self.momentum, self.scale, self.eps, self.rms = momentum, scale, eps, rms
        self.M = 0.0

    def step(self, G):
        """The direction U for the gradient G."""
        G = np.asarray(G, np.float64)
        self.M = self.momentum * self.M + (1 - self.momentum) * G
        U = np.zeros_like(G)
        for j in range(G.shape[1]):
            size = np.linalg.norm(self.M[:, j]) / (np.sqrt(G.shape[0]) if self.rms else 1.0)
            U[:, j] = self.scale * self.M[:, j] / max(size, self.eps)
        return U
