"""One small model and two windows of tokens, for the tests of a file."""

import jax
import pytest

from tests.models.small import SMALL, make


@pytest.fixture(scope="module")
def model():
    return make(SMALL, 0)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 12), 0, SMALL.vocab_size)
