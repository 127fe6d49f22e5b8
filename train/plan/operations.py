"""The arithmetic of a step, counted in its traced program.

A compiled program's `cost_analysis` counts the body of a loop once, however often it runs, and so
one layer of a scanned model. Here the body of a scan counts once for each iteration.
"""

import math
from typing import Any

from jax.extend.core import jaxprs_in_params


def product_operations(jaxpr: Any) -> int:
    """Return the floating-point operations of the matrix products of a jaxpr, on all devices.

    What is in a `while` is left out: that is the optimizer's refresh, which few steps run. Of a
    conditional the most expensive branch counts.
    """
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    if name == "while":
        return 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    within = [product_operations(getattr(jaxpr, "jaxpr", jaxpr)) for jaxpr in jaxprs_in_params(equation.params)]
    if name == "cond":
        return max(within)
    return sum(within) * (equation.params["length"] if name == "scan" else 1)
