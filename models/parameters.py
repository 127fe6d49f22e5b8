"""The parameters of each architecture: our path, the name at Hugging Face, the shape.

A configuration has one table. `count_parameters` and `models.convert` read it, and a new
architecture is one more `table_of`.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from models.config import LlamaConfig, TransformerConfig
from models.encoder_config import EncoderConfig


class Parameter(NamedTuple):
    """A parameter of ours; in a stack, of all layers.

    Attributes:
      name: At Hugging Face; {} is the index of the layer.
      shape: Ours: kernels are (in, out), and those of `layers/` have a leading axis of layers.
    """

    name: str
    shape: tuple[int, ...]


class Table(NamedTuple):
    """The parameters of a model, and how checkpoints spell them.

    Attributes:
      parameters: Of each of our paths.
      ignored: The entries of a checkpoint to leave out, if they are no parameters of the model.
      spelled: The name of an entry in the spelling of `parameters`.
    """

    parameters: dict[str, Parameter]
    ignored: re.Pattern[str]
    spelled: Callable[[str], str]


@functools.singledispatch
def table_of(config: TransformerConfig) -> Table:
    """Return the table of an architecture, in the order in which weights are written."""
    raise TypeError(f"{type(config).__name__} is no configuration of an architecture.")


def count_parameters(config: TransformerConfig) -> int:
    """Return the exact number of parameters of the model, without building it."""
    return sum(math.prod(parameter.shape) for parameter in table_of(config).parameters.values())


# Buffers of older checkpoints, which follow from the configuration; the head, if it is tied.
_NOT_OF_LLAMA = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)|lm_head\.weight"
)
# Buffers that follow from the configuration; the heads of pretraining; the pooler, unless it is the
# first layer of BERT's head.
_NOT_OF_ENCODER = re.compile(
    r"(.+\.)?(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
    r"|(cls\.predictions|cls\.seq_relationship|lm_head)\..+"
)


# The two layers of a head.
_HEADS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}


def is_stacked(path: str) -> bool:
    """Whether a parameter of ours is that of all layers."""
    return path.startswith("layers/")


@table_of.register
def _(config: LlamaConfig) -> Table:
    hidden, inner, kv_width = config.hidden_size, config.intermediate_size, config.kv_heads * config.head_dim
    layer, bias = "model.layers.{}", config.qkv_bias
    parameters = {
        "embed/embedding": Parameter("model.embed_tokens.weight", (config.vocab_size, hidden)),
        "layers/attention_norm/scale": Parameter(f"{layer}.input_layernorm.weight", (hidden,)),
        **_linear("layers/attention/q", f"{layer}.self_attn.q_proj", hidden, hidden, bias=bias),
        **_linear("layers/attention/k", f"{layer}.self_attn.k_proj", hidden, kv_width, bias=bias),
        **_linear("layers/attention/v", f"{layer}.self_attn.v_proj", hidden, kv_width, bias=bias),
        **_linear("layers/attention/o", f"{layer}.self_attn.o_proj", hidden, hidden, bias=False),
        "layers/mlp_norm/scale": Parameter(f"{layer}.post_attention_layernorm.weight", (hidden,)),
        **_linear("layers/mlp/gate", f"{layer}.mlp.gate_proj", hidden, inner, bias=False),
        **_linear("layers/mlp/up", f"{layer}.mlp.up_proj", hidden, inner, bias=False),
        **_linear("layers/mlp/down", f"{layer}.mlp.down_proj", inner, hidden, bias=False),
        "norm/scale": Parameter("model.norm.weight", (hidden,)),
    }
    if not config.tied_head:
        parameters |= _linear("lm_head", "lm_head", hidden, config.vocab_size, bias=False)
    return Table(_stacked(parameters, config.num_layers), _NOT_OF_LLAMA, str)


@table_of.register
def _(config: EncoderConfig) -> Table:
    hidden, inner = config.hidden_size, config.intermediate_size
    # Models with a head hold the encoder under its name; an encoder alone has no prefix.
    prefix = "" if config.num_labels is None else f"{config.family}."
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{}}"
    parameters = {
        "embed/embedding": Parameter(f"{embeddings}.word_embeddings.weight", (config.vocab_size, hidden)),
        "positions/embedding": Parameter(f"{embeddings}.position_embeddings.weight", (config.position_rows, hidden)),
        "types/embedding": Parameter(f"{embeddings}.token_type_embeddings.weight", (config.num_types, hidden)),
        **_norm("embed_norm", f"{embeddings}.LayerNorm", hidden),
        **_linear("layers/attention/q", f"{layer}.attention.self.query", hidden, hidden),
        **_linear("layers/attention/k", f"{layer}.attention.self.key", hidden, hidden),
        **_linear("layers/attention/v", f"{layer}.attention.self.value", hidden, hidden),
        **_linear("layers/attention/o", f"{layer}.attention.output.dense", hidden, hidden),
        **_norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm", hidden),
        **_linear("layers/mlp/up", f"{layer}.intermediate.dense", hidden, inner),
        **_linear("layers/mlp/down", f"{layer}.output.dense", inner, hidden),
        **_norm("layers/mlp_norm", f"{layer}.output.LayerNorm", hidden),
    }
    if config.num_labels is not None:
        dense, out = _HEADS[config.family]
        parameters |= _linear("head/dense", dense, hidden, hidden)
        parameters |= _linear("head/out", out, hidden, config.num_labels)

    def spelled(name: str) -> str:
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)  # the checkpoints of TensorFlow
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        inside = name.removeprefix(f"{config.family}.")
        return prefix + inside if inside.startswith(("embeddings.", "encoder.", "pooler.")) else name

    return Table(_stacked(parameters, config.num_layers), _NOT_OF_ENCODER, spelled)


def _linear(path: str, name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Parameter]:
    kernel = {f"{path}/kernel": Parameter(f"{name}.weight", (inputs, outputs))}
    return kernel | ({f"{path}/bias": Parameter(f"{name}.bias", (outputs,))} if bias else {})


def _norm(path: str, name: str, features: int) -> dict[str, Parameter]:
    return {
        f"{path}/scale": Parameter(f"{name}.weight", (features,)),
        f"{path}/bias": Parameter(f"{name}.bias", (features,)),
    }


def _stacked(parameters: dict[str, Parameter], layers: int) -> dict[str, Parameter]:
    """The parameters of one layer as those of all."""
    return {
        path: parameter._replace(shape=(layers, *parameter.shape)) if is_stacked(path) else parameter
        for path, parameter in parameters.items()
    }
