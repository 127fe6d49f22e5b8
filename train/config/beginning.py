"""What a run of `pretrain` takes from the model that it starts from: its size, tokenizer and end of
a text.
"""

import dataclasses
from pathlib import Path

from models.config import CONFIGS, LlamaConfig
from train.config.bounds import refuse
from train.config.run import DataFlags, ModelFlags, Pretrain, UserError, defaults
from train.data.tokenizer import read_tokenizer
from train.storage.model import TOKENIZER, read_model


def continued(parsed: Pretrain, init_from: Path) -> Pretrain:
    """Return the defaults of a run that starts from the model in the folder `init_from`."""
    model = read_model(init_from)
    name = _name_of(model.network)
    if name is None:
        raise UserError(
            f"--init-from {init_from} is of no size that pretrain knows ({', '.join(CONFIGS)}): use finetune, which "
            "takes any."
        )
    named = dataclasses.replace(parsed, model=dataclasses.replace(parsed.model, model=name))
    usual = defaults(named)
    return dataclasses.replace(
        usual,
        start=dataclasses.replace(usual.start, init_from=init_from),
        model=dataclasses.replace(usual.model, vocab_size=model.network.vocab_size),
        data=with_tokenizer_of(usual.data, init_from),
    )


def with_tokenizer_of(data: DataFlags, folder: Path) -> DataFlags:
    """Return flags with the tokenizer in the folder of a run or of an import."""
    model = read_model(folder)
    end = model.tokenizer.id_to_token(model.end_of_text) or ""
    return dataclasses.replace(data, tokenizer=folder / TOKENIZER, end_of_text=end)


def check_start(model: ModelFlags, data: DataFlags, init_from: Path) -> None:
    """Refuse flags that the weights of a model do not fit."""
    network = read_model(init_from).network
    if (name := _name_of(network)) != model.model:
        refuse("model", model.model, f"is not the model of --init-from {init_from}, which is {name}: leave it out")
    if model.vocab_size != network.vocab_size:
        refuse("vocab_size", model.vocab_size, f"must be that of --init-from {init_from}: {network.vocab_size}")
    own = read_tokenizer(init_from / TOKENIZER).to_str()
    if data.tokenizer is None or read_tokenizer(data.tokenizer).to_str() != own:
        refuse("tokenizer", data.tokenizer, f"is not the one of --init-from {init_from}: leave it out")


def _name_of(network: LlamaConfig) -> str | None:
    """Return the name of a size; how its numbers are computed and kept does not matter."""
    ignored = ("vocab_size", "dtype", "param_dtype", "attention", "remat", "init_std")
    for name, config in CONFIGS.items():
        if dataclasses.replace(config, **{field: getattr(network, field) for field in ignored}) == network:
            return name
    return None
