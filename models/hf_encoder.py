"""The settings of BERT and RoBERTa in a config.json of Hugging Face."""

from collections.abc import Mapping
from typing import Any

from models.encoder_config import FIRST_POSITIONS, EncoderConfig
from models.hf_settings import SIZES, Settings

_NAMES = {"bert": "Bert", "roberta": "Roberta"}
_WITH_HEAD = "ForSequenceClassification"
# The endings of models whose other weights are left out: the pooler and the heads of pretraining.
_WITHOUT_HEAD = ("Model", "ForMaskedLM", "ForPreTraining")
_FIXED = {
    "add_cross_attention": False,
    "hidden_act": "gelu",
    "is_causal": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
}
_NEEDED = SIZES | {
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "num_types",
    "layer_norm_eps": "norm_eps",
}
_NEUTRAL = frozenset({
    # Of training: there is no dropout here.
    "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout_prob",
    # Of nothing: the embedding is tied to the head of pretraining; the rest is from older versions.
    "_num_labels", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "tie_word_embeddings",
})  # fmt: skip
_SETTINGS = {
    "bert": Settings(needed=_NEEDED, used=frozenset({"num_labels"}), fixed=_FIXED, neutral=_NEUTRAL | {"pad_token_id"}),
    # The positions of RoBERTa count from its padding token.
    "roberta": Settings(
        needed=_NEEDED, used=frozenset({"num_labels"}), fixed=_FIXED | {"pad_token_id": 1}, neutral=_NEUTRAL
    ),
}


def read(settings: Mapping[str, Any]) -> EncoderConfig:
    """Return the configuration of a BERT or RoBERTa."""
    family = settings["model_type"]
    fields = _SETTINGS[family].fields(settings)
    fields["max_positions"] -= FIRST_POSITIONS[family]
    return EncoderConfig(**fields, family=family, num_labels=_num_labels(settings))


def written(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings of a BERT or RoBERTa; with a head, for sequence classification."""
    fields = {theirs: getattr(config, ours) for theirs, ours in _NEEDED.items()}
    kind = _NAMES[config.family] + ("Model" if config.num_labels is None else _WITH_HEAD)
    labels = [f"LABEL_{i}" for i in range(config.num_labels or 0)]  # as Transformers calls them
    settings = {
        "architectures": [kind],
        "model_type": config.family,
        **fields,
        **_FIXED,
        "max_position_embeddings": config.position_rows,
        "initializer_range": config.init_std,
        # Transformers would drop a tenth in training; this model was trained without.
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "pad_token_id": {"bert": 0, "roberta": 1}[config.family],
        "torch_dtype": config.param_dtype,
    }
    if labels:
        settings["id2label"] = {str(i): label for i, label in enumerate(labels)}
        settings["label2id"] = {label: i for i, label in enumerate(labels)}
    return settings


def _num_labels(settings: Mapping[str, Any]) -> int | None:
    """The outputs of the head that the architecture of the settings has; None for no head."""
    architectures = settings.get("architectures") or ["Model"]
    if any(name.endswith(_WITH_HEAD) for name in architectures):
        # Two is what Transformers has if the settings do not say it.
        return settings.get("num_labels") or len(settings.get("id2label") or (0, 1))
    if not all(name.endswith(_WITHOUT_HEAD) for name in architectures):
        raise ValueError(
            f"architectures is {architectures}, but encoders here end in {', '.join(_WITHOUT_HEAD)} or {_WITH_HEAD}."
        )
    return None
