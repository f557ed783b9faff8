"""Tables 1 to 6: the paper's accuracies beside what is recorded, and its hyper-parameters from the settings used."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .claims import cells_of, exceeds, over_tasks, verdict
from .presets import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TRAININGS
from .report import mean_and_spread, percent, scale, task_name
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
    return cells_of(records, f"{shots}-shot", setting)


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
    evaluated = [record.config["eval_tasks"] for record in records]
    tasks = " to ".join(f"{n:,}" for n in sorted({min(evaluated), max(evaluated)}))
    said = f"{iterations:,} of {whole:,} iterations, {seeds}{diverged}, {tasks} tasks"
    if records[0].config.get("order") == "parallel":
        said += ", meta-batches side by side"
    if not cells:
        return nothing | {"Here": "diverged", "Scale": said}
    mean, spread = mean_and_spread([100 * cell["mean"] for cell in cells])
    _, interval = over_tasks(cells)
    ours = np.nanmax([spread, interval])
    return {
        "Here": percent(mean, spread),
        "Difference": f"{mean - paper[0]:+.2f}",
        "95 % over tasks": f"± {interval:.2f}",
        "Intervals meet": "yes" if abs(mean - paper[0]) <= paper[1] + ours else "no",
        "Scale": said,
    }


def verdicts(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """What Section 6.1 says of Tables 1 and 2, and whether the records bear it out: a line for each claim.

    A claim is left out where one of its cells was not run, and one that compares algorithms where one of the two was
    not trained for as long as in the paper.
    """
    found = []
    for dataset, ways, claim, *rows in _claims(records):
        trainings = [training_of(dataset, *row, ways) for row in rows]
        used = [records.get(training, ()) for training in trainings]
        cells = [_measured(some, *row) for some, row in zip(used, rows, strict=True)]
        if all(cells):
            whole = [TRAININGS[training]["outer_iterations"] for training in trainings]
            note = "; ".join(filter(None, map(scale, used, whole)))
            found.append(verdict(f"{task_name(used[0][0])}{claim}", exceeds(*cells), note))
    return found


def _claims(records):
    """Dataset, ways, claim, and two rows, (algorithm, shots), the first of which should be above the second."""
    for dataset, paper in (("omniglot", TABLE_2), ("mini-imagenet", TABLE_1)):
        best, other = ("Reptile", "MAML") if dataset == "mini-imagenet" else ("MAML", "Reptile")
        for shots, ways in next(iter(paper.values())):
            transductive = [(f"{algorithm} + Transduction", shots) for algorithm in (best, other)]
            helped = (
                f" {shots}-shot: transduction helps Reptile",
                ("Reptile + Transduction", shots),
                ("Reptile", shots),
            )
            yield dataset, ways, *helped
            if all(_whole(records, training_of(dataset, *row, ways)) for row in transductive):
                yield dataset, ways, f" {shots}-shot: {best} is ahead of {other}", *transductive
            if shots == 5:
                yield dataset, ways, ": five shots beat one", ("Reptile", 5), ("Reptile", 1)


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
