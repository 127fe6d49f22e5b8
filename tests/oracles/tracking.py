"""The step of SubTrack, and the bases of the discrete cosine transform: rules that read the
gradient alone.

Tracking is eq. 3-6 of arXiv 2502.01586, uphill in the captured energy; SVD of the tangent by
LAPACK. Nothing is shared with the library.
"""

import numpy as np

from reference.grass import GrassOracle
from tests.oracles.galore import GaLore


def captured(S, G):
    """||S^T G||^2, the energy of the gradient in the subspace."""
    return np.sum((S.T @ G) ** 2)


def tracked(S, G, step_size, rank):
    """The basis after one geodesic step from S; `step_size` is eta, or None for the best angle in
    each plane.
    """
    A = S.T @ G
    R = G - S @ A
    U, sigma, Vt = np.linalg.svd(2 * R @ A.T)
    new = S.copy()
    for i in range(rank):
        u, v = U[:, i], Vt[i]
        theta = best_angle(G, S @ v, u) if step_size is None else step_size * sigma[i]
        new += np.outer((np.cos(theta) - 1) * (S @ v) + np.sin(theta) * u, v)
    return new


def best_angle(G, kept, offered):
    """Where cos(x) kept + sin(x) offered captures most: the leading eigenvector of G G^T in their
    plane.
    """
    plane = np.stack([kept, offered], axis=1)
    c, s = np.linalg.eigh(plane.T @ G @ G.T @ plane)[1][:, -1]
    return np.arctan2(s, c) if c >= 0 else np.arctan2(-s, -c)


def cosine_basis(G, rank):
    """The columns of the orthonormal DCT-II on which the gradient has most energy, most first."""
    m = G.shape[0]
    D = np.array([[np.cos(np.pi * (2 * i + 1) * k / (2 * m)) for k in range(m)] for i in range(m)])
    D /= np.linalg.norm(D, axis=0)
    energy = [np.linalg.norm(D[:, k] @ G) for k in range(m)]
    return D[:, np.argsort(energy)[::-1][:rank]]


class Tracked:
    """The bases of tracking, for the oracle that stands beside it."""

    any_sign = False

    def __init__(self, *, step_size, tracking_rank, **options):
        super().__init__(**options)
        self.step_size, self.tracking_rank = step_size, tracking_rank

    def refresh(self, G):
        return tracked(self.S, G, self.step_size, self.tracking_rank)


class SubTrack(Tracked, GrassOracle):
    """SubTrack++: transport and recovery of the GrassWalk paper on tracked bases."""


class SubTrackGrad(Tracked, GaLore):
    """SubTrack-Grad: GaLore on tracked bases."""


class CosineGaLore(GaLore):
    """GaLore on bases of the cosine transform."""

    any_sign = False

    def refresh(self, G):
        return cosine_basis(G, self.rank)
