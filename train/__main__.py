"""The command line: `python -m train COMMAND --flags`."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from train.compare.config import Compare, compare_defaults
from train.config.run import Pretrain, UserError, defaults
from train.config.validate import refuse_conflicts
from train.plan.config import Plan, plan_defaults
from train.pretrain.folder import stored

Command = Pretrain | Compare | Plan


def parse(arguments: Sequence[str]) -> Command:
    """Return the whole configuration of a command.

    The arguments are read twice: once for the flags that the defaults of others depend on, and once
    more with these defaults, or with the configuration of the run that is to be resumed.
    """
    given = _read(arguments, None)
    if isinstance(given, Compare):
        return _read(arguments, compare_defaults(given))
    if isinstance(given, Plan):
        return _read(arguments, plan_defaults(given))
    if not given.resume:
        return _read(arguments, defaults(given))
    kept = stored(given.run_dir).config
    resumed = _read(arguments, kept)
    assert isinstance(resumed, Pretrain)
    refuse_conflicts(resumed, kept)
    return resumed


def _read(arguments: Sequence[str], default: Command | None) -> Command:
    def command(kind: type) -> Any:
        known = default if isinstance(default, kind) else tyro.MISSING_NONPROP
        return tyro.conf.subcommand(kind.__name__.lower(), default=known)

    commands = (
        Annotated[Pretrain, command(Pretrain)] | Annotated[Compare, command(Compare)] | Annotated[Plan, command(Plan)]
    )
    config: Command = tyro.cli(commands, args=arguments, prog="python -m train", config=(tyro.conf.OmitArgPrefixes,))
    return config


def run(config: Command) -> None:
    """Do what a command asks; these imports take seconds, which --help and mistakes need not wait
    for.
    """
    if isinstance(config, Compare):
        from train.compare.command import compare

        compare(config)
    elif isinstance(config, Plan):
        from train.plan.command import plan

        plan(config)
    else:
        from train.pretrain.command import pretrain
        from train.system.processes import joined

        go_on = (
            "Checkpoints are whole: to go on, start the same command in every process, on as many as you like, with "
            "--resume if --run-dir holds a config.json."
        )
        with joined(config.processes, go_on):
            pretrain(config)


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the status of the process."""
    try:
        run(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
