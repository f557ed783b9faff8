"""Which of two is above the other, by how much, and how surely: what verdicts on our own trainings rest on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ..runs.records import Record
from .statistics import along, mean_and_spread, over_seeds, welch


class Measured(NamedTuple):
    """What was found for one seed: a number, and half its 95 % interval over tasks, NaN where that is not known."""

    mean: float
    interval: float = float("nan")


BySeed = Mapping[int, float]
"""A number for each training seed."""


class Comparison(NamedTuple):
    """By how much one thing is above another, half the 95 % interval of that, and over how many seeds that is.

    With one seed the interval is over its evaluation tasks alone, whose training might have gone otherwise. With none
    there was nothing to compare. The claim is that the difference is more than `by`.
    """

    difference: float
    interval: float
    seeds: int
    by: float | int = 0

    @property
    def holds(self) -> bool | None:
        """Whether the difference is more than `by`; `None` where `by` is within its interval."""
        beyond = self.difference - self.by
        return bool(beyond > 0) if abs(beyond) > self.interval else None

    def __str__(self) -> str:
        """Such as `-1.7 ± 1.5`, to two digits of the interval; empty where there was nothing to compare."""
        if np.isnan(self.difference):
            return ""
        if np.isnan(self.interval) or self.interval == 0:
            return f"{self.difference:+,.6g}" + " ± 0" * (self.interval == 0)
        digits = max(0, 1 - int(np.floor(np.log10(self.interval))))
        return f"{self.difference:+,.{digits}f} ± {self.interval:,.{digits}f}"


NOTHING = Comparison(float("nan"), float("nan"), 0)
"""Of things that were not run, or all diverged."""


def compare(some: Mapping[int, Measured], others: Mapping[int, Measured], by: float | int = 0) -> Comparison:
    """Some things beside others, each with one or more seeds.

    With two seeds or more in common it is the mean of the differences within a seed, with Student's interval over
    seeds; else the difference of means. Where both have several seeds, its interval is Welch's. One seed beside several
    takes their spread for its own, unless the error of the tasks is wider. One beside one has that error alone.
    """
    if not some or not others:
        return NOTHING._replace(by=by)
    seeds = sorted(some.keys() & others.keys())
    if len(seeds) > 1:
        return Comparison(*over_seeds([some[s].mean - others[s].mean for s in seeds]), len(seeds), by)
    (a, spread, n), (b, other_spread, m) = ((*mean_and_spread(_means(of)), len(of)) for of in (some, others))
    if min(n, m) > 1:
        return Comparison(a - b, welch((a, spread, n), (b, other_spread, m)), min(n, m), by)
    interval = float(np.hypot(_over_tasks(some), _over_tasks(others)))
    if max(n, m) > 1:
        known = np.fmax(spread, other_spread)
        interval = max(interval, float(stdtrit(max(n, m) - 1, 0.975) * known * np.sqrt(1 + 1 / max(n, m))))
    return Comparison(a - b, interval, 1, by)


def alike(some: Mapping[int, Measured], others: Mapping[int, Measured], points: float | int = 1) -> Comparison:
    """Whether some things are within some points of others, above or below.

    Of the two directions it is the one that decides, so that its difference is 0 or less where it is told.
    """
    return every((compare(some, others, -points), compare(others, some, -points)))


def _means(of):
    return [measured.mean for measured in of.values()]


def _over_tasks(of):
    return np.sqrt(np.square([measured.interval for measured in of.values()]).sum()) / len(of)


def in_pairs(some: BySeed, others: BySeed) -> Comparison:
    """Numbers beside others of the same seeds, of which nothing is known but themselves.

    One seed in common has no interval, and tells nothing; none is nothing to compare.
    """
    seeds = some.keys() & others.keys()
    return compare({s: Measured(some[s]) for s in seeds}, {s: Measured(others[s]) for s in seeds})


def accuracies(records: Sequence[Record], shots: str = "5-shot", setting: str = "alone") -> dict[int, Measured]:
    """Final accuracies of classification runs in percent, by seed; nothing of those that diverged."""
    return {
        record.config["seed"]: _percent(record.results[shots][setting])
        for record in records
        if record.status == "finished"
    }


def accuracies_of_row(records: Sequence[Record], algorithm: str, shots: int) -> dict[int, Measured]:
    """`accuracies` of an algorithm's row of Tables 1 and 2."""
    return accuracies(records, f"{shots}-shot", "transductive" if "Transduction" in algorithm else "alone")


def accuracies_along(records: Sequence[Record]) -> dict[int, Measured]:
    """Means over learning curves in percent, by seed: 5-shot, non-transductive."""
    kept = [record for record in records if record.status == "finished"]
    cells = along(kept) if kept else ()
    return {record.config["seed"]: _percent(cell) for record, cell in zip(kept, cells, strict=True)}


def _percent(cell: Mapping[str, Any]) -> Measured:
    return Measured(100 * cell["mean"], 100 * cell["ci95"])


def above(
    better: Sequence[Record],
    worse: Sequence[Record],
    by: float | int = 0,
    shots: str = "5-shot",
    setting: str = "alone",
) -> Comparison:
    """Whether trainings end more than `by` percentage points of accuracy above others (below, where it is negative)."""
    return compare(accuracies(better, shots, setting), accuracies(worse, shots, setting), by)


def within(some: Sequence[Record], others: Sequence[Record], points: float | int, **cell: str) -> Comparison:
    """Whether trainings end within some percentage points of accuracy of others, above or below; `cell` as `above`."""
    return alike(accuracies(some, **cell), accuracies(others, **cell), points)


def above_along(better: Sequence[Record], worse: Sequence[Record]) -> Comparison:
    """Whether trainings are above others in the mean over their learning curves."""
    return compare(accuracies_along(better), accuracies_along(worse))


def every(comparisons: Iterable[Comparison]) -> Comparison:
    """Of several things that must all hold, the one that decides: the furthest from holding.

    That is one that does not hold, where there is one; else one that cannot be told; else the one that holds most
    narrowly. `NOTHING` where there are none.
    """

    def doubt(found):
        rank = {False: 0, None: 1, True: 2}[found.holds]
        return rank, found.seeds > 0, found.difference - found.by if found.seeds else 0.0

    return min(comparisons, key=doubt, default=NOTHING)
