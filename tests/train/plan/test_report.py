"""A plan as text, from given numbers."""

from typing import Any

import jax
import pytest

from train.config.run import UserError
from train.plan.cost import AVAILABLE, NEEDED, in_refusal, refusal
from train.plan.report import advice, text

GB = 10**9
# As libtpu writes it, in one of two ways.
REFUSED = "Ran out of memory on HBM, the total memory required (23.88G) exceeds available HBM (15.75G)."
OF_TEMPORARIES = (
    "Ran out of memory on HBM, the total memory required for HLO temporaries (112.32G) exceeds available HBM (15.75G)."
)


def plan(**changes: Any) -> dict[str, Any]:
    flags = {"model": "7b", "optimizer": "grassjump", "rank": 8, "precision": "float32", "logits": "auto"}
    flags |= {"update_in_backward": False}
    compiled = {"argument": 5, "output": 5, "alias": 5, "temp": 7, "generated_code": 0, "total": 12, "peak": 5}
    held = {"parameters": 2, "optimizer_state": 3, "batch": 0, "gradients": 2, "adamw_state": 4}
    return {
        "flags": flags | {"remat": "none", "batch_size": 8, "accumulate": 2, "seq_len": 16},
        "parameters": 9,
        "device": "cpu",
        "devices": 1,
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
        "bytes": {name: size * GB for name, size in held.items()},
        "parts": {"saved": 1 * GB, "logits": 1 * GB, "chunk": None, "passes": 8 * GB},
        "compiled": {name: size * GB for name, size in compiled.items()},
        "needed": 12 * GB,
        "operations": 1000,
        "sent": [],
        "does_not_fit": None,
        "memory": {"limit": 10 * GB, "fits": False},
        "remedies": [],
        "together": [],
        "topology": "",
        "compile_seconds": 1.0,
    } | changes


def remedy(flag: str, needed: float, **flags: Any) -> dict[str, Any]:
    values = {"needed": int(needed * GB), "operations": 665, "tokens": 64, "seconds": 1.0}
    return {"words": flag, "flags": flags, "price": "a price", **values}


def numbers(shown: str) -> dict[str, float]:
    """The table of parts."""
    table = shown.split("memory per device, MB\n")[1].split("\n\n")[0].splitlines()
    return {
        line[:24].strip(): float(line[24:38].replace(",", "")) for line in table if line[24:38].strip()[-4:-3] == "."
    }


@pytest.mark.parametrize("passes", [8, 4, None])
def test_the_parts_add_up_to_what_is_needed(passes: int | None) -> None:
    shown = text(plan(parts={"saved": GB, "logits": GB, "chunk": None, "passes": passes and passes * GB}))
    rows = numbers(shown)
    assert rows.pop("needed at one time") == pytest.approx(12_000)
    assert sum(rows.values()) == pytest.approx(12_000)
    assert ("A negative difference" in shown) == (passes == 4)


def test_a_step_that_updates_in_the_backward_pass_has_no_gradients_and_no_negative_rest() -> None:
    asked = plan()
    held = asked["bytes"] | {"gradients": 0}
    parts = {"saved": GB, "logits": 0, "chunk": None, "passes": None}
    shown = text(asked | {"bytes": held, "parts": parts, "flags": asked["flags"] | {"update_in_backward": True}})
    expected = {"parameters": 2, "optimizer state": 3, "batch": 0, "gradients": 0, "saved activations": 1}
    rest = {"saved logits": 0, "other temporaries": 6, "needed at one time": 12}
    assert numbers(shown) == {name: pytest.approx(1000 * size) for name, size in (expected | rest).items()}
    assert "never whole: those of a layer are among what follows" in shown
    assert "A negative difference" not in shown


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Fits: no. The step needs 12.00 GB on each device, which has 10.00 GB: 2.00 GB too much."),
        (
            {"memory": {"limit": 24 * GB, "fits": True}},
            "Fits: yes. The step needs 12.00 GB on each device, which has 24.00 GB: 12.00 GB remain.",
        ),
        ({"memory": {"limit": None, "fits": True}}, "7b, 9 parameters, grassjump at rank 8"),
        (
            {"memory": {"limit": None, "fits": True}, "topology": "v6e:1x1", "device": "TPU v6 lite"},
            "Fits: yes. The compiler for v6e:1x1 accepts the step, which needs 12.00 GB on each device.",
        ),
    ],
)
def test_the_first_line_is_the_answer(changes: dict[str, Any], line: str) -> None:
    assert text(plan(**changes)).startswith(line)


