"""The devices of a plan, and why there may be none."""

from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jax.experimental import topologies

from train.config.run import UserError
from train.plan.devices import gpu_devices, host_bounds, tpu_devices


def fake_topologies(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def description(platform: str, topology_name: str, chips_per_host_bounds: list[int]) -> Any:
        assert (platform, chips_per_host_bounds) == ("tpu", [2, 2, 1])
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(devices=[None] * answer)

    monkeypatch.setattr(topologies, "get_topology_desc", description)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (4, "--topology v5e:2x4 has 4 devices, but the plan is for 8: make the two numbers equal, by --mesh"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such"), "libtpu rejects it .* Give a generation"),
        (jax.errors.JaxRuntimeError("ABORTED: a lock"), "serves one process of a machine at a time"),
        (RuntimeError("not installed"), "pip install 'jax\\[tpu\\]'"),
    ],
)
def test_an_impossible_topology_is_reported(monkeypatch: pytest.MonkeyPatch, answer: Any, message: str) -> None:
    fake_topologies(monkeypatch, answer)
    with pytest.raises(UserError, match=message):
        tpu_devices("v5e:2x4", 8)


@pytest.mark.parametrize(
    ("topology", "bounds"),
    [
        ("v6e:1x1", [1, 1, 1]),
        ("v5p:1x1x1", [1, 1, 1]),
        ("v5e:1x2", [1, 2, 1]),
        ("v5e:8x8", [2, 2, 1]),
        ("v5p:4x4x4", [2, 2, 1]),
        ("v4", None),
        ("v4:many", None),
    ],
)
def test_hosts_divide_a_topology(topology: str, bounds: list[int] | None) -> None:
    assert host_bounds(topology) == bounds


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (RuntimeError("no backend"), "--device cuda needs an NVIDIA GPU in this machine"),
        ([object()], "--device cuda has 1 GPUs, but the plan is for 2"),
    ],
)
def test_gpus_that_are_not_there_are_reported(monkeypatch: pytest.MonkeyPatch, devices: Any, message: str) -> None:
    def found(platform: str) -> Any:
        assert platform == "cuda"
        if isinstance(devices, Exception):
            raise devices
        return devices

    monkeypatch.setattr(jax, "devices", found)
    with pytest.raises(UserError, match=message):
        gpu_devices(2)
