"""What records say: final accuracies, and whether a claim about them holds, does not, or cannot be told."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from .report import mean_and_spread, percent
from .store import Record

SETTINGS = {"alone": "non-transductive", "transductive": "transductive"}
"""How held-out images are classified (Section 6.1): a record's word for it, and the reader's."""


def final_accuracies(trainings: Mapping[str, Sequence[Record]], what: str) -> pd.DataFrame:
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


Cells = Sequence[Mapping[str, Any]]


def over_tasks(cells: Cells) -> tuple[float, float]:
    """Accuracy in percent, mean over seeds, and half its 95 % interval over evaluation tasks.

    `cells` are the seeds' own. Seeds are independent, so that the interval of their mean shrinks with their number.
    """
    interval = np.sqrt(np.square([cell["ci95"] for cell in cells]).sum()) / len(cells)
    return 100 * float(np.mean([cell["mean"] for cell in cells])), 100 * float(interval)


def exceeds(better: Cells, worse: Cells, by: float | int = 0) -> bool | None:
    """Whether the accuracy of some cells (`over_tasks`) is more than `by` percentage points above that of others.

    `None` where that cannot be told: the difference is `by` within its 95 % interval over evaluation tasks, or there
    are no cells. Both may have the same tasks, so that the interval is on the wide side.
    """
    if not better or not worse:
        return None
    (high, wide), (low, narrow) = over_tasks(better), over_tasks(worse)
    beyond = high - low - by
    return None if abs(beyond) <= np.hypot(wide, narrow) else bool(beyond > 0)


def above(
    better: Sequence[Record],
    worse: Sequence[Record],
    by: float | int = 0,
    shots: str = "5-shot",
    setting: str = "alone",
) -> bool | None:
    """Whether trainings end more than `by` percentage points of accuracy above others (below, where it is negative).

    `None` where that cannot be told (`exceeds`), also because all of either diverged.
    """
    return exceeds(cells_of(better, shots, setting), cells_of(worse, shots, setting), by)


def cells_of(records: Sequence[Record], shots: str = "5-shot", setting: str = "alone") -> Cells:
    """What each seed's final evaluation found; nothing of those that diverged."""
    return [record.results[shots][setting] for record in records if record.status == "finished"]


def gain(records: Sequence[Record], reference: Sequence[Record], shots: str, setting: str) -> tuple[float, float]:
    """Points of accuracy that trainings gain on those of a reference with the same seeds, mean over seeds.

    Also half its 95 % interval over seeds (Student's t), NaN of one seed. Both are NaN where no seed finished in both.
    """
    here, there = (
        {r.config["seed"]: 100 * r.results[shots][setting]["mean"] for r in some if r.status == "finished"}
        for some in (records, reference)
    )
    gains = [here[seed] - there[seed] for seed in here if seed in there]
    if not gains:
        return np.nan, np.nan
    mean, spread = mean_and_spread(gains)
    return mean, float(stdtrit(len(gains) - 1, 0.975) * spread / np.sqrt(len(gains)))


def against(reference: Sequence[Record], others: Mapping[str, Sequence[Record]], what: str) -> pd.DataFrame:
    """What several trainings `gain` on a reference in every setting that they have.

    `others` maps a label to records, one a seed; `what` heads the labels' column.
    """
    rows = []
    for label, records in others.items():
        row = {what: label}
        for shots in (f"{n}-shot" for n in records[0].config["eval_shots"]):
            for setting, name in SETTINGS.items():
                points, interval = gain(records, reference, shots, setting)
                cell = f"{points:+.2f}" if np.isnan(interval) else f"{points:+.2f} ± {interval:.2f}"
                row[f"{shots}, {name}"] = "diverged" if np.isnan(points) else cell
        rows.append(row)
    return pd.DataFrame(rows)


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
