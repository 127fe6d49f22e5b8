"""A training step that updates each layer as soon as the backward pass has its gradient.

Shapes: L layers. x_l is the input of layer l, and dx the derivative of the loss by it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PyTree

from grass_optax._backward.apart import Apart
from grass_optax._backward.clipping import Clip, scaled, squares
from grass_optax._backward.layers import Stacks, layer_of, with_layer
from grass_optax._backward.passes import Forward, Index, backward, forward, layer_at
from grass_optax._backward.scanned import Batch, Params, ScannedLoss
from grass_optax._checks import positive
from grass_optax._inner.int8 import codes_of
from grass_optax._linalg.dtypes import wide


class BackwardReport(NamedTuple):
    """What a step of `update_in_backward` reports.

    Attributes:
      loss: the loss before the update, a scalar.
      grad_norm: the global norm of its gradient before any clipping, a scalar.
    """

    loss: Array
    grad_norm: Array


Step: TypeAlias = Callable[..., tuple[Params, optax.OptState, BackwardReport]]


def update_in_backward(
    loss: ScannedLoss,
    tx: optax.GradientTransformation,
    *,
    clip: Clip | None = None,
    keep_every: int = 1,
) -> Step:
    """Make a training step in which the gradient of the layers never exists as a whole.

    From the last layer to the first, each is computed again at its saved input, and its matrices
    are updated in place as soon as their gradients are there. What is not a matrix of a layer is
    updated at the end::

      for l = L - 1, ..., 0:   (G_l, dx) = vjp(block at (layer_l, x_l))(dx)
                               layer_l, state_l = tx(G_l)

    The parameters, the state and the results are those of the plain step: `tx.init(params)`, then
    `tx.update(jax.grad(loss)(params, batch), ...)`, up to rounding, if `tx` treats each matrix of a
    stack as if it were alone. All methods of this library do, but `badam`, whose state is that of
    one layer.

    Args:
      loss: the model and its loss.
      tx: any Optax transformation that updates each leaf from its own gradient. Adam, Lion and SGD
        do; a clip by the global norm does not: give `clip`. A norm of a leaf, as LARS and LAMB take
        it, is that of one layer.
      clip: how to clip gradients by their norm; None for no clipping.
      keep_every: the inputs of every `keep_every`-th layer are saved, a divisor of L. Those between
        are computed again, which takes a quarter more products in all and saves memory.

    Returns:
      A function of (params, state, batch) to (params, state, `BackwardReport`), to be compiled with
      the first two donated. A step whose loss is not finite changes neither; nor does one whose
      norm is not, as far as the clip needs to know it. A clip by the "previous" norm takes the
      `grad_norm` of the last report as a fourth argument, 0 at the first step; one that is not
      finite clips nothing.

    Raises:
      ValueError: an argument that cannot work, when built; parameters or a transformation that
        cannot be updated layer by layer, when traced.

    Examples:
      >>> loss = grass_optax.ScannedLoss(
      ...     embed=lambda w, batch: (batch @ w["in"], None),
      ...     block=lambda layer, x, _: x + jnp.tanh(x @ layer["kernel"]),
      ...     head=lambda w, x, batch: jnp.mean((x - batch) ** 2),
      ... )
      >>> params = {"in": jnp.eye(8), "layers": {"kernel": jnp.full((3, 8, 8), 0.1)}}
      >>> tx = optax.adam(0.01)
      >>> clip = grass_optax.Clip(max_norm=1.0, by="two_pass")
      >>> step = jax.jit(grass_optax.update_in_backward(loss, tx, clip=clip), donate_argnums=(0, 1))
      >>> state, batch = tx.init(params), jnp.ones((5, 8))
      >>> for _ in range(10):
      ...     params, state, report = step(params, state, batch)
      >>> bool(report.loss < 0.5)
      True

    References:
      Lv et al., `Full Parameter Fine-tuning for Large Language Models with Limited Resources
      <https://arxiv.org/abs/2306.09782>`_, 2023
    """
    keep_every = positive("keep_every", keep_every)

    def step(
        params: Params, state: optax.OptState, batch: Batch, previous_norm: Array | None = None
    ) -> tuple[Params, optax.OptState, BackwardReport]:
        if (previous_norm is None) == (clip is not None and clip.by == "previous"):
            raise ValueError(
                "the norm of the step before is the fourth argument of a step that clips by it, and of no other. Give "
                'the grad_norm of the last report with Clip(by="previous"), 0 at the first step.'
            )
        loss.parted(params)  # raises for parameters without layers
        apart = Apart.checked(tx, jax.eval_shape(lambda: params), loss.layers)
        saved = forward(loss, params, batch, keep_every)
        return _Update(loss, apart, clip, params, state).run(saved, previous_norm)

    return step


class _Carry(NamedTuple):
    """What goes from a layer to the one before it: the stacks, updated in place."""

    params: Stacks
    state: Stacks
    squares: Array  # of the gradients of the layers so far


@dataclasses.dataclass(frozen=True)
class _Update:
    """One step, over its parameters and state."""

    loss: ScannedLoss
    apart: Apart
    clip: Clip | None
    params: Params
    state: optax.OptState

    def run(self, saved: Forward, previous_norm: Array | None) -> tuple[Params, optax.OptState, BackwardReport]:
        """The step after the forward pass."""
        due, factor, norm = jnp.isfinite(saved.loss), None, None
        if self.clip is not None and self.clip.by == "two_pass":
            norm = self._global_norm(saved)
            due, saved = due & jnp.isfinite(norm), saved.times(self.clip.factor(norm))
        elif self.clip is not None and previous_norm is not None:
            # A step that changed nothing had a norm that was not finite.
            factor = self.clip.factor(jnp.where(jnp.isfinite(previous_norm), previous_norm, 0))

        def visit(i: Index, grads: Params, carry: _Carry) -> tuple[_Carry, Stacks]:
            total = carry.squares + squares(grads)
            return self._updated(due, _after(total, i), self._clipped(grads, factor), carry._replace(squares=total))

        carry, grads, vectors = backward(self.loss, saved, self._layer, visit, self._start())
        norm = jnp.sqrt(carry.squares + squares(grads)) if norm is None else norm
        params, state = self._others(due, self._clipped(grads, factor), vectors, carry)
        return params, state, BackwardReport(saved.loss, norm)

    def _start(self) -> _Carry:
        params = self.apart.params.stacks(self.params)
        zero = jnp.zeros((), wide(*(x.dtype for x in params if jnp.issubdtype(x.dtype, jnp.inexact))))
        return _Carry(params, self.apart.state.stacks(self.state), zero)

    def _layer(self, carry: _Carry, i: Index) -> Params:
        """The parameters of a layer."""
        return layer_at(self.loss.parted(self.apart.params.with_stacks(self.params, carry.params))[1], i)

    def _global_norm(self, saved: Forward) -> Array:
        def visit(i: Index, grads: Params, carry: _Carry) -> tuple[_Carry, None]:
            del i
            return carry._replace(squares=carry.squares + squares(grads)), None

        carry, grads, _ = backward(self.loss, saved, self._layer, visit, self._start())
        return jnp.sqrt(carry.squares + squares(grads))

    def _clipped(self, grads: Params, factor: Array | None) -> Params:
        if self.clip is not None and self.clip.by == "layer":
            factor = self.clip.factor(jnp.sqrt(squares(grads)))
        return scaled(grads, factor)

    def _updated(self, due: Array, i: Index, grads: Params, carry: _Carry) -> tuple[_Carry, Stacks]:
        """The stacks with another layer i, and the gradients of its vectors."""
        leaves = jax.tree.leaves(grads)
        matrices = [g[None] for g in leaves if g.ndim > 1]

        def update(stacks: tuple[Stacks, Stacks]) -> tuple[Stacks, Stacks]:
            updates, state = self.apart.of_layer(matrices, self.state, self.params, stacks, i)
            return applied(stacks[0], updates), state

        params, state = if_due(due, update, (layer_of(carry.params, i), layer_of(carry.state, i)))
        carry = carry._replace(params=with_layer(carry.params, i, params), state=with_layer(carry.state, i, state))
        return carry, [g for g in leaves if g.ndim <= 1]

    def _others(self, due: Array, grads: Params, vectors: Stacks, carry: _Carry) -> tuple[Params, optax.OptState]:
        """The parameters and the state in the end, of which the stacks are in `carry`."""
        of_vectors = iter(vectors)
        like = codes_of(self.params)
        _, layers = self.loss.parted(like)
        of_layers = jax.tree.map(lambda x: x if x.ndim > 2 else next(of_vectors), layers)
        grads = self.loss.joined(grads, of_layers, like)

        def update(others: tuple[Stacks, Stacks]) -> tuple[Stacks, Stacks]:
            params = self.apart.params.with_others(self.params, others[0])
            state = self.apart.state.with_others(self.state, others[1])
            updates, state = self.apart.of_others(grads, state, params)
            new = applied(others[0], self.apart.params.others(updates))
            return new, self.apart.state.others(state)

        now = self.apart.params.others(self.params), self.apart.state.others(self.state)
        params, state = if_due(due, update, now)
        return (
            self.apart.params.with_others(self.apart.params.with_stacks(self.params, carry.params), params),
            self.apart.state.with_others(self.apart.state.with_stacks(self.state, carry.state), state),
        )


def _after(total: Array, i: Index) -> Index:
    """The index of a layer, on a CPU not before the sum of its squared gradients is there.

    Where a slice waits for its index, XLA on a CPU has it no sooner than the gradients. A TPU's
    compiler has better orders of its own.
    """

    def wait(total: Array, i: Index) -> Index:
        return jnp.where(total < 0, 0, i)  # the sum is never negative

    return lax.platform_dependent(total, i, cpu=wait, default=lambda _, i: i)


def if_due(due: Array, update: Callable[[PyTree], PyTree], arrays: PyTree) -> PyTree:
    """Return `update(arrays)` if `due`, else the arrays, in place.

    A loop of at most one turn. XLA would fuse slices of a stack into all that reads them, old and
    new, and so copy whole stacks; the carry of a loop consists of arrays of their own.
    """

    def turn(carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        return jnp.zeros_like(due), update(carry[1])

    return lax.while_loop(lambda carry: carry[0], turn, (due, arrays))[1]


def applied(params: Stacks, updates: Stacks) -> Stacks:
    """The parameters with their updates, in their own types."""
    with jax.numpy_dtype_promotion("standard"):  # rounded weights of 16 bits have updates of 32
        new: Stacks = optax.apply_updates(params, updates)  # type: ignore[assignment]
    return new
