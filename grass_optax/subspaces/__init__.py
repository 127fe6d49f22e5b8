"""Axis 1: where does the basis go at a refresh?

A rule is a pair `(init, update)`, like everything in Optax. It works on one matrix, and the refresh
maps it over stacks: `update` is a pure function from a `Refresh` to the new basis and the rule's
new state. Most rules keep no state and are a `stateless_rule` of one function. A rule also makes
the first basis.

`rule` defines what a rule is. `random` has the rules that draw a basis, `fixed` those whose basis
stays, `gradient` those that make one from the gradient, `moving` those that move the old basis by
it, `partly_random` the one that keeps some directions and draws the others, and `learned` those
that take gradient steps on the basis itself. `blockwise` applies a rule to each block of rows, and
`switching` one of two rules at a time.
"""

from grass_optax.subspaces.blockwise import by_blocks
from grass_optax.subspaces.fixed import fold, frozen
from grass_optax.subspaces.gradient import dct, range_finder, svd
from grass_optax.subspaces.learned import coap, online_descent
from grass_optax.subspaces.moving import power_iteration, tracking
from grass_optax.subspaces.partly_random import GramState, averaged_gram, leading_and_random
from grass_optax.subspaces.random import (
    RandomBasis,
    columns,
    random_jump,
    random_projection,
    random_walk,
)
from grass_optax.subspaces.rule import (
    Refresh,
    SubspaceRule,
    finite_or_noise,
    kept_unless_finite,
    no_state,
    stateless_rule,
)
from grass_optax.subspaces.switching import interleave, switch

__all__ = [
    "random_jump",
    "RandomBasis",
    "random_walk",
    "random_projection",
    "columns",
    "frozen",
    "fold",
    "svd",
    "range_finder",
    "dct",
    "tracking",
    "power_iteration",
    "leading_and_random",
    "averaged_gram",
    "GramState",
    "online_descent",
    "coap",
    "by_blocks",
    "switch",
    "interleave",
    "SubspaceRule",
    "Refresh",
    "stateless_rule",
    "no_state",
    "kept_unless_finite",
    "finite_or_noise",
]
