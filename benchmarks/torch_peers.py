"""The optimizers that authors published for PyTorch, and PyTorch's AdamW, as contestants.

They know single matrices only, so a stack is given to them as its matrices, (output, input) each as
PyTorch has them. A step of theirs changes the weights in place; it is compared with an update and
`optax.apply_updates`. All of them step the same weights in turn.
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

# name -> package, its module with the optimizer, and what a group of its parameters has beside rank
# and interval
PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "galore-torch": ("galore_torch", "adamw", {"scale": 0.25, "proj_type": "std"}),
    "fira-torch": ("fira", "fira_adamw", {"alpha": 0.25, "proj_type": "std"}),
    "apollo-torch": (
        "apollo_torch", "apollo", {"scale": 1.0, "proj_type": "std", "proj": "random", "scale_type": "channel"}
    ),
}  # fmt: skip
TORCH_CONTESTANTS = ("torch-adamw", *PUBLISHED)


def uses_cuda() -> bool:
    """Whether PyTorch is there and sees a GPU."""
    return bool(importlib.util.find_spec("torch") and importlib.import_module("torch").cuda.is_available())


def weights_with_grads(problem: Problem) -> list[Any]:
    """The weights that all step, with gradients that fall as those of `shapes.random_grads`."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device, weights = "cuda" if uses_cuda() else "cpu", []
    for rows, columns in problem.matrices:
        weight = torch.nn.Parameter(0.02 * torch.randn(columns, rows, device=device))
        weight.grad = 1e-3 * torch.randn(columns, rows, device=device) / (1 + torch.arange(rows, device=device))
        weights.append(weight)
    return weights


def contestants(names: list[str], problem: Problem) -> tuple[list[Contestant], dict[str, str]]:
    """Those that can run, and why the others cannot."""
    if not names:
        return [], {}
    if importlib.util.find_spec("torch") is None:
        return [], dict.fromkeys(names, "torch is not installed")
    weights, found, missing = weights_with_grads(problem), [], {}
    for name in names:
        try:
            optimizer = _optimizer(name, problem, weights)
        except CannotRun as reason:
            missing[name] = str(reason)
            continue
        gap = None if name in EVERY_STEP_ALIKE else problem.gap
        found.append(Contestant(name, _step(optimizer), gap))
    return found, missing


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
    """The optimizer of a package, without the package's __init__, which imports what is not used
    here.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise CannotRun(f"{package.replace('_', '-')} is not installed")
    if importlib.util.find_spec("transformers") is None and package != "apollo_torch":
        raise CannotRun(f"{package.replace('_', '-')} needs transformers, which is not installed")
    sys.modules.setdefault(package, importlib.util.module_from_spec(spec))
    return importlib.import_module(f"{package}.{module}").AdamW