def test_the_heading_says_how_a_batch_is_computed() -> None:
    shown = text(plan())
    assert "8 windows of 16 tokens per update, in 2 parts of 4 per device" in shown
    assert "precision float32, logits auto, remat none" in shown
    assert "logits are chunked" not in shown
    assert "logits are chunked" in text(plan(parts={"saved": GB, "logits": 0, "chunk": 4, "passes": 8 * GB}))


def test_remedies_have_their_savings_and_operations_per_token() -> None:
    block = remedy("--remat block", 9.5, remat="block")
    shown = advice(plan(remedies=[block], together=[block]))
    (row,) = [line.removeprefix("--remat ").split() for line in shown.splitlines() if line.startswith("--remat")]
    # 665 operations for 64 tokens, and 1000 for 128 without it.
    assert row[1:7] == ["9.50", "GB", "2.50", "GB", "1.33", "yes"]
    assert shown.endswith("\n\nIt fits with --remat block.")


def test_what_was_taken_together_is_shown_one_by_one() -> None:
    tried = [remedy("--remat dots", 11.5, remat="dots"), remedy("--rank 4", 11.8, rank=4)]
    both = [tried[0], remedy("--remat dots --rank 4", 11.2, remat="dots", rank=4)]
    shown = advice(plan(remedies=tried, together=both))
    assert "\n  and --rank 4 " in shown
    assert "None of these makes it fit. The smallest that was reached is 11.20 GB, with --remat dots --rank 4." in shown
    assert "Nothing above saves memory." in advice(plan(remedies=[remedy("--remat dots", 12, remat="dots")]))


def test_what_was_taken_back_or_replaced_is_shown() -> None:
    steps = [
        remedy("--accumulate 4", 11.8, accumulate=4),
        remedy("--rank 4 --accumulate 4", 11.5, rank=4, accumulate=4),
        remedy("--rank 4 --batch-size 1", 9, rank=4, batch_size=1),
        remedy("--batch-size 1", 9.5, batch_size=1),
    ]
    shown = advice(plan(together=steps))
    for line in ("\n  and --rank 4 ", "\n  and --batch-size 1, without --accumulate 4 ", "\n  without --rank 4 "):
        assert line in shown
    assert shown.endswith("It fits with --batch-size 1.")


@pytest.mark.parametrize(("reason", "needed"), [(REFUSED, 23.88), (OF_TEMPORARIES, 112.32)])
def test_a_program_that_the_compiler_refuses_has_its_number(reason: str, needed: float) -> None:
    found = refusal(jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {reason}\n\nLargest allocations: ..."))
    assert found == reason
    assert in_refusal(NEEDED, found) == pytest.approx(needed * 2**30)
    assert in_refusal(AVAILABLE, found) == pytest.approx(15.75 * 2**30)
    with pytest.raises(UserError, match=r"does not say by how much: .* HBM\.$"):
        in_refusal(NEEDED, "Ran out of HBM.")
    refused = plan(compiled=None, sent=None, does_not_fit=reason, memory={"limit": 10 * GB, "fits": False})
    assert "by the compiler, which refuses it" in text(refused)


def test_other_errors_of_the_compiler_are_not_hidden() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        refusal(jax.errors.JaxRuntimeError("INTERNAL: a bug"))
