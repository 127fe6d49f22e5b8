"""MFU: operations per token by hand, and peaks by JAX's names of devices."""

import dataclasses
from types import SimpleNamespace

import pytest

from models import CONFIGS, ENCODERS, LlamaConfig
from train.program.speed import flops_per_token, mfu, peak_of
from train.program.task import Network, abstract_params

SMALL = LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=3)
BLOCK = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16  # and two norms
ENCODER = dataclasses.replace(
    ENCODERS["minilm"], vocab_size=11, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=3
)
ENCODER_BLOCK = 4 * (16 * 16 + 16) + 2 * 16 * 24 + 24 + 16 + 4 * 16


@pytest.mark.parametrize(
    ("network", "multiplied"),
    [
        (SMALL, 3 * BLOCK + 16 + 11 * 16),  # the last norm, the head
        (dataclasses.replace(SMALL, tied_head=True), 3 * BLOCK + 16 + 11 * 16),
        (ENCODER, 3 * ENCODER_BLOCK + 2 * 16),  # the norm of the embeddings
    ],
)
def test_operations_per_token_by_hand(network: Network, multiplied: int) -> None:
    params = abstract_params(network)
    assert flops_per_token(network, params, 8) == 6 * multiplied + 12 * 3 * 16 * 8


def test_a_7b_model_needs_six_operations_a_parameter_and_a_few_for_attention() -> None:
    network = CONFIGS["7b"]
    assert 40e9 < flops_per_token(network, abstract_params(network), 2048) < 44e9


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_peaks_are_those_of_the_devices(kind: str, peak: float | None) -> None:
    assert peak_of(kind) == peak


def test_utilisation_is_of_all_devices() -> None:
    device = SimpleNamespace(device_kind="TPU v4")
    assert mfu(1000.0, 275e9, [device]) == 1.0
    assert mfu(1000.0, 275e9, [device] * 4) == 0.25
    assert mfu(1000.0, 275e9, [SimpleNamespace(device_kind="cpu")]) is None
