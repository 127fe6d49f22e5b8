"""Strict settings for every test: promotions are errors, and the shapes of the geometry are
checked.
"""

import functools
import gc
import os
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import install_import_hook

# Most of the time of a test goes into compiling a program that then runs for milliseconds:
# unoptimized machine code takes less than half of it, and XLA's older emitters two thirds of that.
# Read when a backend starts, here and in the processes that tests start.
_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # later ones have no older emitters
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

# JAX keeps all that it traced, millions of objects by the end, and a full collection visits them
# all.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

CHECKED = ("_linalg", "subspaces", "transport", "residual", "_trees.layouts", "_trees.matrix_layout")
install_import_hook([f"grass_optax.{name}" for name in CHECKED], "beartype.beartype")


def _standard_promotion(f: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return f(*args, **kwargs)

    return wrapped


# Optax's own arithmetic on counts and moments mixes types (b1**count): strictness is for the code
# under test.
for _name in ("bias_correction", "update_moment", "update_moment_per_elem_norm"):
    setattr(optax.tree, _name, _standard_promotion(getattr(optax.tree, _name)))
