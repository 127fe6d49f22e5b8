"""Eight CPU devices for every test of this folder: a process of its own.

JAX fixes the number of devices when its backend starts, so these tests never run beside the others:
`pytest` alone leaves them out, and `pytest tests/mesh` runs these alone.
"""

import itertools
from pathlib import Path

import jax
import pytest

DEVICES = 8
ALONE = "Run them in a process of their own: pytest tests/mesh"

try:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
except RuntimeError as error:
    raise pytest.UsageError(f"tests/mesh needs {DEVICES} CPU devices, but JAX has already started. {ALONE}") from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            raise pytest.UsageError(f"{item.nodeid} would run on the {DEVICES} CPU devices of tests/mesh. {ALONE}")


def pytest_sessionstart() -> None:
    if jax.device_count() != DEVICES:
        raise pytest.UsageError(
            f"tests/mesh needs {DEVICES} CPU devices, but JAX has {jax.device_count()}. Remove "
            f"xla_force_host_platform_device_count from XLA_FLAGS. {ALONE}"
        )


finished = itertools.count(1)


@pytest.fixture(autouse=True)
def _forget_programs():
    """Forget all programs after every tenth test.

    A process may have 65530 memory mappings. A test here leaves some 800, and there are 156.
    """
    yield
    if next(finished) % 10 == 0:
        jax.clear_caches()
