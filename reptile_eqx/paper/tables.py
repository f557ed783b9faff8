"""Tables as people read them: the paper's, filled from records, and those of Sections 4 to 7."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..runs.records import Record
from .agreement import MARGIN_OF_MAML, MARGINS, beside_paper
from .catalogue import TRAININGS, training_of
from .comparisons import accuracies, in_pairs
from .settings import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6
from .statistics import (
    SETTINGS,
    cells_of,
    cells_of_row,
    estimate,
    finished,
    mean_and_spread,
    shots_of,
    size_before_adaptation,
    written,
)
from .theory import Problem, average_terms, float64, predicted_coefficients, recovered_coefficients


def percent(mean: float, spread: float) -> str:
    """A cell such as `95.39 ± 0.09 %`; without ± where a single seed gives none."""
    return f"{written(mean, spread)} %"


def accuracy_table(
    dataset: str, records: Mapping[str, Sequence[Record]], repeated: Mapping[str, Sequence[Record]] | None = None
) -> pd.DataFrame:
    """Table 1 ("mini-imagenet") or Table 2 ("omniglot"), every row: the paper's accuracy beside what is recorded.

    **Arguments:**

    - `dataset`: which.
    - `records`: by the name of their training (`catalogue.TRAININGS`); one that is missing or has none is a row that
      was not run, and one of which all diverged says so.
    - `repeated`: for Reptile's trainings, records of several seeds, of whatever length: a row of one seed borrows
      their spread in the same cell. Without them nothing can be told of it.

    **Returns:** a row for each task and algorithm. "Here" is the mean over seeds and their standard deviation, as the
    paper has it; "Difference" has its 95 % interval, and "Verdict" is the rule's (`agreement`).
    """
    paper = {"mini-imagenet": TABLE_1, "omniglot": TABLE_2}[dataset]
    rows = []
    for shots, ways in next(iter(paper.values())):
        for algorithm, values in paper.items():
            training = training_of(dataset, algorithm, shots, ways)
            found = records.get(training, ())
            row = {"Task": f"{shots}-shot {ways}-way", "Algorithm": algorithm, "Paper": percent(*values[shots, ways])}
            nearest = (repeated or {}).get(f"{dataset}-{ways}way-reptile", ())
            borrowed = [100 * cell["mean"] for cell in cells_of_row(nearest, algorithm, shots)]
            margin = MARGIN_OF_MAML if "MAML" in algorithm else MARGINS[dataset]
            judge = functools.partial(beside_paper, paper=values[shots, ways], margin=margin, borrowed=borrowed)
            rows.append(row | _cells(found, training, algorithm, shots, judge))
    return pd.DataFrame(rows)


def reptile_summary(
    records: Mapping[str, Sequence[Record]], repeated: Mapping[str, Sequence[Record]] | None = None
) -> pd.DataFrame:
    """Reptile's rows of Tables 1 and 2 in short; arguments as `accuracy_table` has them.

    Where its two verdicts differ, the first is without transduction.
    """
    rows = []
    for dataset, name in (("omniglot", "Omniglot"), ("mini-imagenet", "Mini-ImageNet")):
        whole = accuracy_table(dataset, records, repeated).set_index(["Task", "Algorithm"])
        for task in dict.fromkeys(task for task, _ in whole.index):
            alone, together = (whole.loc[task, row] for row in ("Reptile", "Reptile + Transduction"))
            row = {"Reptile": f"{name}, {task}", "Paper": alone["Paper"], "Here": alone["Here"]}
            row |= {"Paper, transductive": together["Paper"], "Here, transductive": together["Here"]}
            verdicts = [cell["Verdict"].removesuffix(", cannot be told") for cell in (alone, together)]
            row["Verdict"] = "; ".join(dict.fromkeys(verdicts))
            rows.append(row | {"Trained for": alone["Scale"].rsplit(" tasks", 1)[0].rsplit(", ", 1)[0]})
    return pd.DataFrame(rows)


_COLUMNS = ("Here", "Difference", "Verdict", "Scale")


def _cells(records, training, algorithm, shots, judge):
    """What was found, and how it stands beside the paper."""
    cells, nothing = cells_of_row(records, algorithm, shots), dict.fromkeys(_COLUMNS, "")
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
        said += ", parallel order"
    if not cells:
        return nothing | {"Here": "diverged", "Scale": said}
    agreement = judge(cells)
    return {
        "Here": percent(*mean_and_spread([100 * cell["mean"] for cell in cells])),
        "Difference": f"{agreement.points:+.2f} ± {agreement.interval:.2f}",
        "Verdict": agreement.verdict,
        "Scale": said,
    }


def final_accuracies(trainings: Mapping[str, Sequence[Record]], what: str) -> pd.DataFrame:
    """Final accuracy of several trainings, mean ± standard deviation over seeds, in every setting that they have.

    `trainings` maps a label to records of `FewShotClassification` runs, one a seed; `what` heads the labels' column.
    Where some have more seeds than others, a column says how many.
    """
    rows, counts = [], {len(records) for records in trainings.values()}
    for label, records in trainings.items():
        row: dict[str, Any] = {what: label} | ({"Seeds": len(records)} if len(counts) > 1 else {})
        for shots in shots_of(records):
            for setting, name in SETTINGS.items():
                kept = [100 * cell["mean"] for cell in cells_of(records, shots, setting)]
                row[f"{shots}, {name}"] = percent(*mean_and_spread(kept)) if kept else "diverged"
        rows.append(row)
    return pd.DataFrame(rows)


def against(reference: Sequence[Record], others: Mapping[str, Sequence[Record]], what: str) -> pd.DataFrame:
    """Points of accuracy that several trainings gain on a reference with the same seeds, in every setting they have.

    Mean over seeds, and half its 95 % interval over them (Student's t), without that of one seed. `others` maps a label
    to records, one a seed; `what` heads the labels' column.
    """
    rows = []
    for label, records in others.items():
        row = {what: label}
        for shots in shots_of(records):
            for setting, name in SETTINGS.items():
                cells = (accuracies(some, shots, setting) for some in (records, reference))
                gained = in_pairs(*({seed: cell.mean for seed, cell in of.items()} for of in cells))
                said = written(gained.difference, gained.interval, "+.2f") if gained.seeds else "diverged"
                row[f"{shots}, {name}"] = said
        rows.append(row)
    return pd.DataFrame(rows)


def figure_4_tried(tried: Mapping[str, Mapping[str, Mapping[str, Mapping[Any, Sequence[Record]]]]]) -> pd.DataFrame:
    """Points of Figure 4 under several readings: a column for each, with the accuracy and its 95 % interval.

    The interval is over seeds where there are several, which the cell says, and else over tasks. `tried` has for each
    reading what `plots.figure_4` takes. The points are those that a reading other than the first has records of; a
    reading without any is left out.
    """
    first, *others = tried
    rows = []
    for panel, lines in tried[first].items():
        for line, points in lines.items():
            for value in points:
                row = {"Panel": panel, "Line": line, "Point": _POINTS[panel].format(value)}
                for reading, panels in tried.items():
                    cells = cells_of(panels.get(panel, {}).get(line, {}).get(value, ()))
                    seeds = f", {len(cells)} seeds" if len(cells) > 1 else ""
                    row[reading] = "{:.1f} ± {:.1f}".format(*estimate(cells)) + seeds if cells else ""
                if any(row[reading] for reading in others):
                    rows.append(row)
    return pd.DataFrame(rows).replace("", np.nan).dropna(axis="columns", how="all").fillna("")


_POINTS = {"4a": "{} iterations", "4b": "batches of {}", "4c": "outer step {:g}"}


def losses_by_setting(tried: Mapping[str, Record]) -> pd.DataFrame:
    """Eq. 8 before and after adaptation for each of several `SineRegression` runs, with its interval over tasks."""
    rows = []
    for setting, record in tried.items():
        loss = record.results.get("loss")
        cells = {
            f"loss after {n} steps": f"{loss['mean'][n]:.2f} ± {loss['ci95'][n]:.2f}" if loss else "diverged"
            for n in (0, 1, 8, record.config["eval_inner_iterations"])
        }
        rows.append({"Setting": setting, **cells})
    return pd.DataFrame(rows)


def sine_summary(methods: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """Eq. 8 before and after adaptation for each method, mean ± standard deviation over seeds, and the size of f_φ."""
    rows = []
    for name, records in methods.items():
        losses = np.array([record.results["loss"]["mean"] for record in finished(records)])
        row = {"Method": name, "RMS of f before": f"{size_before_adaptation(records):.2f}"}
        for step in (0, 1, 8, losses.shape[1] - 1):
            row[f"loss after {step} steps"] = written(*mean_and_spread(losses[:, step]))
        rows.append(row)
    return pd.DataFrame(rows)


def coefficient_rows(problems: dict[str, Problem], ks: dict[str, Sequence[int]], alpha: float) -> list[dict[str, Any]]:
    """Predicted and recovered coefficients of each problem, for each of its k (eqs. 33-35, 37, 39, 41), as a table's
    rows."""
    rows = []
    with float64():
        for name, (loss, phi, tasks) in problems.items():
            terms = average_terms(loss, phi, tasks)
            for k in ks[name]:
                recovered = recovered_coefficients(loss, phi, tasks, k, alpha, terms)
                for algorithm, predicted in predicted_coefficients(k).items():
                    for term, wanted, found in zip(
                        ("AvgGrad", "-α AvgGradInner"), predicted, recovered[algorithm], strict=True
                    ):
                        row = {"Network": name, "Algorithm": algorithm, "k": k, "Term": term}
                        rows.append(
                            row | {"Predicted": wanted, "Recovered": found, "Error (%)": 100 * (found / wanted - 1)}
                        )
    return rows


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


def _plain(value: Any) -> str:
    """A number as the paper writes it: 100K, 0.001, 1.0, or "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value // 1000}K" if value and value % 1000 == 0 else str(value)
    return str(value)
