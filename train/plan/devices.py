"""The devices of a plan: simulated CPUs, TPUs that are not present, or GPUs that are."""

import re
from collections.abc import Sequence

import jax

from train.config.run import UserError
from train.plan.config import PlanFlags
from train.system.devices import host_devices

LARGEST_HOST = (2, 2, 1)  # chips of one host along each axis, libtpu's default


def planned_devices(flags: PlanFlags, count: int) -> Sequence[jax.Device]:
    """Return `count` devices to compile for. Must be called before a JAX backend is initialised.

    Raises:
      UserError: If there are none of the kind that the flags ask for.
    """
    if flags.topology and flags.device != "cpu":
        raise UserError(f"--device {flags.device} and --topology {flags.topology} are two targets: leave one out.")
    if flags.topology:
        return tpu_devices(flags.topology, count)
    return gpu_devices(count) if flags.device == "cuda" else host_devices(count)


def gpu_devices(count: int) -> Sequence[jax.Device]:
    """Return GPUs of this machine."""
    try:
        devices: Sequence[jax.Device] = jax.devices("cuda")
    except RuntimeError:
        raise UserError(
            "--device cuda needs an NVIDIA GPU in this machine and JAX's CUDA plugin, and JAX finds none: it cannot "
            "compile for a GPU that is not present. Leave --device out to plan with simulated CPU devices."
        ) from None
    if len(devices) < count:
        raise UserError(f"--device cuda has {len(devices)} GPUs, but the plan is for {count}: choose a smaller mesh.")
    return devices[:count]


def tpu_devices(topology: str, count: int) -> Sequence[jax.Device]:
    """Return the devices of a TPU topology that is not present."""
    from jax.experimental import topologies  # experimental, and not needed for other devices

    jax.config.update("jax_platforms", "cpu")  # or JAX looks for a TPU in this machine
    bounds = host_bounds(topology)
    options = {} if bounds is None else {"chips_per_host_bounds": bounds}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
        devices: Sequence[jax.Device] = description.devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {topology} does not work: {_explained(str(error))}") from None
    except RuntimeError:  # raised by JAX itself, before there is a backend
        raise UserError(
            f"--topology {topology} requires the TPU compiler of the package libtpu, which JAX cannot find: "
            "pip install 'jax[tpu]', or leave --topology out to plan with simulated CPU devices."
        ) from None
    if len(devices) != count:
        raise UserError(
            f"--topology {topology} has {len(devices)} devices, but the plan is for {count}: make the two numbers "
            "equal, by --mesh."
        )
    return devices


def host_bounds(topology: str) -> list[int] | None:
    """Return the chips of a host along three axes, at most 2 x 2, so that hosts divide them all.

    libtpu assumes 2 x 2 and refuses what that does not divide, such as a single chip. None is
    returned for a name that is no generation and chips, which libtpu refuses with its own reason.
    """
    match = re.fullmatch(r"[^:=]+[:=](\d+(?:x\d+){1,2})", topology)
    if match is None:
        return None
    chips = [*map(int, match[1].split("x")), 1][:3]
    return [most if size % most == 0 else 1 for size, most in zip(chips, LARGEST_HOST, strict=True)]


def _explained(error: str) -> str:
    if error.startswith("INVALID_ARGUMENT"):
        return f"libtpu rejects it ({error}). Give a generation and its chips, for example v5e:8x8 or v5p:4x4x4."
    return (
        f"libtpu does not start ({error}). It serves one process of a machine at a time: wait for the other one, or "
        "set ALLOW_MULTIPLE_LIBTPU_LOAD=true, which is safe because nothing is run."
    )
