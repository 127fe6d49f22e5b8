"""The command line: `python -m train COMMAND --flags`."""

import functools
import operator
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import tyro

from train.compare.config import Compare, CompareFinetune, compare_defaults, compare_finetune_defaults
from train.config.finetune import Finetune, finetune_defaults
from train.config.run import Pretrain, UserError, defaults
from train.config.stored import Run, read_config, read_stored
from train.config.validate import refuse_conflicts
from train.evaluate.config import Evaluate
from train.export.config import Export
from train.import_.config import Import
from train.plan.config import Plan, plan_defaults
from train.report.config import Report
from train.sample.config import Sample

Command = Pretrain | Finetune | Compare | CompareFinetune | Plan | Import | Export | Sample | Evaluate | Report
HOW_TO_RESUME = (
    "Checkpoints are never partial. To resume, start the same command in every process, on any number of processes, "
    "and add --resume if --run-dir contains a config.json."
)


def parse(arguments: Sequence[str]) -> Command:
    """Return the complete configuration of a command.

    The arguments are parsed twice: once for the flags that the defaults of other flags depend on,
    and once more with these defaults, or with the settings of a stored run.
    """
    parsed = _read(arguments, None)
    if isinstance(parsed, Compare):
        return _read(arguments, compare_defaults(parsed))
    if isinstance(parsed, CompareFinetune):
        return _read(arguments, compare_finetune_defaults(parsed))
    if isinstance(parsed, Plan):
        return _read(arguments, plan_defaults(parsed))
    if not isinstance(parsed, Pretrain | Finetune):  # their flags have the defaults of their classes
        return parsed
    stored = _same_command(parsed, read_stored(parsed.run_dir).config) if parsed.resume else None
    if parsed.config is not None:
        default = _same_command(parsed, read_config(parsed.config, parsed.run_dir))
    elif stored is not None:
        default = stored
    else:
        default = defaults(parsed) if isinstance(parsed, Pretrain) else finetune_defaults(parsed)
    config = _read(arguments, default)
    if stored is not None:
        assert isinstance(config, Pretrain | Finetune)
        refuse_conflicts(config, stored)
    return config


def _same_command(parsed: Run, stored: Run) -> Run:
    if type(parsed) is not type(stored):
        name = type(stored).__name__.lower()
        raise UserError(f"the settings are those of a run of {name}: use python -m train {name}.")
    return stored


def _read(arguments: Sequence[str], default: Command | None) -> Command:
    def command(kind: type) -> Any:
        known = default if isinstance(default, kind) else tyro.MISSING_NONPROP
        name = re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()  # such as compare-finetune
        return Annotated[kind, tyro.conf.subcommand(name, default=known)]

    commands: Any = functools.reduce(operator.or_, map(command, get_args(Command)))
    config: Command = tyro.cli(
        commands,
        args=arguments,
        prog="python -m train",
        description="Train language models with GrassWalk, GrassJump and their rivals; import, export and use them.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return config


def dispatch(config: Command) -> None:
    """Run a command.

    The commands are imported here because their imports take seconds, which `--help` and mistakes
    in the flags should not have to wait for.
    """
    match config:
        case Pretrain():
            from train.pretrain.command import run_pretrain
            from train.system.processes import joined

            with joined(config.processes, HOW_TO_RESUME):
                run_pretrain(config)
        case Finetune():
            from train.finetune.command import run_finetune
            from train.system.processes import joined

            with joined(config.processes, HOW_TO_RESUME):
                run_finetune(config)
        case Compare() | CompareFinetune():
            from train.compare.command import run_compare

            run_compare(config)
        case Plan():
            from train.plan.command import run_plan

            run_plan(config)
        case Import():
            from train.import_.command import run_import

            run_import(config)
        case Export():
            from train.export.command import run_export

            run_export(config)
        case Sample():
            from train.sample.command import run_sample

            run_sample(config)
        case Evaluate():
            from train.evaluate.command import run_evaluate

            run_evaluate(config)
        case Report():
            from train.report.command import run_report

            run_report(config)


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status."""
    try:
        dispatch(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
