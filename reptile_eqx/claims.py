"""What records say: final accuracies, and whether a claim about them holds, does not, or cannot be told."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from .report import mean_and_spread, percent
from .store import Record

SETTINGS = {"alone": "non-transductive", "transductive": "transductive"}
"""How held-out images are classified (Section 6.1): a record's word for it, and the reader's."""


def accuracy_table(trainings: Mapping[str, Sequence[Record]], what: str) -> pd.DataFrame:
    """Final accuracy of several trainings, mean ± standard deviation over seeds, in every setting that they have.

    `trainings` maps a label to records of `FewShotClassification` runs, one a seed; `what` heads the labels' column.
    """
    rows = []
    for label, records in trainings.items():
        row = {what: label}
        for shots in records[0].config["eval_shots"]:
            for setting, name in SETTINGS.items():
                kept = [r.results[f"{shots}-shot"][setting]["mean"] for r in records if r.status == "finished"]
                cell = percent(*mean_and_spread([100 * value for value in kept])) if kept else "diverged"
                row[f"{shots}-shot, {name}"] = cell
        rows.append(row)
    return pd.DataFrame(rows)


def above(
    better: Sequence[Record],
    worse: Sequence[Record],
    by: float | int = 0,
    shots: str = "5-shot",
    setting: str = "alone",
) -> bool | None:
    """Whether trainings end more than `by` percentage points of accuracy above others (below, where it is negative).

    `None` where that cannot be told: the difference of the means over seeds is `by` within its 95 % interval over
    evaluation tasks, or all of either diverged. Seeds have the same tasks in both, so that the interval is on the wide
    side.
    """
    means, squares = [], []
    for records in (better, worse):
        cells = [record.results[shots][setting] for record in records if record.status == "finished"]
        if not cells:
            return None
        means.append(100 * np.mean([cell["mean"] for cell in cells]))
        squares.append(np.sum(np.square([100 * cell["ci95"] for cell in cells])) / len(cells) ** 2)
    beyond = means[0] - means[1] - by
    return None if abs(beyond) <= np.sqrt(sum(squares)) else bool(beyond > 0)


def every(answers: Iterable[bool | None]) -> bool | None:
    """Whether all of several things hold: not if one does not; `None` where one cannot be told, or there are none."""
    answers = list(answers)
    if False in answers:
        return False
    return None if None in answers or not answers else True


def verdict(claim: str, holds: bool | np.bool_ | None, note: str = "") -> str:
    """A line that says whether a claim holds; where it does not seem to, at which scale (`note`, from `scale`)."""
    said = {True: "holds", False: "does not hold", None: "cannot be told"}[None if holds is None else bool(holds)]
    return f"{said}{' at this scale' if note and not holds else ''}: {claim}"
