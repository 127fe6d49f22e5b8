"""Attention by cuDNN where it can be used, by XLA elsewhere, and the reason."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from models import CONFIGS
from models.encoder_config import ENCODERS
from train.config.run import UserError
from train.program.attention import with_attention

NETWORK = dataclasses.replace(CONFIGS["1b"], dtype="bfloat16")
H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0")
A100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100-SXM4-40GB", compute_capability="8.0")
T4 = SimpleNamespace(platform="gpu", device_kind="NVIDIA Tesla T4", compute_capability="7.5")
MI300 = SimpleNamespace(platform="gpu", device_kind="AMD Instinct MI300X", compute_capability="9.4")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5p")
WIDE = dataclasses.replace(NETWORK, num_heads=8)  # heads of 256 features


@pytest.mark.parametrize(
    ("network", "device", "seq_len", "reason"),
    [
        (NETWORK, H100, 256, None),
        (NETWORK, A100, 256, None),
        (WIDE, H100, 256, None),
        (dataclasses.replace(ENCODERS["minilm"], dtype="float16"), H100, 128, None),
        (NETWORK, T4, 256, "it needs compute capability 8.0, and NVIDIA Tesla T4 has 7.5"),
        (NETWORK, MI300, 256, "it needs an NVIDIA GPU, and the device is AMD Instinct MI300X"),
        (NETWORK, TPU, 256, "it needs an NVIDIA GPU, and the device is TPU v5p"),
        (NETWORK, jax.devices()[0], 256, "it needs an NVIDIA GPU, and the device is cpu"),
        (CONFIGS["1b"], H100, 256, "it computes in bfloat16 or float16, and --precision has products in float32"),
        (WIDE, A100, 256, "heads of a multiple of 8 and at most 128 features, and the model has 256"),
        (dataclasses.replace(NETWORK, num_heads=1024), H100, 256, "and the model has 2"),
        (NETWORK, H100, 255, "it needs rows of an even number of tokens, and --seq-len is 255"),
    ],
)
def test_auto_takes_what_works_and_cudnn_says_why_not(network, device, seq_len, reason) -> None:  # type: ignore[no-untyped-def]
    assert with_attention(network, "xla", device, seq_len).attention == "xla"
    if reason is None:
        assert with_attention(network, "auto", device, seq_len).attention == "cudnn"
        assert with_attention(network, "cudnn", device, seq_len).attention == "cudnn"
        return
    assert with_attention(network, "auto", device, seq_len).attention == "xla"
    with pytest.raises(UserError, match="--attention cudnn cannot be used: ") as error:
        with_attention(network, "cudnn", device, seq_len)
    assert reason in str(error.value)
