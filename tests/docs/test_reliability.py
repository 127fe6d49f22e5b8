"""What docs/reliability.md says of flags is what the trainer does."""

import re

from tests.docs.test_pages import ROOT
from train.config.resumed import FREE_TO_RESUME


def test_flags_that_may_change_when_a_run_resumes() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    (paragraph,) = [text for text in page.split("\n\n") if text.startswith("A run resumes with its own settings.")]
    named = re.findall(r"`(--[a-z-]+)`", paragraph)
    assert sorted(named) == sorted([*FREE_TO_RESUME, "--steps"])
