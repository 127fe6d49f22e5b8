"""Which remedies are taken, from given numbers."""

from collections.abc import Mapping

from tests.train.small_run import ROOT
from train.config.changes import Flags, changed, words
from train.config.run import Pretrain, defaults
from train.config.validate import check
from train.plan.choice import Cost, Planned, alone, together

NEEDED = 100
RUN = defaults(Pretrain(run_dir=ROOT))


class Compiler:
    """Gives each flag with its value its own saving, and keeps account of what was compiled."""

    def __init__(self, savings: Mapping[str, int]) -> None:
        self.savings, self.compiled = savings, list[str]()

    def __call__(self, run: Pretrain, flags: Flags) -> Cost:
        assert changed(run, flags) == run
        check(run)
        self.compiled.append(words(flags))
        return Cost(NEEDED - sum(self.savings.get(f"{name} {value}", 0) for name, value in flags.items()), 1, 1, 0.0)


def chosen(compiler: Compiler, limit: int, run: Pretrain = RUN) -> list[Planned]:
    tried = alone(run, 1, compiler)
    compiler.compiled.clear()
    return together(run, 1, NEEDED, limit, tried, compiler)


def test_one_that_is_enough_is_the_one_that_changes_least() -> None:
    compiler = Compiler({"remat block": 30, "precision mixed": 90, "precision bfloat16": 95})
    (only,) = chosen(compiler, limit=60)
    assert (only.flags, compiler.compiled) == ({"precision": "mixed"}, [])


def test_several_are_added_by_what_they_save_until_the_step_fits() -> None:
    compiler = Compiler({"remat dots": 10, "remat block": 30, "precision mixed": 20})
    taken = chosen(compiler, limit=55)
    assert [one.cost.needed for one in taken] == [70, 50]
    assert words(taken[-1].flags) == "--remat block --precision mixed"
    assert compiler.compiled == ["--remat block --precision mixed"]


def test_those_that_keep_the_results_come_first() -> None:
    compiler = Compiler({"remat block": 10, "accumulate 16": 20, "precision mixed": 40})
    taken = chosen(compiler, limit=35)
    assert words(taken[-1].flags) == "--accumulate 16 --remat block --precision mixed"


def test_a_smaller_batch_is_taken_after_parts_of_the_batch_if_it_saves_more() -> None:
    for saved, last in ((25, "--batch-size 1"), (20, "--accumulate 16")):
        taken = chosen(Compiler({"accumulate 16": 20, "batch_size 1": saved}), limit=1)
        assert [words(one.flags) for one in taken][-1] == last
    accumulating = changed(RUN, {"accumulate": 4})
    taken = chosen(Compiler({"batch_size 1": 20}), limit=1, run=accumulating)
    assert [words(one.flags) for one in taken] == ["--batch-size 1 --accumulate 1"]


def test_if_nothing_fits_the_last_is_the_smallest() -> None:
    taken = chosen(Compiler({"remat block": 30, "precision mixed": 20}), limit=1)
    assert taken[-1].cost.needed == 50
    nothing = Compiler({})
    assert chosen(nothing, limit=1) == []
    assert nothing.compiled == []


def test_what_saves_nothing_alone_is_tried_beside_the_others() -> None:
    class Narrow(Compiler):
        def __call__(self, run: Pretrain, flags: Flags) -> Cost:
            cost = super().__call__(run, flags)
            return cost._replace(needed=cost.needed - 30) if {"remat", "weights"} <= set(flags) else cost

    compiler = Narrow({"remat block": 30, "precision mixed": 20})
    assert words(chosen(compiler, limit=25)[-1].flags) == "--remat block --precision mixed --weights int8"
    chosen(compiler, limit=50)
    assert compiler.compiled == ["--remat block --precision mixed"]  # they are enough


def test_what_saves_nothing_beside_others_is_left_out() -> None:
    class Overlapping(Compiler):
        def __call__(self, run: Pretrain, flags: Flags) -> Cost:
            return super().__call__(run, flags)._replace(needed=60 if {"remat", "batch_size"} & set(flags) else NEEDED)

    taken = chosen(Overlapping({}), limit=1)
    assert [one.flags for one in taken] == [{"remat": "dots"}]


def test_fewer_inputs_are_saved_once_the_update_is_inside_the_backward_pass() -> None:
    """Of 32 layers every fourth: 8 saved and 4 computed again are as few as can be."""
    run = defaults(changed(RUN, {"model": "7b"}))
    assert not any("keep_every" in one.flags for one in alone(run, 1, Compiler({})).values())
    taken = chosen(Compiler({"update_in_backward True": 40, "keep_every 4": 10}), limit=55, run=run)
    assert words(taken[-1].flags) == "--update-in-backward --keep-every 4"


def test_a_new_optimizer_makes_more_remedies_apply() -> None:
    adamw = changed(RUN, {"optimizer": "adamw"})
    savings = {"optimizer grassjump": 40, "mu_dtype bfloat16": 10, "nu_dtype bfloat16": 10}
    taken = chosen(Compiler(savings), limit=40, run=adamw)
    assert words(taken[-1].flags) == "--optimizer grassjump --mu-dtype bfloat16 --nu-dtype bfloat16"


def test_what_is_no_longer_needed_is_taken_back() -> None:
    """If a large saving comes late, earlier ones are superfluous; the dearest goes first."""

    class Narrow(Compiler):
        def __call__(self, run: Pretrain, flags: Flags) -> Cost:
            cost = super().__call__(run, flags)
            return cost._replace(needed=cost.needed - 45) if {"remat", "weights"} <= set(flags) else cost

    compiler = Narrow({"remat block": 20, "precision mixed": 15, "rank 16": 10})
    taken = chosen(compiler, limit=30)
    assert [words(one.flags) for one in taken] == [
        "--remat block",
        "--remat block --precision mixed",
        "--remat block --precision mixed --rank 16",
        "--remat block --precision mixed --rank 16 --weights int8",
        "--remat block --precision mixed --weights int8",
    ]
    assert [one.cost.needed for one in taken] == [80, 65, 55, 10, 20]
    # Neither fits without mixed precision or without --remat block: both were tried, and stay.
    assert compiler.compiled[-2:] == ["--remat block --weights int8", "--precision mixed --weights int8"]


def test_what_another_remedy_replaced_is_not_compiled_without_it() -> None:
    """A smaller batch has no parts."""
    compiler = Compiler({"accumulate 16": 20, "batch_size 1": 30, "precision mixed": 40})
    taken = chosen(compiler, limit=31)
    assert words(taken[-1].flags) == "--precision mixed --batch-size 1"
    assert len(compiler.compiled) == len(set(compiler.compiled))


def test_what_applied_only_beside_a_remedy_goes_with_it() -> None:
    adamw = changed(RUN, {"optimizer": "adamw"})

    class Small(Compiler):
        def __call__(self, run: Pretrain, flags: Flags) -> Cost:
            cost = super().__call__(run, flags)
            return cost._replace(needed=5) if flags.get("weights") == "int8" and "remat" in flags else cost

    compiler = Small({"remat block": 10, "optimizer grassjump": 40, "mu_dtype bfloat16": 10})
    taken = chosen(compiler, limit=20, run=adamw)
    assert "--optimizer grassjump" in words(taken[-3].flags)
    assert words(taken[-1].flags) == "--remat block --weights int8"
