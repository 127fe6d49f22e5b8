"""How a transformation is run on one layer alone, and which transformations allow it."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from grass_optax._backward.dependence import dependences
from grass_optax._backward.layers import Stacked, Stacks, resized
from grass_optax._inner.int8 import codes_of, from_int8, is_int8
from grass_optax._trees.keys import part_of_stacks
from grass_optax._trees.paths import leaf_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Apart:
    """A transformation that updates the matrices of one layer, or everything else, at a time.

    Either way it is given the whole tree. What is not asked for has gradients of 0, and its update
    is not computed, as nothing reads it.

    Attributes:
      tx: the transformation.
      params: which parameters are stacks, codes and scales of `Int8` included.
      grads: which gradients are.
      state: which arrays of its state are stacks.
    """

    tx: optax.GradientTransformationExtraArgs
    params: Stacked
    grads: Stacked
    state: Stacked

    @classmethod
    def checked(cls, tx: optax.GradientTransformation, params: PyTree, layers: str) -> Self:
        """The transformation for parameters, or their shapes.

        The stacks are the leaves below `layers` with three axes or more. Vectors of layers belong
        to everything else: they are small, and a state in 8 bits has blocks across them.

        Raises:
          ValueError: a matrix of a layer cannot be updated without the gradients of others.
        """
        is_stack = tuple(_is_matrix_of_layer(path, x, layers) for path, x in jax.tree.leaves_with_path(params))
        if True not in is_stack:
            raise ValueError(
                f"no parameter of {layers!r} is a stack of matrices (layers, m, n), so there is nothing to update "
                "layer by layer. Stack the kernels of the layers along a first axis."
            )
        count = jax.tree.leaves(params)[is_stack.index(True)].shape[0]
        one, same, more = (resized(params, is_stack, n) for n in (1, count, count + 1))
        tx = optax.with_extra_args_support(tx)
        of_same, of_one, of_more = (jax.eval_shape(tx.init, tree) for tree in (same, one, more))
        self = cls(
            tx=tx,
            params=Stacked.of(same, one, more, count, "parameter"),
            grads=Stacked.of(codes_of(same), codes_of(one), codes_of(more), count, "parameter"),
            state=Stacked.of(of_same, of_one, of_more, count, "the state"),
        )
        self._require_apart(one, of_one)
        return self

    def of_layer(
        self, grads: Stacks, state: PyTree, params: PyTree, stacks: tuple[Stacks, Stacks], i: Int[Array, ""]
    ) -> tuple[Stacks, Stacks]:
        """The updates of the matrices of layer i, and their new state.

        Args:
          grads: their gradients, as stacks of one.
          state: of all layers.
          params: of all layers.
          stacks: the matrices and their state, as stacks of one.
          i: the index of the layer.
        """
        of_params, of_state = stacks
        one = self.params.with_stacks(params, of_params, single=True)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(from_int8, one))
        with part_of_stacks(i):
            updates, new = self.tx.update(
                self.grads.with_stacks(zeros, grads, single=True),
                self.state.with_stacks(state, of_state, single=True),
                one,
            )
        return self.params.stacks(updates), self.state.stacks(new)

    def of_others(self, grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        """The updates of everything else, and the new state, with the stacks of the old one.

        The stacks of `grads` are not read; their updates are nothing.
        """
        of_state = self.state.stacks(state)
        updates, new = self.tx.update(
            self.grads.with_stacks(grads, _zeros(self.grads.stacks(grads)), single=True),
            self.state.with_stacks(state, _zeros(of_state), single=True),
            self.params.with_stacks(params, _zeros(self.params.stacks(params)), single=True),
        )
        return updates, self.state.with_stacks(new, of_state)

    def _require_apart(self, params: PyTree, state: PyTree) -> None:
        """Raise a ValueError unless each matrix of a layer is updated from its own gradient alone,
        and everything else without the gradients of matrices of layers.
        """
        numbers = dependences(self.tx.update, jax.eval_shape(from_int8, params), state, params)
        paths = [leaf_path(path) for path, _ in jax.tree.leaves_with_path(params, is_leaf=is_int8)]
        names = [leaf_path(path) for path, _ in jax.tree.leaves_with_path((params, state))]
        own = _places(params)
        of_layers = {i for i, is_stack in enumerate(self.grads.is_stack) if is_stack}
        for place, read in enumerate(numbers):
            gradients = read & frozenset(range(len(paths)))
            stacks = gradients & of_layers
            if (*self.params.is_stack, *self.state.is_stack)[place]:
                surplus = gradients - ({own[place]} if place < len(own) else stacks if len(stacks) == 1 else set())
            else:
                surplus = stacks
            if surplus:
                name = names[place].partition("/")[2]
                what = f"the update of {paths[own[place]]!r}" if place < len(own) else f"the state {name!r}"
                raise ValueError(
                    f"{what} depends on the gradient of {paths[min(surplus)]!r}, so the layers cannot be updated one "
                    "after the other. Leave out what looks at the whole tree, such as optax.clip_by_global_norm (give "
                    "`clip` instead) or optax.apply_if_finite, or update after the backward pass."
                )


def _is_matrix_of_layer(path: tuple[Any, ...], x: Any, layers: str) -> bool:
    return leaf_path(path[:1]) == layers and len(x.shape) > 2


def _places(params: PyTree) -> list[int]:
    """For each array that is stored, the place of its gradient among all gradients."""
    nodes = jax.tree.leaves(params, is_leaf=is_int8)
    return [i for i, node in enumerate(nodes) for _ in jax.tree.leaves(node)]


def _zeros(stacks: Stacks) -> Stacks:
    """Zeros as stacks of one."""
    return [jnp.zeros((1, *x.shape[1:]), x.dtype) for x in stacks]
