"""How much of what the devices can do a run uses: model FLOPs utilisation (MFU)."""

from typing import Any

import jax

from models import EncoderConfig
from train.program.task import Network, Params

# The peak in dense bfloat16 FLOP/s by a part of JAX's name of a device, the first that fits.
# NVIDIA: datasheets of A100 (2021), H100 (2023; SXM, PCIe and NVL), H200 (2024) and B200 (2025), of
# which those from the H100 on print twice as much, with sparsity.
# TPU: cloud.google.com/tpu/docs, pages of v4, v5e, v5p and v6e; JAX calls v5e "TPU v5 lite".
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
# GPUs whose names are parts of other names (an L4 is no L40), by JAX's whole name. Products of
# bfloat16 accumulated in float32, without sparsity, as NVIDIA states them; A10G's as clouds do.
WHOLE_NAMES = {
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362.05e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A10G": 70e12,
}
TABLES = ("embed", "positions", "types")  # looked up, not multiplied


def peak_of(device_kind: str) -> float | None:
    """Return the peak of a device in bfloat16 FLOP/s; None if it is not known."""
    parts = (peak for name, peak in PEAKS.items() if name.lower() in device_kind.lower())
    return WHOLE_NAMES.get(device_kind) or next(parts, None)


def flops_per_token(network: Network, params: Params, seq_len: int) -> float:
    """Return the floating-point operations that training on a token needs, forward and backward:

        6 N + 12 L D T

    as in appendix B of PaLM (Chowdhery et al. 2022), with N the parameters that are multiplied: all
    but tables that are only looked up, so a tied embedding counts once, as the head. Attention is
    counted without its mask. What is recomputed does not count.

    Args:
      network: The network, of L layers and D features.
      params: Its parameters, or their shapes.
      seq_len: T, tokens per row.
    """
    is_tied = not isinstance(network, EncoderConfig) and network.tied_head
    multiplied = {name: tree for name, tree in params.items() if name not in TABLES or (name == "embed" and is_tied)}
    count = sum(x.size for x in jax.tree.leaves(multiplied))
    return 6.0 * count + 12.0 * network.num_layers * network.hidden_size * seq_len


def mfu(tokens_per_second: float, flops_per_token: float, devices: Any) -> float | None:
    """Return the part of the peak of the devices, which are alike, that the model needs; None where
    the peak is not known.
    """
    peak = peak_of(devices[0].device_kind)
    return None if peak is None else tokens_per_second * flops_per_token / (peak * len(devices))
