"""The transports as printed and as released: their formulas, and what they do to a step."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import transports
from experiments.transports import B2, INTERVALS, TRANSPORTS

RNG = np.random.default_rng(0)
MU, NU, Q = RNG.normal(size=(3, 5)), RNG.random((3, 5)), RNG.normal(size=(3, 3))
COUNT = 7


def moved(name: str) -> optax.ScaleByAdamState:
    state = optax.ScaleByAdamState(jnp.int32(COUNT), jnp.asarray(MU, jnp.float32), jnp.asarray(NU, jnp.float32))
    chained, _ = TRANSPORTS[name]((state, optax.EmptyState()), jnp.asarray(Q, jnp.float32))
    assert isinstance(chained, optax.ScaleByAdamState)
    return chained


@pytest.mark.parametrize(("name", "factor"), [("as printed", 1 - B2**COUNT), ("as released", 1 - B2)])
def test_moments_have_no_hats(name: str, factor: float) -> None:
    new = moved(name)
    np.testing.assert_allclose(new.mu, Q @ MU, rtol=1e-5)
    expected = factor * np.abs(Q**2 @ (NU - MU**2) + (Q @ MU) ** 2)
    np.testing.assert_allclose(new.nu, expected, rtol=1e-3)  # of 1 - b2^t in float32


def test_steps_are_adam_s_where_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "STEPS", 200)
    stays = {name: transports.multiplier(TRANSPORTS[name], 20, jumps=False) for name in TRANSPORTS}
    assert stays["with hats"] == pytest.approx(1, abs=1e-3)
    assert 1.5 < stays["as printed"] < stays["as released"]
    hats, completed = (
        transports.multiplier(TRANSPORTS[name], 20, jumps=True) for name in ("with hats", "with hats, completed")
    )
    assert completed < 1.1 < 2 < hats


@pytest.mark.parametrize("interval", [1, 7, 100])
@pytest.mark.parametrize("kept", [1.0, 0.25, 1e-3])
def test_the_predicted_size_is_that_of_moments_followed_step_by_step(kept: float, interval: int) -> None:
    moment, sizes = 1.0, list[float]()
    for step in range(20_000):
        moment = B2 * (kept if step % interval == 0 else 1.0) * moment + 1 - B2
        sizes.append(moment**-0.5)
    whole = sizes[-(len(sizes) % interval) - 10 * interval :][: 10 * interval]
    assert transports.predicted(kept, interval) == pytest.approx(sum(whole) / len(whole), rel=1e-6)


def test_the_table_and_the_figure_have_every_transport() -> None:
    found = {(name, jumps): [1.0 + i for i in range(len(INTERVALS))] for name in TRANSPORTS for jumps in (False, True)}
    text = transports.table(found)
    assert "| as released, the subspace jumps | 1.00 | 2.00 |" in text
    assert "| as released, the subspace stays: predicted | 12.0" in text
    assert "| printed loss of grassjump | 4.33 |" in text
    assert re.search(r"Made on cpu, processor .+, date 20\d\d-\d\d-\d\d, commit .+\.$", text.replace("\n", " "))
    drawn = transports.figure(found)
    assert [axes.get_title() for axes in drawn.axes] == ["the subspace stays", "the subspace jumps"]
    assert {text.get_text() for text in drawn.axes[1].get_legend().get_texts()} == set(TRANSPORTS)  # type: ignore[union-attr]
