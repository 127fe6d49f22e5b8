"""GaLore, Fira and APOLLO against the codes that their authors published for PyTorch;
docs/reference/parity.md has the results.

Theirs hold a weight as (output, input), ours as (input, output): their gradient is our transpose,
and so is a basis that they multiply from the right. They divide moments that are not corrected for
their start at zero, with eps added to the uncorrected root, and put both corrections into the step
size, so that residual and limiter see uncorrected numbers. `as_published` and `published_adam` say
the same over the combinator.

Where they add 1e-8 to norms, ours add nothing: gradients here have entries of order one and more,
and `tolerances.PUBLISHED64` says what is left of that.
"""

import functools
import importlib
import importlib.util
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import grass_optax
from grass_optax import split_by_subspace, subspaces, transport
from grass_optax.residual import channel_scaling, recovery, tensor_scaling
from tests import tolerances
from tests.util import grads_like, injected

REASON = "parity with the published codes needs them: pip install '.[parity]', then what tests/published_codes.txt says"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("transformers", reason=REASON)


def published(package, module):
    """The optimizer of a package, without the package's __init__: it imports bitsandbytes for
    others, in 8 bits.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(REASON, allow_module_level=True)
    sys.modules.setdefault(package, importlib.util.module_from_spec(spec))
    return importlib.import_module(f"{package}.{module}").AdamW


GaLoreAdamW = published("galore_torch", "adamw")
FiraAdamW = published("fira", "fira_adamw")
APOLLOAdamW = published("apollo_torch", "apollo")

B1, B2, EPS, RATE = 0.9, 0.999, 1e-6, 0.01  # eps and betas are their defaults
LARGE_EPS = 1e-3  # large enough for most digits to show where it is added
RANK, GAP, STEPS = 4, 4, 12  # refreshes at t = 5 and 9
NEVER = 1000  # a gap with no refresh but the first
SHAPES = {"wide": (24, 40), "tall": (40, 20), "square": (32, 32)}  # (output, input); no two bases of one shape
DIFFERENT = 0.05  # what a control must exceed


def published_adam(eps=EPS, b1=B1, b2=B2):
    """N = M / (sqrt(V) + eps), and no bias corrections."""

    def init(params):
        return 2 * (jax.tree.map(jnp.zeros_like, params),)

    def update(updates, state, params=None):
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state[0])
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g**2, updates, state[1])
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), (mu, nu)

    return optax.GradientTransformation(init, update)


def as_published(direction):
    """The direction times their step size, lr sqrt(1 - b2^t) / (1 - b1^t)."""

    def step_size(count):
        correction1, correction2 = (-jnp.expm1(jnp.asarray(count + 1, float) * math.log(b)) for b in (B1, B2))
        return RATE * jnp.sqrt(correction2) / correction1

    return optax.chain(direction, optax.scale_by_schedule(step_size), optax.scale(-1.0))


def kernels(dtype):
    return {name: jnp.zeros(shape[::-1], dtype) for name, shape in SHAPES.items()}


@functools.cache
def gradients(dtype, t):
    """Gaussians around a fixed mean, stretched so that the leading singular values stand apart:
    where they do not, two SVDs in float32 find different vectors.
    """

    def stretched(grad):
        factors = jnp.maximum(8 - 1.5 * jnp.arange(min(grad.shape), dtype=dtype), 1)
        return grad * (factors[:, None] if grad.shape[0] <= grad.shape[1] else factors[None])

    return jax.device_get(jax.tree.map(stretched, grads_like(kernels(dtype), t)))


def theirs(optimizer, dtype, gap=GAP, eps=EPS, options=None, **group):
    """Updates and bases of each step in our orientation. The weights are put back to zero, so that
    no rounding of theirs hides in a step.
    """
    weights = {name: torch.nn.Parameter(torch.zeros(s, dtype=getattr(torch, dtype))) for name, s in SHAPES.items()}
    group = dict(params=list(weights.values()), update_proj_gap=gap, proj_type="std", **group)
    options = dict(no_deprecation_warning=True) | (options or {})
    optimizer = optimizer([group], lr=RATE, betas=(B1, B2), eps=eps, **options)
    updates, bases = [], []
    for t in range(STEPS):
        give(weights, gradients(dtype, t))
        for weight in weights.values():
            weight.data.zero_()
        optimizer.step()
        updates.append(as_kernels(weights))
        used = {name: optimizer.state[weight]["projector"].ortho_matrix.numpy() for name, weight in weights.items()}
        bases.append({name: b if b.shape[0] > b.shape[1] else b.T for name, b in used.items()})
    return updates, bases


def give(weights, grads):
    for name, grad in grads.items():
        weights[name].grad = torch.from_numpy(grad.T.copy())


def as_kernels(weights):
    return {name: weight.detach().numpy().T.copy() for name, weight in weights.items()}


def ours(tx, dtype):
    """Our updates of the same gradients."""
    params, updates = kernels(dtype), []
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(STEPS):
        step, state = update(gradients(dtype, t), state, params)
        updates.append(step)
    return updates


def with_their_bases(bases, *axes, rank=RANK, **options):
    """The combinator in the bases that theirs used, which are known by their shapes. Those of an
    SVD are orthonormal to float32 only, for theirs takes it of a float32 copy.
    """
    rules = {}
    for name, basis in bases[0].items():
        rules[basis.shape] = injected([jnp.asarray(b[name]) for b in bases[::GAP]], GAP)
    rule = subspaces.stateless_rule(lambda refresh: rules[refresh.basis.shape].update(refresh)[0], orthonormal=False)
    return split_by_subspace(rule, published_adam(LARGE_EPS), *axes, rank=rank, update_proj_gap=GAP, **options)


def difference(ours, theirs):
    """The largest difference of any step and matrix, relative to the largest entry of that step."""
    pairs = [(np.asarray(a[name]), b[name]) for a, b in zip(ours, theirs, strict=True) for name in SHAPES]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


def test_galore_in_their_bases_over_refreshes():
    with jax.enable_x64(True):
        updates, bases = theirs(GaLoreAdamW, "float64", eps=LARGE_EPS, rank=RANK, scale=0.25)
        direction = with_their_bases(bases, transport.keep(), None, scale=0.25)
        assert difference(ours(as_published(direction), "float64"), updates) < tolerances.ORACLE64
        forgetful = with_their_bases(bases, lambda state, _: jax.tree.map(jnp.zeros_like, state), None, scale=0.25)
        assert difference(ours(as_published(forgetful), "float64"), updates) > DIFFERENT


def test_galore_in_our_own_bases_until_the_first_refresh():
    """Signs of singular vectors do not matter until then."""
    updates, _ = theirs(GaLoreAdamW, "float32", gap=NEVER, rank=RANK, scale=0.25)
    direction = grass_optax.scale_by_galore(RANK, NEVER, inner=published_adam())
    assert difference(ours(as_published(direction), "float32"), updates) < tolerances.PUBLISHED32


def test_galore_as_it_is_called():
    """Without eps, bias corrections inside and outside are the same numbers."""
    updates, _ = theirs(GaLoreAdamW, "float32", gap=NEVER, eps=0.0, rank=RANK, scale=0.25)
    tx = grass_optax.galore(RATE, RANK, NEVER, eps=0.0)
    assert difference(ours(tx, "float32"), updates) < tolerances.PUBLISHED32


def test_weight_decay_is_theirs_after_the_step():
    """Theirs decays after the step, W <- (1 - lr wd) (W - step); Optax adds wd W to the step."""
    decay = 0.1
    params = jax.tree.map(jnp.ones_like, kernels("float32"))
    weights = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in SHAPES.items()}
    group = dict(params=list(weights.values()), rank=RANK, update_proj_gap=NEVER, scale=0.25, proj_type="std")
    optimizer = GaLoreAdamW([group], RATE, (B1, B2), EPS, weight_decay=decay, no_deprecation_warning=True)
    tx = as_published(grass_optax.scale_by_galore(RANK, NEVER, inner=published_adam()))
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(STEPS):
        give(weights, gradients("float32", t))
        optimizer.step()
        updates, state = update(gradients("float32", t), state)
        params = jax.tree.map(lambda p, u: (1 - RATE * decay) * (p + u), params, updates)
    assert difference([params], [as_kernels(weights)]) < tolerances.PUBLISHED32


def test_fira_in_their_bases_over_refreshes():
    with jax.enable_x64(True):
        updates, bases = {}, None
        for scale in (1.0, 0.25):
            updates[scale], bases = theirs(FiraAdamW, "float64", eps=LARGE_EPS, rank=RANK, alpha=scale)

        def differs_by(residual, scale):
            direction = with_their_bases(bases, transport.keep(), residual, scale=scale)
            return difference(ours(as_published(direction), "float64"), updates[scale])

        assert differs_by(recovery(), 1.0) < tolerances.PUBLISHED64
        assert differs_by(recovery(removed_fraction=0.25), 0.25) < tolerances.PUBLISHED64
        assert differs_by(recovery(), 0.25) > DIFFERENT  # the paper's residual
        assert differs_by(recovery(None, removed_fraction=0.25), 0.25) > DIFFERENT  # the limiter has work to do


@pytest.mark.parametrize(("scale", "residual"), [(1.0, "exact"), (0.25, "scaled")])
def test_fira_in_our_own_bases_until_the_first_refresh(scale, residual):
    updates, _ = theirs(FiraAdamW, "float32", gap=NEVER, rank=RANK, alpha=scale)
    direction = grass_optax.scale_by_fira(RANK, NEVER, scale=scale, residual=residual, inner=published_adam())
    assert difference(ours(as_published(direction), "float32"), updates) < tolerances.PUBLISHED32


@pytest.mark.parametrize(
    ("kind", "scale", "zeta"), [("channel", 1.0, 1.01), ("channel", 128.0, None), ("tensor", 128.0, 1.01)]
)
def test_apollo_in_their_projections_over_refreshes(kind, scale, zeta):
    """`scale_front` swaps two factors and changes no number, for the limiter knows ratios only."""
    rank, residual = dict(channel=(RANK, channel_scaling), tensor=(1, tensor_scaling))[kind]
    group = dict(rank=rank, scale=scale, scale_type=kind, proj="random")
    with jax.enable_x64(True):
        for scale_front in (False, True):
            options = dict(scale_front=scale_front, disable_nl=zeta is None)
            expected, bases = theirs(APOLLOAdamW, "float64", eps=LARGE_EPS, options=options, **group)
            if not scale_front:
                direction = with_their_bases(bases, transport.keep(), residual(zeta, scale), rank=rank, lift=False)
                updates = ours(as_published(direction), "float64")
            assert difference(updates, expected) < tolerances.PUBLISHED64


def test_what_apollo_is_compared_in_makes_a_difference():
    """Projections move at each refresh, the limiter limits, and the kinds are two."""

    def run(kind, **options):
        group = dict(rank=1, scale=1.0, scale_type=kind, proj="random")
        return theirs(APOLLOAdamW, "float64", eps=LARGE_EPS, options=options, **group)

    with jax.enable_x64(True):
        updates, bases = run("tensor")
        assert difference(bases[GAP : GAP + 1], bases[:1]) > DIFFERENT
        assert difference(run("tensor", disable_nl=True)[0], updates) > DIFFERENT
        assert difference(run("channel")[0], updates) > DIFFERENT
