"""Tables 1 to 6: the paper's accuracies beside what is recorded, and its hyper-parameters from the settings used."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .presets import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TRAININGS
from .report import mean_and_spread, percent
from .store import Record
from .sweeps import TABLE_5, TABLE_6


def accuracy_table(dataset: str, records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """Table 1 ("mini-imagenet") or Table 2 ("omniglot"), every row: the paper's accuracy beside what is recorded.

    **Arguments:** the dataset, and records by the name of their training (`presets.TRAININGS`); one that is missing or
    has none is a row that was not run, and one of which all diverged says so.

    **Returns:** a row for each task and algorithm. "Here" is the mean over seeds and their standard deviation, as the
    paper has it; "over tasks" half the 95 % interval of that mean due to the finite number of evaluation tasks. The
    intervals meet where the difference is no more than the paper's ± and the larger of ours together.
    """
    paper = {"mini-imagenet": TABLE_1, "omniglot": TABLE_2}[dataset]
    rows = []
    for shots, ways in next(iter(paper.values())):
        for algorithm, values in paper.items():
            training = training_of(dataset, algorithm, shots, ways)
            found = records.get(training, ())
            row = {"Task": f"{shots}-shot {ways}-way", "Algorithm": algorithm, "Paper": percent(*values[shots, ways])}
            rows.append(row | _cells(found, training, algorithm, shots, values[shots, ways]))
    return pd.DataFrame(rows)


def training_of(dataset: str, algorithm: str, shots: int, ways: int) -> str:
    """The name of the training (`presets.TRAININGS`) behind a cell of Tables 1 and 2."""
    short = {"MAML + Transduction": f"{shots}shot-maml", "1st-order MAML + Transduction": f"{shots}shot-fomaml"}
    return f"{dataset}-{ways}way-{short.get(algorithm, 'reptile')}"


def _measured(records, algorithm, shots):
    """What each seed's evaluation found for an algorithm's row; nothing of those that diverged."""
    setting = "transductive" if "Transduction" in algorithm else "alone"
    return [record.results[f"{shots}-shot"][setting] for record in records if record.status == "finished"]


def _accuracy(records, algorithm, shots):
    """Mean over seeds in percent; NaN where there are none."""
    cells = _measured(records, algorithm, shots)
    return 100 * float(np.mean([cell["mean"] for cell in cells])) if cells else np.nan


_COLUMNS = ("Here", "Difference", "95 % over tasks", "Intervals meet", "Scale")


def _cells(records, training, algorithm, shots, paper):
    """What was found, beside the paper's mean and ±."""
    cells, nothing = _measured(records, algorithm, shots), dict.fromkeys(_COLUMNS, "")
    if not records:
        return nothing | {"Here": "not run"}
    iterations, whole = records[0].config["outer_iterations"], TRAININGS[training]["outer_iterations"]
    seeds = "1 seed" if len(records) == 1 else f"{len(records)} seeds"
    lost = len(records) - len(cells)
    diverged = f", of which {lost} diverged and left out" if lost else ""
    scale = f"{iterations:,} of {whole:,} iterations, {seeds}{diverged}, {records[0].config['eval_tasks']:,} tasks"
    if not cells:
        return nothing | {"Here": "diverged", "Scale": scale}
    mean, spread = mean_and_spread([100 * cell["mean"] for cell in cells])
    # Seeds are independent, so the interval of their mean shrinks with their number.
    interval = 100 * float(np.sqrt(np.square([cell["ci95"] for cell in cells]).sum())) / len(cells)
    ours = np.nanmax([spread, interval])
    return {
        "Here": percent(mean, spread),
        "Difference": f"{mean - paper[0]:+.2f}",
        "95 % over tasks": f"± {interval:.2f}",
        "Intervals meet": "yes" if abs(mean - paper[0]) <= paper[1] + ours else "no",
        "Scale": scale,
    }


