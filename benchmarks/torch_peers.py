"""The optimizers published for PyTorch by the authors of the methods, and PyTorch's AdamW.

They support single matrices only, so a stack is passed as its matrices, each (output, input) as in
PyTorch. Their step updates the weights in place, and is compared with an update followed by
`optax.apply_updates`. All step the same weights in turn.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.contestants import EVERY_STEP_ALIKE, CannotRun
from benchmarks.measure import Contestant
from benchmarks.shapes import Problem

# name -> package, its module with the optimizer, and the options of its parameter group besides
# rank and interval
PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "galore-torch": ("galore_torch", "adamw", {"scale": 0.25, "proj_type": "std"}),
    "fira-torch": ("fira", "fira_adamw", {"alpha": 0.25, "proj_type": "std"}),
    "apollo-torch": (
        "apollo_torch", "apollo", {"scale": 1.0, "proj_type": "std", "proj": "random", "scale_type": "channel"}
    ),
}  # fmt: skip
TORCH_CONTESTANTS = ("torch-adamw", *PUBLISHED)


def uses_cuda() -> bool:
    """Whether PyTorch is installed and sees a GPU."""
    return bool(importlib.util.find_spec("torch") and importlib.import_module("torch").cuda.is_available())


def weights_with_grads(problem: Problem) -> list[Any]:
    """The weights that all step, with gradients like those of `shapes.random_grads`."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device, weights = "cuda" if uses_cuda() else "cpu", []
    for rows, columns in problem.matrices:
        weight = torch.nn.Parameter(0.02 * torch.randn(columns, rows, device=device))
        weight.grad = 1e-3 * torch.randn(columns, rows, device=device) / (1 + torch.arange(rows, device=device))
        weights.append(weight)
    return weights


def torch_contestants(names: list[str], problem: Problem) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, and why the others cannot."""
    if not names:
        return [], {}
    if importlib.util.find_spec("torch") is None:
        return [], dict.fromkeys(names, "torch is not installed")
    weights, contestants, missing = weights_with_grads(problem), [], {}
    for name in names:
        try:
            optimizer = _optimizer(name, problem, weights)
        except CannotRun as reason:
            missing[name] = str(reason)
            continue
        gap = None if name in EVERY_STEP_ALIKE else problem.gap
        contestants.append(Contestant(name, _step(optimizer), gap))
    return contestants, missing


def _step(optimizer: Any) -> Callable[[], None]:
    torch: Any = importlib.import_module("torch")
    synchronize = torch.cuda.synchronize if uses_cuda() else lambda: None

    def step() -> None:
        optimizer.step()
        synchronize()

    return step


def _optimizer(name: str, problem: Problem, weights: list[Any]) -> Any:
    if name not in PUBLISHED:
        return importlib.import_module("torch").optim.AdamW(weights, lr=problem.rate)
    package, module, options = PUBLISHED[name]
    group = {"params": weights, "rank": problem.rank, "update_proj_gap": problem.gap} | options
    return _published(package, module)([group], lr=problem.rate, no_deprecation_warning=True)


def _published(package: str, module: str) -> Any:
    """The optimizer of a package, without running the package's `__init__`, which imports more than
    is needed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise CannotRun(f"{package.replace('_', '-')} is not installed")
    if importlib.util.find_spec("transformers") is None and package != "apollo_torch":
        raise CannotRun(f"{package.replace('_', '-')} requires transformers, which is not installed")
    sys.modules.setdefault(package, importlib.util.module_from_spec(spec))
    return importlib.import_module(f"{package}.{module}").AdamW
