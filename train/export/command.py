"""`export`: a checkpoint as a folder that Transformers loads."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from models import EncoderConfig, to_hf_state_dict
from models.hf_folder import write_folder
from train.config.bounds import check_step
from train.export.config import Export
from train.export.encoder_verification import verify_encoder
from train.export.verification import require_transformers, verify_decoder
from train.program.task import abstract_params
from train.storage.folder import RunFolder
from train.storage.model import GENERATION_CONFIG, MODULES, TOKENIZER, StoredModel, read_model
from train.storage.weights import kept_step, restore_params_on_host
from train.system.devices import reporting_exhaustion, require_devices
from train.system.files import appearing, refuse_nonempty

TOKENIZER_CONFIG = "tokenizer_config.json"
# Files of a model of Sentence Transformers, beside those in its folders
OF_EMBEDDINGS = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json", "README.md")


def run_export(config: Export) -> None:
    """Write the folder, which appears in one rename, after it has been verified if requested."""
    check_step(config.step)
    require_devices()
    refuse_nonempty(config.out, "--out")
    if config.verify:
        require_transformers()
    model = read_model(config.run_dir)
    checkpoints = RunFolder(config.run_dir).checkpoints
    step = kept_step(checkpoints, config.step)
    files, settings = exported_files(config, model), exported_settings(model)
    params = restore_params_on_host(checkpoints, step, abstract_params(model.architecture))
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    with appearing(config.out, "--out", size) as folder:
        write_folder(folder, settings, to_hf_state_dict(model.architecture, params), files)
        if config.verify:
            verify = verify_encoder if model.is_encoder else verify_decoder
            with reporting_exhaustion("the model", lambda: "Leave --verify out."):
                print(verify(folder, model, params))
    print(f"exported step {step} of {config.run_dir} to {config.out}: {size / 1e9:.3f} GB of weights")


def exported_settings(model: StoredModel) -> dict[str, Any]:
    """Return the content of config.json."""
    return dict(model.settings) if model.is_imported else dict(model.settings) | _special_tokens(model)


def exported_files(config: Export, model: StoredModel) -> dict[str, bytes]:
    """Return the content of the files beside weights and config.json: those of the import, if it
    was one, and the least that Transformers needs.
    """
    if model.is_imported:
        tokenizer = (config.run_dir / TOKENIZER).read_bytes()
    else:  # with the mark of the beginning, which training puts before a document
        tokenizer = (model.prompt_tokenizer().to_str() + "\n").encode()
    least = {TOKENIZER_CONFIG: _json(_tokenizer_config(model))}
    if not model.is_encoder:
        least[GENERATION_CONFIG] = _json(_special_tokens(model))
    return {TOKENIZER: tokenizer} | least | _kept(model)


def _kept(model: StoredModel) -> dict[str, bytes]:
    """The files of an import, by their paths.

    What says how a model embeds sentences is none of a model that has a head.
    """
    files = sorted(path for path in model.files.rglob("*") if path.is_file()) if model.files else []
    kept = {path.relative_to(model.files or "").as_posix(): path.read_bytes() for path in files}
    network = model.architecture
    if MODULES not in kept or not isinstance(network, EncoderConfig) or network.num_labels is None:
        return kept
    return {name: content for name, content in kept.items() if name not in OF_EMBEDDINGS and "/" not in name}


def _tokenizer_config(model: StoredModel) -> dict[str, Any]:
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.window,
    }
    if isinstance(network := model.architecture, EncoderConfig):
        spelt = {"pad_token": model.padding}
        if network.num_types == 1:  # there is no embedding of the second type
            described["model_input_names"] = ["input_ids", "attention_mask"]
    else:
        spelt = {"bos_token": model.beginning, "eos_token": model.end_of_text} if _special_tokens(model) else {}
    return described | {name: model.tokenizer.id_to_token(token) for name, token in spelt.items()}


def _special_tokens(model: StoredModel) -> dict[str, Any]:
    """The tokens of beginning and end, as the settings have them; nothing without an end."""
    end = model.settings.get("eos_token_id")
    return {} if end is None else {"bos_token_id": model.beginning, "eos_token_id": end}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(content), indent=2) + "\n").encode()