def claims(records: Mapping[str, Sequence[Record]]) -> dict[str, bool]:
    """What Section 6.1 says of Tables 1 and 2, and whether the records bear it out.

    A claim is left out where one of its cells was not run, and one that compares algorithms where one of the two was
    not trained for as long as in the paper.
    """
    found = {}
    for dataset, paper in (("omniglot", TABLE_2), ("mini-imagenet", TABLE_1)):
        for shots, ways in next(iter(paper.values())):

            def accuracy(algorithm, shots=shots, dataset=dataset, ways=ways):
                training = training_of(dataset, algorithm, shots, ways)
                return _accuracy(records.get(training, ()), algorithm, shots)

            task = f"{dataset}, {ways}-way {shots}-shot"
            pairs = {f"{task}: transduction helps Reptile": ("Reptile + Transduction", "Reptile")}
            if all(_whole(records, training_of(dataset, a, shots, ways)) for a in ("Reptile", "MAML + Transduction")):
                best, other = ("Reptile", "MAML") if dataset == "mini-imagenet" else ("MAML", "Reptile")
                pairs[f"{task}: {best} is ahead of {other}"] = (f"{best} + Transduction", f"{other} + Transduction")
            for claim, (better, worse) in pairs.items():
                if not np.isnan(accuracy(better) - accuracy(worse)):
                    found[claim] = accuracy(better) > accuracy(worse)
            if shots == 5 and not np.isnan(accuracy("Reptile") - accuracy("Reptile", 1)):
                found[f"{dataset}, {ways}-way: five shots beat one"] = accuracy("Reptile") > accuracy("Reptile", 1)
    return found


def _whole(records, training):
    """Whether a training was done at the paper's length."""
    found = records.get(training, ())
    return bool(found) and found[0].config["outer_iterations"] >= TRAININGS[training]["outer_iterations"]


_NAMES = {
    "learning_rate": "Adam learning rate",
    "inner_batch_size": "Inner batch size",
    "inner_iterations": "Inner iterations",
    "training_shots": "Training shots",
    "outer_step_size": "Outer step size",
    "outer_iterations": "Outer iterations",
    "meta_batch_size": "Meta-batch size",
    "eval_inner_iterations": "Eval. inner iterations",
    "eval_inner_batch_size": "Eval. inner batch size",
}
_INNER = {"learning_rate": "Inner learning rate"}
_LISTED = {
    3: ({f"{ways}-way": TABLE_3[ways] for ways in (5, 20)}, tuple(_NAMES)),
    4: (
        {
            f"{shots}-shot": TABLE_4 | {"eval_inner_batch_size": size}
            for shots, size in zip((1, 5), TABLE_4["eval_inner_batch_size"], strict=True)
        },
        tuple(_NAMES),
    ),
    5: (
        {"Value": TABLE_5},
        ("learning_rate", "inner_batch_size", "outer_step_size", "outer_iterations", "eval_inner_batch_size",
         "eval_inner_iterations"),
    ),
    6: (
        {f"Figure {panel}": TABLE_6[panel] for panel in ("4b", "4a", "4c")},
        ("learning_rate", "inner_batch_size", "inner_iterations", "outer_step_size", "outer_iterations",
         "eval_inner_batch_size", "eval_inner_iterations"),
    ),
}  # fmt: skip


def hyper_parameters(table: int) -> pd.DataFrame:
    """Table 3, 4, 5 or 6 as the paper prints it, from the settings that the runs use; "-" is what a figure sweeps.

    Raises `ValueError` for another table.
    """
    if table not in _LISTED:
        raise ValueError(f"hyper-parameters are in Tables 3 to 6, not in Table {table}")
    columns, fields = _LISTED[table]
    names = _NAMES if table < 5 else _NAMES | _INNER
    rows = [{"Parameter": names[f]} | {c: _plain(values.get(f)) for c, values in columns.items()} for f in fields]
    return pd.DataFrame(rows)


def _plain(value: float | int | None) -> str:
    """A number as the paper writes it: 100K, 0.001, 1.0, or "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value // 1000}K" if value and value % 1000 == 0 else str(value)
    return str(value)
