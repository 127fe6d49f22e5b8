"""What a step knows of a mesh, on meshes without devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from grass_optax._trees.mesh import is_mesh_free, whole_along, with_auto_axes


def on(axis_type, devices=8, spec=("x",)):
    mesh = AbstractMesh((devices,), ("x",), axis_types=(axis_type,))
    return jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


@pytest.mark.parametrize(("devices", "is_free"), [(1, True), (8, False)])
def test_a_mesh_of_one_device_is_none(devices, is_free):
    found = []
    jax.eval_shape(lambda x: found.append(is_mesh_free(x)), on(AxisType.Explicit, devices))
    assert found == [is_free]
    assert is_mesh_free(jnp.ones(3))


def gram(x):
    return x.T @ x


def test_a_function_without_explicit_axes_around_it_is_left_as_it_is():
    assert with_auto_axes(gram, jnp.ones((2, 2))) is gram
    found = []
    jax.eval_shape(lambda x: found.append(with_auto_axes(gram, x)), on(AxisType.Auto))
    assert found == [gram]


def test_a_product_over_a_sharded_axis_needs_auto_axes_on_an_explicit_mesh():
    x, like = on(AxisType.Explicit), on(AxisType.Explicit, spec=())
    with jax.sharding.use_abstract_mesh(x.sharding.mesh):
        with pytest.raises(Exception, match="[Ss]hard"):
            jax.eval_shape(gram, x)
        out = jax.eval_shape(lambda x, like: with_auto_axes(gram, like[:4])(x), x, like)
    assert out.shape == (4, 4)
    assert out.sharding.spec == PartitionSpec(None, None)


def test_an_array_is_constrained_on_auto_meshes_alone():
    x = jnp.ones((16, 4))
    assert whole_along(x, (-1,), x) is x

    def constraints(axis_type):
        shape = on(axis_type)
        with jax.sharding.use_abstract_mesh(shape.sharding.mesh):
            program = jax.make_jaxpr(lambda a: whole_along(a, (-1,), a))(shape)
        return str(program).count("sharding_constraint")

    assert constraints(AxisType.Auto) == 1
    assert constraints(AxisType.Explicit) == 0
