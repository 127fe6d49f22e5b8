"""What a subspace is: a linear map that projects a gradient and lifts a direction.

====================  ============================  =========================  ================
basis                 S^T G and S D together        what it is made of         random one of it
====================  ============================  =========================  ================
an array, or `Dense`  4mnr operations               mr numbers                 Haar, Gaussian
`Blocks`              4mnr/a, a blocks              mr/a numbers               Haar in each block
`Columns`             gathers                       r + m integers             r axes
`Cosine`              4mnr                          r + m integers             r waves with signs
`Fold`                2mn sums and copies           nothing                    there is only one
====================  ============================  =========================  ================

Rules (`subspaces`) return them, and the split asks them no more than `Basis` lists.
"""

from grass_optax.bases.basis import Basis, BasisLike, as_basis
from grass_optax.bases.blocks import Blocks, number_of_blocks
from grass_optax.bases.columns import Columns
from grass_optax.bases.cosine import Cosine
from grass_optax.bases.dense import Dense
from grass_optax.bases.fold import Fold

__all__ = ["Basis", "BasisLike", "as_basis", "Dense", "Blocks", "Columns", "Cosine", "Fold", "number_of_blocks"]
