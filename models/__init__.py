"""LLaMA in Flax NNX: single-device code that knows nothing of optimizers, meshes or data."""

from models.config import CONFIGS as CONFIGS
from models.config import LlamaConfig as LlamaConfig
from models.config import count_parameters as count_parameters
from models.convert import from_hf_state_dict as from_hf_state_dict
from models.convert import to_hf_state_dict as to_hf_state_dict
from models.generation import generate as generate
from models.llama import Llama as Llama
