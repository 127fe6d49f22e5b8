"""Each remedy, applied to a run."""

import pytest

from tests.train.small_run import ROOT
from train.config.changes import Flags, changed
from train.config.mistakes import check_effect
from train.config.optimizers import OPTIMIZERS
from train.config.run import Pretrain, defaults
from train.config.validate import check
from train.plan.remedies import REMEDIES

RUN = defaults(Pretrain(run_dir=ROOT))


def applicable(run: Pretrain) -> list[Flags]:
    return [remedy.flags(run, 1) for remedy in REMEDIES if remedy.applies(run, 1)]


def test_logits_of_a_large_vocabulary_are_chunked_already() -> None:
    large = changed(RUN, {"vocab_size": 32_000})
    chunked = {"logits": "chunked"}
    for run, applies in ((RUN, True), (large, False), (changed(large, {"logits": "whole"}), True)):
        assert (chunked in applicable(run)) == applies


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if not row.only_finetunes])
@pytest.mark.parametrize("model", ["tiny", "7b"])
def test_every_remedy_makes_a_run_that_is_accepted_and_differs(name: str, model: str) -> None:
    run = defaults(changed(RUN, {"model": model, "optimizer": name}))
    for remedy in REMEDIES:
        if remedy.applies(run, 4):
            after = changed(run, remedy.flags(run, 4))
            check(after)
            assert after != run
            check_effect(after, defaults(after))
            if "rank" not in remedy.flags(run, 4):  # that can be halved again
                assert not remedy.applies(after, 4)


@pytest.mark.parametrize(
    ("basis", "rank", "applies"),
    [("haar", 2, True), ("haar", 1, False), ("blocks", 64, False), ("blocks", 128, True), ("blocks:4", 4, False)],
)
def test_a_rank_is_halved_where_its_basis_allows_it(basis: str, rank: int, applies: bool) -> None:
    run = changed(RUN, {"model": "60m", "basis": basis, "rank": rank})
    check(changed(run, {"rank": max(rank, 1)}))
    assert ({"rank": rank // 2} in applicable(run)) == applies
