"""The configuration of a model: shapes and dtypes, independent of training.

`TransformerConfig` is what the architectures share, `LlamaConfig` is a decoder, and `CONFIGS` has
the sizes used in the low-rank training papers. Configurations are validated on construction.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = ("xla", "cudnn")
Remat = Literal["none", "block", "dots"]


def check_sizes(**sizes: Any) -> None:
    """Raise ValueError unless each is a positive int."""
    for name, size in sizes.items():
        if not (isinstance(size, int) and size > 0):
            raise ValueError(f"{name} must be a positive int, got {size!r}.")


def check_positive(**values: float) -> None:
    """Raise ValueError unless each is positive."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What the configurations of all architectures share."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    init_std: float = 0.02
    dtype: str = "float32"  # of matrix products and the residual stream
    param_dtype: str = "float32"
    attention: Literal["xla", "cudnn"] = "xla"  # cudnn: flash attention of NVIDIA GPUs, for 16-bit types
    remat: Remat = "none"  # what the backward pass computes again: see `models.blocks.rematerialized`

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_layers")
        check_sizes(**{name: getattr(self, name) for name in sizes})
        check_positive(init_std=self.init_std)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}; "
                "choose a hidden_size that is a multiple of num_heads."
            )
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("param_dtype", self.param_dtype, DTYPES)
        check_choice("attention", self.attention, ATTENTION)
        check_choice("remat", self.remat, get_args(Remat))

    @property
    def head_dim(self) -> int:
        """Features per head."""
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Slower rotations than those of pretraining, for longer texts.

    Attributes:
      kind: "linear" divides all frequencies by `factor`. "llama3" divides those that turn less than
        `low_freq_factor` times within the original positions, keeps those that turn more than
        `high_freq_factor` times, and blends between.
      factor: At least 1.
      low_freq_factor, high_freq_factor, original_positions: Of "llama3".
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"the kind of rope scaling must be linear or llama3, got {self.kind!r}.")
        if not self.factor >= 1:
            raise ValueError(f"the factor of rope scaling must be at least 1, got {self.factor!r}.")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                "the low_freq_factor of rope scaling must be positive and below its high_freq_factor, got "
                f"{self.low_freq_factor!r} and {self.high_freq_factor!r}."
            )
        check_sizes(original_positions=self.original_positions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(TransformerConfig):
    """A LLaMA: pre-norm RMSNorm, rotary positions, SwiGLU. With `qkv_bias`, a Qwen2."""

    vocab_size: int = 32_000
    num_kv_heads: int | None = None  # None: num_heads (no grouped queries)
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    tied_head: bool = False  # the embedding is the output head, too

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(num_kv_heads=self.kv_heads)
        check_positive(rms_norm_eps=self.rms_norm_eps, rope_theta=self.rope_theta)
        if self.head_dim % 2:
            raise ValueError(
                f"hidden_size / num_heads = {self.head_dim} is odd, but rotary positions need "
                "pairs of features; choose sizes with an even quotient."
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not divisible by num_kv_heads={self.kv_heads}; "
                "choose a num_kv_heads that divides num_heads."
            )

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, with the default resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


def _config(
    hidden: int, intermediate: int, heads: int, layers: int, vocab: int = 32_000, kv_heads: int | None = None
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_layers=layers,
        num_kv_heads=kv_heads,
    )


# 9m to 7b are the configurations released with GaLore (Zhao et al. 2024); tables in papers swap the
# heads and the layers of 1b. tiny is 9m with a smaller vocabulary, for a minute on two CPU cores.
# 70b is LLaMA 2's (Touvron et al. 2023), for plans. qwen2-1.5b is Qwen2's (Yang et al. 2024).
CONFIGS: dict[str, LlamaConfig] = {
    "tiny": _config(128, 352, heads=4, layers=4, vocab=2048),
    "9m": _config(128, 352, heads=4, layers=4),
    "20m": _config(256, 688, heads=4, layers=4),
    "35m": _config(384, 1024, heads=8, layers=6),
    "60m": _config(512, 1376, heads=8, layers=8),
    "130m": _config(768, 2048, heads=12, layers=12),
    "350m": _config(1024, 2736, heads=16, layers=24),
    "1b": _config(2048, 5461, heads=32, layers=24),
    "3b": _config(2560, 6848, heads=32, layers=32),
    "7b": _config(4096, 11008, heads=32, layers=32),
    "70b": _config(8192, 28672, heads=64, layers=80, kv_heads=8),
    "qwen2-1.5b": dataclasses.replace(
        _config(1536, 8960, heads=12, layers=28, vocab=151_936, kv_heads=2),
        qkv_bias=True,
        tied_head=True,
        rope_theta=1e6,
    ),
}
