"""The optimizers by name, and what each is given unless told otherwise.

The scales and intervals are the defaults of the functions of `grass_optax` that have these names,
and those are the papers'. They stand here a second time, and a test compares them, because `--help`
must not wait for JAX.
"""

import enum


class OptimizerName(enum.StrEnum):
    """The methods of `grass_optax`, and two baselines."""

    GRASSJUMP = "grassjump"
    GRASSWALK = "grasswalk"
    SUBTRACK = "subtrack"
    SUBTRACK_GRAD = "subtrack_grad"
    GALORE = "galore"
    GOLORE = "golore"
    FIRA = "fira"
    APOLLO = "apollo"
    APOLLO_MINI = "apollo_mini"
    LDADAM = "ldadam"
    FRUGAL = "frugal"
    BADAM = "badam"
    ONLINE_SUBSPACE_DESCENT = "online_subspace_descent"
    COAP = "coap"
    SUMO = "sumo"
    COLUMN_SGD = "column_sgd"
    ADAMW = "adamw"
    MUON = "muon"


BASELINES = frozenset({OptimizerName.ADAMW, OptimizerName.MUON})  # of Optax
BESIDE_THE_SPLIT = frozenset({OptimizerName.BADAM, OptimizerName.COLUMN_SGD})  # of grass_optax, and no subspaces
WITHOUT_RANK = BASELINES | BESIDE_THE_SPLIT | {OptimizerName.APOLLO_MINI}
WITHOUT_SCALE = frozenset({OptimizerName.BADAM})  # it updates a block of weights at a time, all at one rate
WITHOUT_KEY = frozenset({OptimizerName.COLUMN_SGD})

# Peak learning rates, for tiny and the scales below. Of grassjump, grasswalk and adamw the best of
# a sweep by factors of 2 (3 for adamw) at 300 steps; of frugal the best of 0.001, 0.003 and 0.01,
# of apollo_mini, coap, column_sgd and online_subspace_descent the better of 0.003 and 0.01, at 100
# steps of 8 windows. Not tuned: muon (adamw's, as its updates have the size of adamw's), badam
# (Adam's default; it is made for fine-tuning), ldadam (its scripts' 0.001; 0.003 and 0.01 were as
# good) and the others (0.01, GaLore's).
LEARNING_RATES = {
    OptimizerName.GRASSJUMP: 5e-3,
    OptimizerName.GRASSWALK: 1e-2,
    OptimizerName.SUBTRACK: 1e-2,
    OptimizerName.SUBTRACK_GRAD: 1e-2,
    OptimizerName.GALORE: 1e-2,
    OptimizerName.GOLORE: 1e-2,
    OptimizerName.FIRA: 1e-2,
    OptimizerName.APOLLO: 1e-2,
    OptimizerName.APOLLO_MINI: 3e-3,
    OptimizerName.LDADAM: 1e-3,
    OptimizerName.FRUGAL: 3e-3,
    OptimizerName.BADAM: 1e-3,
    OptimizerName.ONLINE_SUBSPACE_DESCENT: 3e-3,
    OptimizerName.COAP: 3e-3,
    OptimizerName.SUMO: 1e-2,
    OptimizerName.COLUMN_SGD: 3e-3,
    OptimizerName.ADAMW: 3e-3,
    OptimizerName.MUON: 3e-3,
}
# Factor of the low-rank part; of the baselines, of the rate of the same weights.
SCALES = {
    OptimizerName.GRASSJUMP: 0.25,
    OptimizerName.GRASSWALK: 0.25,
    OptimizerName.SUBTRACK: 0.25,
    OptimizerName.SUBTRACK_GRAD: 0.25,
    OptimizerName.GALORE: 0.25,
    OptimizerName.GOLORE: 0.25,
    OptimizerName.FIRA: 0.25,
    OptimizerName.APOLLO: 1.0,
    OptimizerName.APOLLO_MINI: 128.0,
    OptimizerName.LDADAM: 1.0,
    OptimizerName.FRUGAL: 1.0,
    OptimizerName.BADAM: 1.0,
    OptimizerName.ONLINE_SUBSPACE_DESCENT: 1.0,
    OptimizerName.COAP: 1.0,
    OptimizerName.SUMO: 1.0,
    OptimizerName.COLUMN_SGD: 1.0,
    OptimizerName.ADAMW: 1.0,
    OptimizerName.MUON: 1.0,
}
# Steps between two subspaces; for badam, between two blocks. The others have none.
UPDATE_PROJ_GAPS = {
    OptimizerName.GRASSJUMP: 100,
    OptimizerName.GRASSWALK: 100,
    OptimizerName.SUBTRACK: 200,
    OptimizerName.SUBTRACK_GRAD: 200,
    OptimizerName.GALORE: 200,
    OptimizerName.GOLORE: 200,
    OptimizerName.FIRA: 200,
    OptimizerName.APOLLO: 200,
    OptimizerName.APOLLO_MINI: 200,
    OptimizerName.LDADAM: 1,
    OptimizerName.FRUGAL: 200,
    OptimizerName.BADAM: 100,
    OptimizerName.ONLINE_SUBSPACE_DESCENT: 200,
    OptimizerName.COAP: 32,
    OptimizerName.SUMO: 200,
}
NO_GAP = 100  # for those that have none, so that the flag has a value
