"""The configuration of an encoder, BERT or RoBERTa, and those of published checkpoints."""

import dataclasses
from typing import Literal

from models.config import TransformerConfig, check_choice, check_positive, check_sizes

# The row of the first position. The tables of RoBERTa begin with two rows that no text uses: its
# positions count from the row after that of padding, which is token 1 (fairseq).
FIRST_POSITIONS = {"bert": 0, "roberta": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """A BERT or a RoBERTa: LayerNorm after each residual sum, learned positions, GELU, biases.

    Attributes:
      family: What differs: "roberta" counts positions from row 2 of their table, skipping padding,
        and names the weights of its head otherwise than "bert".
      max_positions: Tokens of the longest text.
      num_types: Token types; BERT marks the first and the second text of a pair.
      num_labels: Outputs of the head for classification; 1 for regression, None for no head.
    """

    family: Literal["bert", "roberta"] = "bert"
    max_positions: int = 512
    num_types: int = 2
    norm_eps: float = 1e-12
    num_labels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("family", self.family, tuple(FIRST_POSITIONS))
        check_sizes(max_positions=self.max_positions, num_types=self.num_types)
        check_positive(norm_eps=self.norm_eps)
        if self.num_labels is not None:
            check_sizes(num_labels=self.num_labels)

    @property
    def first_position(self) -> int:
        """The row of the first token in the table of positions."""
        return FIRST_POSITIONS[self.family]

    @property
    def position_rows(self) -> int:
        """Rows of the table of positions."""
        return self.first_position + self.max_positions


def _bert(hidden: int, intermediate: int, heads: int, layers: int) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=30_522,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_layers=layers,
    )


def _roberta(hidden: int, intermediate: int, heads: int, layers: int) -> EncoderConfig:
    return dataclasses.replace(
        _bert(hidden, intermediate, heads, layers), vocab_size=50_265, family="roberta", num_types=1, norm_eps=1e-5
    )


# RoBERTa (Liu et al. 2019), BERT without upper case (Devlin et al. 2019), and all-MiniLM-L6-v2 of
# Sentence Transformers, distilled as MiniLM (Wang et al. 2020).
ENCODERS: dict[str, EncoderConfig] = {
    "roberta-base": _roberta(768, 3072, heads=12, layers=12),
    "roberta-large": _roberta(1024, 4096, heads=16, layers=24),
    "bert-base": _bert(768, 3072, heads=12, layers=12),
    "minilm": _bert(384, 1536, heads=12, layers=6),
}
