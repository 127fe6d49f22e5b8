"""The example of docs/guides/sharding.md runs as it is."""

import jax

from tests.docs.test_readme import ROOT, code_blocks


def test_the_example_of_the_documentation_prints_what_it_says(capsys):
    (example,) = code_blocks((ROOT / "docs" / "guides" / "sharding.md").read_text(), "python")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(example, {})
    assert "('fsdp',)" in capsys.readouterr().out
