"""`sample`: the texts that a model writes after prompts, on one device."""

from train.config.run import default_cache_dir
from train.sample.config import Sample, check_sample
from train.sample.continuation import Draws, continued
from train.storage.loaded import load_model
from train.system.compilation import keep_programs
from train.system.devices import reporting_exhaustion, require_devices


def run_sample(config: Sample) -> None:
    """Print the continuation of each prompt."""
    check_sample(config)
    require_devices()
    keep_programs(default_cache_dir())
    draws = Draws(
        tokens=config.tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
    )
    with reporting_exhaustion("the model", lambda: "Give fewer --tokens, or --dtype bfloat16."):
        model = load_model(config.run_dir, config.step, config.dtype)
        for prompt in config.prompt:
            print(f"--- sample of step {model.step}\n{continued(model.llama, model.stored, prompt, draws)}\n---")
