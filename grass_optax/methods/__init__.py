"""The published methods, one file each.

A method is an answer to three questions: where the subspace goes (a rule), what the moments become
when it moves (a transport), and what becomes of the gradient outside it (a residual). The body of
`scale_by_<method>` is that answer: one call of `assemble`, which makes the direction U of the
update. `<method>` adds weight decay, learning rates and the sign with `with_rates`, as
`optax.adamw` does for `optax.scale_by_adam`. `badam`, `column_sgd`, `racs`, `sinkgd` and the blocks
of `frugal` use no subspace.

Read `_grassjump.py` first, then `split_by_subspace`, which runs the step.
"""

from grass_optax.methods._alice import alice, scale_by_alice
from grass_optax.methods._apollo import apollo, scale_by_apollo
from grass_optax.methods._apollo_mini import apollo_mini, scale_by_apollo_mini
from grass_optax.methods._badam import badam, scale_by_badam
from grass_optax.methods._coap import coap, scale_by_coap
from grass_optax.methods._column_sgd import column_sgd, scale_by_column_sgd
from grass_optax.methods._common import assemble, with_rates
from grass_optax.methods._fira import fira, scale_by_fira
from grass_optax.methods._foam import foam, scale_by_foam
from grass_optax.methods._frugal import frugal, scale_by_frugal
from grass_optax.methods._galore import galore, scale_by_galore
from grass_optax.methods._golore import golore, scale_by_golore
from grass_optax.methods._grassjump import grassjump, scale_by_grassjump
from grass_optax.methods._grasswalk import grasswalk, scale_by_grasswalk
from grass_optax.methods._gwt import gwt, scale_by_gwt
from grass_optax.methods._ldadam import ldadam, scale_by_ldadam
from grass_optax.methods._online_descent import online_subspace_descent, scale_by_online_subspace_descent
from grass_optax.methods._racs import racs, scale_by_racs
from grass_optax.methods._sinkgd import scale_by_sinkgd, sinkgd
from grass_optax.methods._subtrack import scale_by_subtrack, subtrack
from grass_optax.methods._subtrack_grad import scale_by_subtrack_grad, subtrack_grad
from grass_optax.methods._sumo import scale_by_sumo, sumo

__all__ = [  # in reading order
    "grassjump",
    "grasswalk",
    "subtrack",
    "subtrack_grad",
    "galore",
    "golore",
    "fira",
    "apollo",
    "apollo_mini",
    "ldadam",
    "frugal",
    "foam",
    "gwt",
    "online_subspace_descent",
    "alice",
    "coap",
    "sumo",
    "badam",
    "column_sgd",
    "racs",
    "sinkgd",
    "scale_by_grassjump",
    "scale_by_grasswalk",
    "scale_by_subtrack",
    "scale_by_subtrack_grad",
    "scale_by_galore",
    "scale_by_golore",
    "scale_by_fira",
    "scale_by_apollo",
    "scale_by_apollo_mini",
    "scale_by_ldadam",
    "scale_by_frugal",
    "scale_by_foam",
    "scale_by_gwt",
    "scale_by_online_subspace_descent",
    "scale_by_alice",
    "scale_by_coap",
    "scale_by_sumo",
    "scale_by_badam",
    "scale_by_column_sgd",
    "scale_by_racs",
    "scale_by_sinkgd",
    "assemble",
    "with_rates",
]
