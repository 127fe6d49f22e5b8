"""What a subspace is: a linear map that projects a gradient and lifts a direction.

`dense` is the basis that is stored as a matrix S (..., m, r).
"""

from grass_optax.bases import dense

__all__ = ["dense"]
