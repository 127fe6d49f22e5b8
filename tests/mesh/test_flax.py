"""`nnx.Optimizer` on eight devices, with weights that say how they are sharded and with others."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

from grass_optax import memory_report
from tests.docs.test_readme import ROOT, code_blocks
from tests.mesh.harness import (
    RANK,
    SHAPES,
    VARIANTS,
    assert_near,
    frozen,
    mesh_of,
    on_one_device,
    specs,
    transformation,
)
from tests.util import METHODS, SPLIT, grads_like

LEAVES = tuple((leaf, SHAPES[leaf]) for leaf in ("stack", "bias"))
STEPS = 3
EVERY = [*VARIANTS, *((name, {}) for name in METHODS if name not in SPLIT)]
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


class Weights(nnx.Module):
    """Zeros that are sharded, and say so in their metadata or not."""

    def __init__(self, shardings, annotated):
        for leaf, shape in LEAVES:
            metadata = {"out_sharding": tuple(shardings[leaf].spec)} if annotated else {}
            setattr(self, leaf, nnx.Param(jax.device_put(jnp.zeros(shape), shardings[leaf]), **metadata))


def case(name, options, kind, annotated):
    label = "-".join([name, *map(str, options.values()), kind.name, "annotated" if annotated else "bare"])
    # What the default suite compiles; the rest is marked long.
    is_short = (name, options, kind, annotated) == ("badam", {}, AUTO, True)
    return pytest.param(name, frozen(options), kind, annotated, id=label, marks=[] if is_short else [pytest.mark.long])


@pytest.mark.parametrize(
    ("name", "options", "kind", "annotated"),
    [
        case(name, options, kind, annotated)
        for name, options in EVERY
        for kind, annotated in ((AUTO, True), (AUTO, False), (EXPLICIT, True))
        if kind == AUTO or name in SPLIT  # the others run on Auto axes alone
    ],
)
def test_an_nnx_optimizer_on_a_mesh_has_the_updates_of_one_device(name, options, kind, annotated):
    mesh = mesh_of("4x2", kind)
    shardings = {leaf: NamedSharding(mesh, specs(mesh)[leaf]) for leaf, _ in LEAVES}
    expected, _ = on_one_device(name, options, LEAVES)
    with jax.set_mesh(mesh):
        model = Weights(shardings, annotated)
        optimizer = nnx.Optimizer(model, transformation(name, options, RANK), wrt=nnx.Param)
        step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
        zeros = {leaf: jnp.zeros(shape) for leaf, shape in LEAVES}
        for t in range(STEPS):
            grads = jax.device_put(grads_like(zeros, t), shardings)
            updates = step(model, optimizer, nnx.State({leaf: nnx.Param(grad) for leaf, grad in grads.items()}))
            # What is rounded to the other neighbour is far from near, and so are float32's roots
            # near zero.
            if "nu_dtype" not in dict(options) and name != "gwt":
                assert_near(dict(updates), expected[t])


def test_the_page_on_nnx_runs_on_eight_devices(capsys):
    """Attention kernels are split, and what `state_shardings` shards is sharded after an update."""
    namespace = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in code_blocks((ROOT / "docs" / "guides" / "nnx.md").read_text(), "python"):
            exec(block, namespace)
    assert namespace["losses"][-1] < 0.5 * namespace["losses"][0]
    report = memory_report(namespace["tx"], nnx.state(namespace["Model"](nnx.Rngs(0)), nnx.Param))
    kernels = [leaf for leaf in report.leaves if leaf.path.endswith("kernel")]
    assert len(kernels) == 5
    assert all(leaf.state_bytes < leaf.adam_bytes / 2 for leaf in kernels)
    state = nnx.as_pure(namespace["optimizer"].opt_state)
    arrays = zip(jax.tree.leaves(state), jax.tree.leaves(namespace["shardings"]), strict=True)
    sharded = [(x, place) for x, place in arrays if any(place.spec)]
    assert [x.shape for x, _ in sharded] == [(64, 16), (16, 64), (16, 64)]
    assert all(x.sharding.is_equivalent_to(place, x.ndim) for x, place in sharded)
    assert capsys.readouterr().out.endswith("P('fsdp',)\n")
