"""Which program computes attention: cuDNN's flash attention where it can, else XLA's."""

import dataclasses
from typing import TypeVar

import jax

from models import EncoderConfig, LlamaConfig
from models.blocks import Kernel
from train.config.run import AttentionName, UserError
from train.program.task import Network

AnyNetwork = TypeVar("AnyNetwork", bound=LlamaConfig | EncoderConfig)
HALVES = ("bfloat16", "float16")
AMPERE, HOPPER = (8, 0), (9, 0)  # compute capabilities


def with_attention(network: AnyNetwork, choice: AttentionName, device: jax.Device, seq_len: int) -> AnyNetwork:
    """Return the network with the attention that `choice` means on a device.

    Args:
      network: The network.
      choice: The flag.
      device: One of the devices, which are all alike.
      seq_len: Tokens per row.

    Raises:
      UserError: If cuDNN is required and cannot do it; it says why.
    """
    reason = why_not_cudnn(network, device, seq_len)
    if choice == "cudnn" and reason:
        raise UserError(f"--attention cudnn cannot be used: {reason}. Leave it out, and XLA's is taken.")
    kernel: Kernel = "xla" if choice == "xla" or reason else "cudnn"
    return dataclasses.replace(network, attention=kernel)


def why_not_cudnn(network: Network, device: jax.Device, seq_len: int) -> str | None:
    """Return why cuDNN has no flash attention for a network on a device; None if it has."""
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind.upper():
        return f"it needs an NVIDIA GPU, and the device is {device.device_kind}"
    capability = tuple(int(part) for part in str(device.compute_capability).split("."))
    if capability < AMPERE:
        return f"it needs compute capability 8.0, and {device.device_kind} has {device.compute_capability}"
    if network.dtype not in HALVES:
        return f"it computes in {' or '.join(HALVES)}, and --precision has products in {network.dtype}"
    largest = 256 if capability >= HOPPER else 128
    if network.head_dim % 8 or network.head_dim > largest:
        return f"it needs heads of a multiple of 8 and at most {largest} features, and the model has {network.head_dim}"
    if seq_len % 2:
        return f"it needs rows of an even number of tokens, and --seq-len is {seq_len}"
    return None
