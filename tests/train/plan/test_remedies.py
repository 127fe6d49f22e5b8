"""Which remedies are taken, from given numbers."""

from collections.abc import Mapping

import pytest

from tests.train.small_run import ROOT
from train.config.optimizers import OPTIMIZERS
from train.config.run import Pretrain, default_optimizer, defaults
from train.config.validate import check
from train.plan.remedies import REMEDIES, Cost, Flags, Planned, alone, changed, together, words

NEEDED = 100
RUN = defaults(Pretrain(run_dir=ROOT))


class Compiler:
    """Gives each flag its own saving, and keeps account of what was compiled."""

    def __init__(self, savings: Mapping[str, int]) -> None:
        self.savings, self.compiled = savings, list[str]()

    def __call__(self, run: Pretrain, flags: Flags) -> Cost:
        assert changed(run, flags) == run
        self.compiled.append(words(flags))
        return Cost(NEEDED - sum(self.savings.get(name, 0) for name in flags), 1, 1, 0.0)


def chosen(compiler: Compiler, limit: int, run: Pretrain = RUN) -> list[Planned]:
    tried = alone(run, 1, compiler)
    compiler.compiled.clear()
    return together(run, 1, NEEDED, limit, tried, compiler)


def test_one_that_is_enough_is_the_one_that_changes_least() -> None:
    compiler = Compiler({"remat": 30, "dtype": 90, "param_dtype": 95})
    (only,) = chosen(compiler, limit=60)
    assert (only.flags, compiler.compiled) == ({"dtype": "bfloat16"}, [])


def test_several_are_added_by_what_they_save_until_the_step_fits() -> None:
    compiler = Compiler({"remat": 30, "dtype": 20, "param_dtype": 10})
    taken = chosen(compiler, limit=55)
    assert [one.cost.needed for one in taken] == [70, 50]
    assert words(taken[-1].flags) == "--remat --dtype bfloat16"
    assert compiler.compiled == ["--remat --dtype bfloat16"]


def test_if_nothing_fits_the_last_is_the_smallest() -> None:
    compiler = Compiler({"remat": 30, "dtype": 20})
    taken = chosen(compiler, limit=1)
    assert taken[-1].cost.needed == 50
    # What saves nothing alone is not tried again.
    assert compiler.compiled == ["--remat --dtype bfloat16"]
    assert chosen(Compiler({}), limit=1) == []


def test_what_saves_nothing_beside_others_is_left_out() -> None:
    class Overlapping(Compiler):
        def __call__(self, run: Pretrain, flags: Flags) -> Cost:
            return super().__call__(run, flags)._replace(needed=60 if {"remat", "batch_size"} & set(flags) else NEEDED)

    taken = chosen(Overlapping({}), limit=1)
    assert [one.flags for one in taken] == [{"remat": True}]


def test_a_new_optimizer_makes_more_remedies_apply() -> None:
    adamw = changed(RUN, {"optimizer": "adamw"})
    savings = {"optimizer": 40, "mu_dtype": 10, "nu_dtype": 10}
    taken = chosen(Compiler(savings), limit=40, run=adamw)
    assert words(taken[-1].flags) == "--optimizer grassjump --mu-dtype bfloat16 --nu-dtype bfloat16"


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if not row.only_finetunes])
@pytest.mark.parametrize("model", ["tiny", "7b"])
def test_every_remedy_makes_a_run_that_is_accepted_and_differs(name: str, model: str) -> None:
    run = changed(RUN, {"model": model, "rank": 32 if model == "tiny" else 1024})
    run = Pretrain(run_dir=ROOT, model=run.model, data=run.data, optimizer=default_optimizer(name, run.optimizer.rank))
    for remedy in REMEDIES:
        if remedy.applies(run, 4):
            after = changed(run, remedy.flags(run, 4))
            check(after)
            assert after != run
            if "rank" not in remedy.flags(run, 4):  # that can be halved again
                assert not remedy.applies(after, 4)
