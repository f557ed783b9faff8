"""Numbers out of records: means over seeds and tasks, differences, and the intervals that go with them."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ..runs.records import Record, every_record, plain

SETTINGS = {"alone": "non-transductive", "transductive": "transductive"}
"""How held-out images are classified (Section 6.1): a record's word for it, and the reader's."""

Cells = Sequence[Mapping[str, Any]]


def mean_and_spread(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over seeds, the paper's ±; the latter is NaN for a single seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def over_seeds(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean over seeds, and half its 95 % interval (Student's t), NaN for a single seed."""
    mean, spread = mean_and_spread(values)
    return mean, float(stdtrit(max(1, len(values) - 1), 0.975) * spread / np.sqrt(len(values)))


def written(mean: float, around: float, digits: str = ".2f") -> str:
    """A number with its ±, such as `95.39 ± 0.09`; without it where that is NaN, as with a single seed."""
    return f"{mean:{digits}}" if np.isnan(around) else f"{mean:{digits}} ± {around:{digits.removeprefix('+')}}"


def finished(records: Sequence[Record]) -> list[Record]:
    """The records of trainings that did not diverge; raises `ValueError` where none is left."""
    kept = [record for record in records if record.status == "finished"]
    if not kept:
        raise ValueError(f"every training diverged: {', '.join(record.name for record in records)}")
    return kept


def cells_of(records: Sequence[Record], shots: str = "5-shot", setting: str = "alone") -> Cells:
    """What each seed's final evaluation found; nothing of those that diverged."""
    return [record.results[shots][setting] for record in records if record.status == "finished"]


def setting_of(algorithm: str) -> str:
    """How an algorithm's row of Tables 1 and 2 is evaluated."""
    return "transductive" if "Transduction" in algorithm else "alone"


def cells_of_row(records: Sequence[Record], algorithm: str, shots: int) -> Cells:
    """What each seed's evaluation found for an algorithm's row of Tables 1 and 2; nothing of those that diverged."""
    return cells_of(records, f"{shots}-shot", setting_of(algorithm))


def final(records: Sequence[Record], shots: str = "5-shot", setting: str = "alone") -> float:
    """Final accuracy in percent, mean over seeds; NaN where all of them diverged."""
    cells = cells_of(records, shots, setting)
    return 100 * float(np.mean([cell["mean"] for cell in cells])) if cells else float("nan")


def over_tasks(cells: Cells) -> tuple[float, float]:
    """Accuracy in percent, mean over seeds, and half its 95 % interval over evaluation tasks.

    `cells` are the seeds' own. Seeds are independent, so that the interval of their mean shrinks with their number.
    """
    interval = np.sqrt(np.square([cell["ci95"] for cell in cells]).sum()) / len(cells)
    return 100 * float(np.mean([cell["mean"] for cell in cells])), 100 * float(interval)


def estimate(cells: Cells) -> tuple[float, float]:
    """Accuracy in percent and half its 95 % interval: over seeds (Student's t) where there are several, and else over
    the evaluation tasks of the one, whose training might have gone otherwise."""
    return over_tasks(cells) if len(cells) == 1 else over_seeds([100 * cell["mean"] for cell in cells])


def welch(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    """Half the 95 % interval of the difference of two means, each with its standard deviation and number of seeds.

    Welch's: Student's t, with the degrees of freedom of Welch and Satterthwaite.
    """
    shares = [spread**2 / count for _, spread, count in (a, b)]
    whole = sum(shares)
    if not whole:
        return 0.0
    freedom = 1 / sum((s / whole) ** 2 / (count - 1) for s, (_, _, count) in zip(shares, (a, b), strict=True))
    return float(stdtrit(freedom, 0.975) * np.sqrt(whole))


def shots_of(records: Sequence[Record]) -> list[str]:
    """What trainings are evaluated at, such as "1-shot"."""
    return [f"{shots}-shot" for shots in records[0].config["eval_shots"]]


def size_before_adaptation(records: Sequence[Record]) -> float:
    """Root mean square over [-5, 5] of f_φ itself, before any adaptation, averaged over training seeds."""
    curves = [np.array(record.results["shown"]["predictions"][0]) for record in finished(records)]
    return float(np.mean([np.sqrt(np.mean(curve**2)) for curve in curves]))


SCALE = ("outer_iterations", "eval_tasks", "curve_points", "curve_tasks", "order")
"""The fields of a configuration that, beside the seed, say at which scale an experiment is done, and in which order its
tasks, not which one it is."""


def largest_records(config: Any, figures: str | os.PathLike | None = None, seeds: int = 1) -> list[Record]:
    """What is known of an experiment, whoever ran it: the records of its runs with the most outer iterations.

    Their configurations are `config` in all but `SCALE`, alike in length, learning curve, order and data. Of several
    such sets it is the one of the most seeds, then of the most evaluation tasks, then that in exact order; of a seed,
    its record of the most tasks. Empty where nobody ran it. `figures` is another folder whose records count; sets of
    fewer than `seeds` seeds do not.
    """
    sets = _by_seed(config, every_record(figures), SCALE)
    sets = {alike: of_seed for alike, of_seed in sets.items() if len(of_seed) >= seeds}

    def size(alike):
        iterations, *_, order, _ = alike
        return iterations, len(sets[alike]), sum(map(_tasks, sets[alike].values())), order == "exact"

    return [record for _, record in sorted(sets[max(sets, key=size)].items())] if sets else []


def of_every_seed(config: Any, records: Iterable[Record]) -> list[Record]:
    """Of some records, those of one configuration with whatever seed and number of evaluation tasks, by seed.

    Of a seed it is the one of the most tasks; all are of the same data, that of the most seeds.
    """
    sets = _by_seed(config, records, ("eval_tasks",))
    return [record for _, record in sorted(max(sets.values(), key=len, default={}).items())]


def _by_seed(config: Any, records: Iterable[Record], free: Sequence[str]) -> dict[tuple[Any, ...], dict[int, Record]]:
    """By what they have for the `free` fields but the number of tasks, and by their data, those of some records that
    are `config` in all other fields but the seed: by seed, those of the most tasks."""
    wanted = plain(config)
    # A record made before a field was added has its default.
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    sets: dict[tuple[Any, ...], dict[int, Record]] = {}
    for record in records:
        whole = defaults | record.config
        same = all(_plain(whole[name]) == wanted[name] for name in wanted.keys() - {"seed", *free})
        if same and record.kind == type(config).__name__:
            # Trainings on other data are another set, so that no table mixes them.
            data = record.made.get("digests", {}).get("data")
            alike = (*(whole.get(name) for name in free if name != "eval_tasks"), data)
            of_seed, seed = sets.setdefault(alike, {}), record.config["seed"]
            if seed not in of_seed or _tasks(record) > _tasks(of_seed[seed]):
                of_seed[seed] = record
    return sets


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _tasks(record):
    return record.config.get("eval_tasks", 0)
