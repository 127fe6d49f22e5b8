"""Cosine waves, against SciPy's transform."""

import jax.numpy as jnp
import numpy as np
import scipy.fft

from grass_optax.bases import Cosine
from grass_optax.bases.cosine import cosine_waves


def test_waves_are_those_of_the_discrete_cosine_transform():
    expected = scipy.fft.dct(np.eye(48), type=2, norm="ortho", axis=0).T
    np.testing.assert_allclose(cosine_waves(jnp.arange(48), 48, jnp.float32), expected, atol=1e-6)


def test_waves_of_a_long_side_keep_their_digits():
    m, high = 8192, np.array([8190, 8191])
    expected = np.cos(np.pi * (2 * np.arange(m)[:, None] + 1) * high / (2 * m)) * (2 / m) ** 0.5
    np.testing.assert_allclose(cosine_waves(jnp.asarray(high), m, jnp.float32), expected, atol=1e-7)


def test_signs_turn_rows():
    basis = Cosine(jnp.array([0, 2]), jnp.array([1, -1, 1, 1], jnp.int8))
    plain = Cosine.of(jnp.array([0, 2]), m=4)
    np.testing.assert_allclose(basis.to_matrix(), plain.to_matrix() * np.array([[1], [-1], [1], [1]], "float32"))
