"""The model of a run, in its folder, so that it can be used without the run's text and cache.

model.json       the network, as Hugging Face's config.json describes it
tokenizer.json   the tokenizer
files/           other files of the folder that the model was imported from, to be exported again
checkpoints/N    the state after N updates; weights are read from it alone
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from models.config import LlamaConfig
from models.encoder_config import EncoderConfig
from models.hf_config import from_hf_config, to_hf_config
from train.config.run import UserError
from train.data.tokenizer import for_prompts, load_tokenizer
from train.system.files import write_whole

MODEL, TOKENIZER, FILES = "model.json", "tokenizer.json", "files"
GENERATION_CONFIG = "generation_config.json"
MODULES = "modules.json"  # of a model of Sentence Transformers


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredModel:
    """What a model is, except its weights.

    Attributes:
      settings: The content of model.json.
      tokenizer: The tokenizer.
      files: The folder of further files; None if the model was not imported.
    """

    settings: Mapping[str, Any]
    tokenizer: Tokenizer
    files: Path | None = None

    @property
    def architecture(self) -> LlamaConfig | EncoderConfig:
        """The configuration of the network."""
        return from_hf_config(self.settings)

    @property
    def network(self) -> LlamaConfig:
        """The configuration of the network, which must be a decoder."""
        config = self.architecture
        if not isinstance(config, LlamaConfig):
            raise UserError(
                f"the model is a {self.settings['model_type']}, an encoder, which predicts no next token: give the "
                "folder of a decoder, such as LLaMA."
            )
        return config

    @property
    def is_encoder(self) -> bool:
        """Whether it is an encoder, and no decoder."""
        return isinstance(self.architecture, EncoderConfig)

    @property
    def window(self) -> int:
        """The longest text that the model was trained for, in tokens."""
        if isinstance(config := self.architecture, EncoderConfig):
            return config.max_positions
        window = self.settings.get("max_position_embeddings")
        if window is None:
            raise UserError(f"{MODEL} names no max_position_embeddings, the longest text in tokens: add it.")
        return int(window)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text, first the one that ends a document.

        Models for conversation name more of them in generation_config.json.
        """
        own = _tokens(self.settings.get("eos_token_id"))
        if not own:
            raise UserError(f"{MODEL} names no eos_token_id, which ends a document: add it.")
        more = _tokens(self._generation().get("eos_token_id"))
        return tuple(dict.fromkeys([*own, *more]))

    def _generation(self) -> Mapping[str, Any]:
        """The content of generation_config.json, if there is one."""
        path = self.files / GENERATION_CONFIG if self.files else None
        if path is None or not path.is_file():
            return {}
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is no JSON: {error}. Get the file again.") from error
        return found if isinstance(found, dict) else {}

    @property
    def end_of_text(self) -> int:
        """The token that ends a document."""
        return self.ends[0]

    @property
    def beginning(self) -> int:
        """The token before a text: that of the beginning, or the end of the text before."""
        token = self.settings.get("bos_token_id")
        return self.end_of_text if token is None else int(token)

    @property
    def padding(self) -> int:
        """The token that fills up the texts of an encoder."""
        token = self.settings.get("pad_token_id")
        return {"bert": 0, "roberta": 1}[self.settings["model_type"]] if token is None else int(token)

    @property
    def is_imported(self) -> bool:
        """Whether the model was imported, so that its tokenizer knows how a text begins."""
        return self.files is not None

    def prompt_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of prompts.

        Here documents follow each other in training, so the end of one also marks the beginning of
        the next.
        """
        return for_prompts(self.tokenizer, None if self.is_imported else self.beginning)

    def write(self, folder: Path) -> None:
        """Write it into the folder of a run."""
        write_whole(folder / MODEL, json.dumps(dict(self.settings), indent=1) + "\n")
        write_whole(folder / TOKENIZER, self.tokenizer.to_str() + "\n")
        if self.files is not None and self.files.is_dir() and self.files != folder / FILES:
            shutil.rmtree(folder / FILES, ignore_errors=True)  # of a start that failed
            shutil.copytree(self.files, folder / FILES, dirs_exist_ok=True)


def _tokens(given: Any) -> list[int]:
    """The tokens that a setting names: one, several or none."""
    if given is None:
        return []
    return [int(token) for token in (given if isinstance(given, list) else [given])]


def of_a_run(network: LlamaConfig, window: int, tokenizer: Tokenizer, end: int) -> StoredModel:
    """Return the model of a run that starts from nothing; `end` is the token that ends a text."""
    return StoredModel(settings=to_hf_config(network, window) | {"eos_token_id": end}, tokenizer=tokenizer)


def with_dtype(settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return settings that name the type of the weights, under the names that they had for it."""
    names = [name for name in ("dtype", "torch_dtype") if settings.get(name) is not None]
    return {**settings, **dict.fromkeys(names or ["torch_dtype"], dtype)}


def read_model(folder: Path) -> StoredModel:
    """Read the model in the folder of a run, or of an import.

    Raises:
      UserError: If a file is missing or cannot be read.
    """
    settings, path = read_settings(folder), _existing(folder, TOKENIZER)
    try:
        tokenizer = load_tokenizer(path)
    except Exception as error:  # the package raises nothing more specific
        raise UserError(f"{path} is no tokenizer: {error}.") from error
    return StoredModel(
        settings=settings,
        tokenizer=tokenizer,
        files=folder / FILES if (folder / FILES).is_dir() else None,
    )


def read_settings(folder: Path) -> Mapping[str, Any]:
    """Return the content of model.json, which describes a model."""
    path = _existing(folder, MODEL)
    try:
        settings: Mapping[str, Any] = json.loads(path.read_text())
        from_hf_config(settings)
    except (ValueError, RecursionError, TypeError, AttributeError) as error:  # settings may be of any type
        raise UserError(f"{path} describes no model: {error}") from error
    return settings


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(
            f"{folder} has no {name}: give the folder of a run or of an import "
            "(python -m train import --from FOLDER --out DIR)."
        )
    return folder / name
