"""Which updates a profile traces, and what it leaves behind."""

from pathlib import Path

import jax.numpy as jnp

from train.loop.profile import Profile


def test_the_updates_of_the_span_are_traced(tmp_path: Path) -> None:
    said: list[str] = []
    with Profile("3:4", 0, tmp_path / "profile", said.append) as profile:
        traced = []
        for update in range(1, 8):
            if profile.is_due(update):
                profile.start()
            jnp.ones(3).block_until_ready()
            if profile.is_running:
                traced.append(update)
            if profile.is_over(update):
                profile.stop()
        assert traced == [3, 4]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert said == [
        f"profile in {tmp_path}/profile; to view it: pip install xprof, then xprof --logdir {tmp_path}/profile"
    ]


def test_without_a_span_nothing_is_traced(tmp_path: Path) -> None:
    with Profile("", 7, tmp_path, print) as profile:
        assert not any(profile.is_due(update) or profile.is_over(update) for update in range(5))
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_traces_the_rest(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile("3:9", 4, tmp_path, said.append)
    assert [update for update in range(5, 12) if profile.is_due(update)] == [5, 6, 7, 8, 9]
    assert not said


def test_a_span_of_updates_already_made_is_said_to_trace_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    Profile("3:9", 8, tmp_path, said.append)
    assert not said
    Profile("3:9", 9, tmp_path, said.append)
    assert said == ["--profile 3:9 traces nothing: the run has made 9 updates"]
