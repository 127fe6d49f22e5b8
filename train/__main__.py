"""The command line: `python -m train COMMAND --flags`."""

import functools
import io
import operator
import re
import sys

if __name__ == "__main__":  # Ctrl-C is answered while the imports below take their seconds
    from train.system.signals import exiting_on_signals

    answered = exiting_on_signals()
    answered.__enter__()

from collections.abc import Sequence
from typing import Annotated, Any, get_args

import tyro

from train.compare.config import Compare, CompareFinetune, compare_defaults, compare_finetune_defaults
from train.config.beginning import continued
from train.config.finetune import Finetune, finetune_defaults
from train.config.mistakes import check_effect, check_values, check_words
from train.config.presets import PRESETS
from train.config.resumed import refuse_conflicts
from train.config.run import ModelFlags, Pretrain, UserError, defaults, with_preset
from train.config.schedule import ScheduleFlags
from train.config.stored import CONFIG, Run, read_config, read_stored
from train.evaluate.config import Evaluate
from train.export.config import Export
from train.figures.config import Figures
from train.import_.config import Import
from train.plan.config import Plan, plan_defaults
from train.presets.config import Presets
from train.report.config import Report
from train.sample.config import Sample
from train.system.files import full_disk
from train.system.output import outliving

Command = (
    Pretrain
    | Finetune
    | Compare
    | CompareFinetune
    | Plan
    | Import
    | Export
    | Sample
    | Evaluate
    | Report
    | Figures
    | Presets
)
HOW_TO_RESUME = (
    "Checkpoints are never partial. To resume, start the same command in every process, on any number of processes, "
    "and add --resume if --run-dir contains a config.json."
)


def _name_of(command: type) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", command.__name__).lower()  # such as compare-finetune


COMMAND_OF: dict[str, type] = {_name_of(kind): kind for kind in get_args(Command)}


def parse(arguments: Sequence[str]) -> Command:
    """Return the complete configuration of a command.

    The arguments are parsed twice: once for the flags that the defaults of other flags depend on,
    and once more with these defaults, or with the settings of a stored run.
    """
    if arguments and (kind := COMMAND_OF.get(arguments[0])):
        check_words(arguments[1:], kind)
    parsed = _read(arguments, None)
    if isinstance(parsed, Pretrain | Compare | Plan) and parsed.preset is not None:
        parsed = _read(arguments, _of_the_size_of(parsed, parsed.preset))
    default, stored = _default(parsed)
    config = parsed if default is None else _read(arguments, default)
    check_values(config)
    if stored is not None:
        assert isinstance(config, Pretrain | Finetune)
        refuse_conflicts(config, stored, is_user=True)
    if default is not None:
        check_effect(config, default)
    return config


def _of_the_size_of(parsed: Pretrain | Compare | Plan, preset: str) -> Command:
    """Return the default of a command with the size and the steps of a preset."""
    model, schedule = ModelFlags(model=PRESETS[preset].model), ScheduleFlags(steps=PRESETS[preset].steps)
    if isinstance(parsed, Plan):
        return Plan(preset=preset, model=model)
    return type(parsed)(run_dir=parsed.run_dir, preset=preset, model=model, schedule=schedule)


def _default(parsed: Command) -> tuple[Command | None, Run | None]:
    """Return the defaults of the flags that were not given, and the run that is being resumed."""
    if isinstance(parsed, Compare):
        return compare_defaults(parsed), None
    if isinstance(parsed, CompareFinetune):
        return compare_finetune_defaults(parsed), None
    if isinstance(parsed, Plan):
        return plan_defaults(parsed), None
    if not isinstance(parsed, Pretrain | Finetune):  # their flags have the defaults of their classes
        return None, None
    stored = _resumed(parsed) if parsed.resume else None
    preset = parsed.preset if isinstance(parsed, Pretrain) else None
    if parsed.config is not None:
        if preset is not None:
            raise UserError(f"--preset {preset} has no effect beside --config: leave one of them out.")
        if isinstance(parsed, Pretrain) and parsed.start.init_from is not None:
            raise UserError("--init-from brings a model and a tokenizer, and so does --config: leave one out.")
        return _same_command(parsed, read_config(parsed.config, parsed.run_dir)), stored
    if stored is not None:
        if preset is not None and isinstance(parsed, Pretrain) and isinstance(stored, Pretrain):
            return with_preset(stored, parsed), stored
        return stored, stored
    if isinstance(parsed, Finetune):
        return finetune_defaults(parsed), None
    init_from = parsed.start.init_from
    return (defaults(parsed) if init_from is None else continued(parsed, init_from)), None


def _resumed(parsed: Run) -> Run:
    stored = read_stored(parsed.run_dir)
    if stored.is_older:
        raise UserError(
            f"the run in {parsed.run_dir} was started by an older version, whose learning rates differ: finish it with "
            f"that version, or repeat it with --config {parsed.run_dir / CONFIG} in another --run-dir."
        )
    return _same_command(parsed, stored.config)


def _same_command(parsed: Run, stored: Run) -> Run:
    if type(parsed) is not type(stored):
        name = type(stored).__name__.lower()
        raise UserError(f"the settings are those of a run of {name}: use python -m train {name}.")
    return stored


def _read(arguments: Sequence[str], default: Command | None) -> Command:
    def command(kind: type) -> Any:
        known = default if isinstance(default, kind) else tyro.MISSING_NONPROP
        return Annotated[kind, tyro.conf.subcommand(_name_of(kind), default=known)]

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
        case Figures():
            from train.figures.command import run_figures

            run_figures(config)
        case Presets():
            from train.presets.command import run_presets

            run_presets(config)


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status."""
    try:
        dispatch(parse(arguments))
    except UserError as error:
        return _failed(str(error), error.status)
    except OSError as error:
        if (message := full_disk(error)) is None:
            raise
        return _failed(message, UserError.status)
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr)
        return 130
    return 0


def _failed(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8, nor the terminal
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # a log is read while it grows
    sys.stdout, sys.stderr = map(outliving, (sys.stdout, sys.stderr))
    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        answered.__exit__(None, None, None)
