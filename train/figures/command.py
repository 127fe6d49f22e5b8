"""`figures`: PNGs from the files of runs.

loss.png       losses over steps, tokens and seconds, of all runs
energy.png     captured energy over the steps, by type of layer and depth (Figure 1 of 2510.01878)
spectrum.png   singular values of the tangent of the subspace error (Figure 2)
curvature.png  Frobenius norm of that tangent (Figure 9), and the same beside the gradient
subspaces.png  how far the subspaces move, and what is recovered outside them

With several runs the last four begin with the name of the folder of their run.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from train.config.run import UserError
from train.figures.config import Figures
from train.figures.losses import Losses, loss_figure
from train.figures.subspaces import curvature_figure, energy_figure, spectrum_figure, subspaces_figure
from train.storage.folder import RunFolder, rows_of_any_version
from train.storage.metrics import Row, evaluations_of, read_rows, save_figure, updates_of
from train.storage.quantities import loss_unit

OF_SUBSPACES = {
    "energy": energy_figure,
    "spectrum": spectrum_figure,
    "curvature": curvature_figure,
    "subspaces": subspaces_figure,
}


def run_figures(config: Figures) -> None:
    """Write the figures, and print where they are."""
    if not config.run_dir:
        raise UserError("--run-dir names no folder: give those of one or more runs.")
    folders = {path: RunFolder(path) for path in config.run_dir}
    for path, folder in folders.items():
        if not folder.config.exists():
            raise UserError(f"--run-dir {path} contains no run: give a folder with a config.json.")
    out = config.out or next(iter(folders.values())).figures
    figures = dict(_figures(folders))
    if not figures:
        raise UserError(f"--run-dir {' '.join(map(str, folders))} has no update yet: wait for the first.")
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
        print(f"written: {out / name}.png")
    for path, folder in folders.items():
        if not read_rows(folder.diagnostics):
            print(f"{path} has no measurements of subspaces: train with --diagnostics for their figures.")


def _figures(folders: dict[Path, RunFolder]) -> Iterator[tuple[str, Figure]]:
    names = _names(list(folders))
    losses, units = [], dict[str, None]()
    for path, folder in folders.items():
        run = folder.stored().config
        units[loss_unit(run)] = None
        if updates := updates_of(rows := rows_of_any_version(folder, run)):
            losses.append(Losses(names[path], f"with {run.optimizer.optimizer}", updates, evaluations_of(rows)))
    if len(units) > 1:
        raise UserError(f"--run-dir has runs whose losses are in {' and in '.join(units)}: draw them apart.")
    if losses:
        yield "loss", loss_figure(losses, next(iter(units)))
    for path, folder in folders.items():
        prefix = f"{names[path]}-" if len(folders) > 1 else ""
        if rows := _measurements(folder):
            for name, draw in OF_SUBSPACES.items():
                if figure := draw(rows, names[path]):
                    yield f"{prefix}{name}", figure


def _measurements(folder: RunFolder) -> list[Row]:
    """Return the rows of diagnostics.jsonl of finite numbers, and of those quantities and types of
    layer that most rows have: a name may be damaged.
    """
    rows = [row for row in read_rows(folder.diagnostics) if not _has_none(row)]
    usual = Counter(map(_quantities, rows)).most_common(1)
    return [row for row in rows if usual and _quantities(row) == usual[0][0]]


def _quantities(row: Row) -> frozenset[tuple[str, str]]:
    """Return each quantity of a row with each type of layer."""
    return frozenset((name, kind) for name, value in row.items() if isinstance(value, dict) for kind in value)


def _has_none(value: object) -> bool:
    """Whether a number is missing, as nan and infinity are in JSON."""
    if isinstance(value, dict | list):
        return any(map(_has_none, value.values() if isinstance(value, dict) else value))
    return value is None


def _names(paths: list[Path]) -> dict[Path, str]:
    """Return the names of folders, with their parents' where they are the same."""
    counts = Counter(path.absolute().name for path in paths)
    return {
        path: "-".join(path.absolute().parts[-2:] if counts[path.absolute().name] > 1 else path.absolute().parts[-1:])
        for path in paths
    }
