"""The command line: `python -m train COMMAND --flags`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from train.config import Pretrain, UserError, defaults
from train.run_dir import stored
from train.validate import refuse_conflicts

PLAIN_FLAGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(arguments: Sequence[str]) -> Pretrain:
    """Return the whole configuration of a command.

    The arguments are read twice: once for the flags that the defaults of others depend on, and once
    more with these defaults, or with the configuration of the run that is to be resumed.
    """
    given = _read(arguments, None)
    if not given.resume:
        return _read(arguments, defaults(given))
    kept = stored(given.run_dir).config
    resumed = _read(arguments, kept)
    refuse_conflicts(resumed, kept)
    return resumed


def _read(arguments: Sequence[str], default: Pretrain | None) -> Pretrain:
    command = tyro.conf.subcommand("pretrain", default=default or tyro.MISSING_NONPROP)
    # A union has two members at least: until there is a second command, one that is not shown.
    commands = Annotated[Pretrain, command] | Annotated[None, tyro.conf.Suppress]
    config = tyro.cli(commands, args=arguments, prog="python -m train", config=PLAIN_FLAGS)
    assert isinstance(config, Pretrain)
    return config


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the status of the process."""
    try:
        config = parse(arguments)
        # Seconds of imports, which --help and mistakes need not wait for.
        from train.loop import pretrain

        pretrain(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
