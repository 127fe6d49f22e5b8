"""What the config.json of an architecture may say: settings that are used, that change no number,
or that are refused by their names.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Settings that change no output and no gradient of any architecture here. Nor do those whose names
# begin with _, such as _name_or_path: Transformers notes there where a model comes from.
NEUTRAL = frozenset({
    "architectures", "finetuning_task", "id2label", "label2id", "model_type", "problem_type", "task_specific_params",
    "transformers.js_config", "transformers_version", "unsloth_version",
    # Of the tokenizer.
    "bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id", "mask_token_id", "prefix",
    "sep_token_id", "tokenizer_class", "unk_token_id",
    # Of how and what the code of Transformers returns.
    "chunk_size_feed_forward", "gradient_checkpointing", "output_attentions", "output_hidden_states", "return_dict",
    "torchscript", "use_cache",
    # Of drawing texts, as Transformers 4 could write them here: `sample` has flags for it.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p",
    "typical_p",
})  # fmt: skip
CODE = "auto_map"  # names code of the model's own
# Settings of every architecture that may be missing.
_OPTIONAL = {"dtype": "param_dtype", "torch_dtype": "param_dtype", "initializer_range": "init_std"}
# Sizes that every architecture needs -> our fields.
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an architecture.

    Attributes:
      needed: Those that must be there -> our fields.
      used: Others that are read.
      fixed: Those with the one value that the model here computes.
      neutral: Those that change no output and no gradient, beside `NEUTRAL`.
    """

    needed: Mapping[str, str]
    used: frozenset[str]
    fixed: Mapping[str, Any]
    neutral: frozenset[str]

    def fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return our fields of the settings, without those of `used`.

        Raises:
          ValueError: Names a setting that is missing, or that the model does not compute.
        """
        if given.get(CODE):
            raise ValueError(f"{CODE} is {given[CODE]!r}, but code that comes with a model is not run here.")
        known = self.used | NEUTRAL | self.neutral | {*self.needed, *_OPTIONAL}
        for name, value in given.items():
            if name in self.fixed:
                if value not in (None, self.fixed[name]):
                    raise ValueError(f"{name} is {value!r}, but the model here computes {self.fixed[name]!r} only.")
            elif name not in known and not name.startswith("_") and not _is_absent(value):
                raise ValueError(f"the setting {name}, {value!r}, is not known here, so its effect would be lost.")
        if missing := [name for name in self.needed if given.get(name) is None]:
            raise ValueError(f"the settings {', '.join(missing)} are missing: complete the config.json.")
        optional = {ours: given[theirs] for theirs, ours in _OPTIONAL.items() if given.get(theirs) is not None}
        return optional | {ours: given[theirs] for theirs, ours in self.needed.items()}


def _is_absent(value: Any) -> bool:
    """Whether a setting says no more than if it were missing."""
    return value is None or value is False or value in ([], {}, "")
