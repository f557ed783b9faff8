"""Which of two is above the other, by how much, and how surely: what verdicts on our own trainings rest on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ..runs.records import Record
from .statistics import mean_and_spread, over_seeds, setting_of, welch


class Measured(NamedTuple):
    """What was found for one seed: a number, and half its 95 % interval over tasks, NaN where that is not known."""

    mean: float
    interval: float = float("nan")


BySeed = Mapping[int, float]
"""A number for each training seed."""


class Comparison(NamedTuple):
    """By how much one thing is above another, half the 95 % interval of that, and over how many seeds that is.

    The claim is that the difference is more than `by`; or, where there is `within`, that it is less than that either
    way. The interval is NaN where it is not known, and then nothing is told. With no seeds nothing was compared.
    """

    difference: float
    interval: float
    seeds: int
    by: float | int = 0
    within: float | int | None = None

    @property
    def beyond(self) -> float:
        """How far the difference is on the claim's side of its threshold; below 0 on the other."""
        return self.difference - self.by if self.within is None else self.within - abs(self.difference)

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds; `None` where the threshold is within the difference's interval."""
        return bool(self.beyond > 0) if abs(self.beyond) > self.interval else None

    def __str__(self) -> str:
        """Such as `-1.7 ± 1.5`, to two digits of the interval; empty where there was nothing to compare."""
        if np.isnan(self.difference):
            return ""
        if np.isnan(self.interval) or self.interval == 0:
            return f"{self.difference:+,.6g}" + " ± 0" * (self.interval == 0)
        digits = max(0, 1 - int(np.floor(np.log10(float(f"{self.interval:.1e}")))))
        # A difference that is rounded to 0 has no sign.
        return f"{round(self.difference, digits) + 0.0:+,.{digits}f} ± {self.interval:,.{digits}f}"


NOTHING = Comparison(float("nan"), float("nan"), 0)
"""Of things that were not run, or all diverged."""


def compare(some: Mapping[int, Measured], others: Mapping[int, Measured], by: float | int = 0) -> Comparison:
    """Some things beside others, each with one or more seeds.

    With two seeds or more in common it is the mean of the differences within a seed, with Student's interval over
    seeds; NaN where all are the same, as then the measure is too coarse to tell how far seeds differ. Else it is the
    difference of means, whose interval is not less than the error of the tasks: Welch's where both have several seeds;
    one seed beside several takes their spread for its own; one beside one has that error alone.
    """
    if not some or not others:
        return NOTHING._replace(by=by)
    seeds = sorted(some.keys() & others.keys())
    if len(seeds) > 1:
        pairs = [some[s].mean - others[s].mean for s in seeds]
        difference, interval = over_seeds(pairs)
        return Comparison(difference, np.nan if np.allclose(pairs, difference, 1e-9, 0) else interval, len(seeds), by)
    (a, spread, n), (b, other_spread, m) = ((*mean_and_spread(_means(of)), len(of)) for of in (some, others))
    interval = np.hypot(_over_tasks(some), _over_tasks(others))
    if min(n, m) > 1:
        interval = np.fmax(interval, welch((a, spread, n), (b, other_spread, m)))
    elif max(n, m) > 1:
        known = stdtrit(max(n, m) - 1, 0.975) * np.fmax(spread, other_spread)
        interval = np.fmax(interval, known * np.sqrt(1 + 1 / max(n, m)))
    return Comparison(a - b, float(interval), min(n, m), by)


def alike(some: Mapping[int, Measured], others: Mapping[int, Measured], points: float | int = 1) -> Comparison:
    """Whether some things are within some points of others, above or below; compared as `compare` does."""
    return compare(some, others)._replace(within=points)


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
    return accuracies(records, f"{shots}-shot", setting_of(algorithm))


def accuracies_along(records: Sequence[Record]) -> dict[int, Measured]:
    """Means over learning curves in percent, by seed: 5-shot, non-transductive.

    All points have the same tasks, so that the interval is a point's.
    """
    found = {}
    for record in (record for record in records if record.status == "finished"):
        points = [_percent(point["5-shot"]["alone"]) for point in record.curve]
        found[record.config["seed"]] = Measured(*(float(np.mean(column)) for column in zip(*points, strict=True)))
    return found


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
    """Of several things that must all hold, the one that decides.

    That is the one that most surely does not hold, where there is one; else one that cannot be told, what was not run
    before others; else the one that holds most narrowly. `NOTHING` where there are none. The more there are, the
    likelier it is that one fails by chance.
    """

    def doubt(found):
        rank, known = {False: 0, None: 1, True: 2}[found.holds], not np.isnan(found.interval)
        surely = found.beyond + found.interval if rank == 0 else found.beyond - found.interval
        return rank, found.seeds > 0, known, surely if known else 0.0

    return min(comparisons, key=doubt, default=NOTHING)
