"""Rows as diagnostics.jsonl has them, of a model of six layers."""

import math
from typing import Any

Row = dict[str, Any]
KINDS = tuple(f"layers/{x}/kernel" for x in ("attn/k", "attn/o", "attn/q", "attn/v", "mlp/down", "mlp/gate", "mlp/up"))
LAYERS = 6
STEPS = range(1, 1002, 100)


def measured(step: int) -> Row:
    """A row: energies fall with step and depth, tangents with the step."""

    def of(f: Any) -> dict[str, list[Any]]:
        return {kind: [f(number, layer) for layer in range(LAYERS)] for number, kind in enumerate(KINDS)}

    fade = math.exp(-step / 800)
    return {
        "step": step, "seconds": step / 3, "tokens": 100 * step,
        "captured": of(lambda kind, layer: 0.55 + 0.25 * fade - 0.02 * layer + 0.01 * kind),
        "captured_by_random": of(lambda *_: 0.5),
        "captured_by_best": of(lambda kind, layer: 0.9 - 0.02 * layer),
        "tangent_singular_values": of(lambda kind, layer: [fade * (kind + 1) / (i + 1 + layer) for i in range(20)]),
        "tangent_norm": of(lambda kind, layer: 2 * fade * (kind + 1) / (1 + layer)),
        "tangent_relative": of(lambda kind, layer: 0.3 + 0.05 * kind),
        "overlap": of(lambda kind, layer: 0.0 if step == 1 else 0.9 + 0.01 * kind),
        "angle_mean": of(lambda kind, layer: math.pi / 2 if step == 1 else 0.1 + 0.01 * kind),
        "angle_largest": of(lambda kind, layer: math.pi / 2 if step == 1 else 0.8 + 0.01 * kind),
        "recovered": of(lambda kind, layer: 4.0 + kind),
        "limited": of(lambda kind, layer: float((kind + layer + step // 100) % 2)),
    }  # fmt: skip
