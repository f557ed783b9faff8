"""What is trained for Section 8's reinforcement learning, by profile, and how its step sizes were chosen."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...runs.records import Record
from ..catalogue import METHODS, Scale
from .reinforcement import JUDGED, ReinforcementLearning

_SEEDS = {"smoke": 1, "quick": 5, "paper": 5}
_SMOKE = dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2, eval_inner_iterations=JUDGED)
# `quick` shows the records of `paper`.
_SCALE: dict[str, dict[str, Any]] = {"smoke": _SMOKE, "quick": {}, "paper": {}}
# Ten arms, and in five steps 25 pulls: few, so that an initialisation may matter.
_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "bandit": dict(outer_iterations=500, inner_batch_size=5, eval_batch_size=5, curve_points=5, eval_tasks=500),
    "navigation": dict(outer_iterations=500, inner_batch_size=20, curve_points=5, eval_tasks=200),
}

INNER_STEP_SIZES = {"bandit": (0.03, 0.1, 0.3, 1.0, 3.0), "navigation": (0.003, 0.01, 0.03, 0.1, 0.3)}
OUTER_STEP_SIZES = {"bandit": (1e-4, 3e-4, 1e-3), "navigation": (3e-3, 1e-2, 3e-2)}
"""The grid that each method's step sizes were chosen from, by environment."""
TUNING_SEEDS = (100, 101, 102)
"""None of which is reported."""

TUNED: dict[str, dict[str, tuple[float, float]]] = {
    "bandit": {
        "Random initialisation": (0.68275, 0.0),
        "Joint training": (1.0, 1e-4),
        "FOMAML": (1.0, 1e-4),
        "MAML": (1.0, 3e-4),
        "Reptile": (1.0, 1e-4),
    },
    "navigation": {
        "Random initialisation": (0.00354, 0.0),
        "Joint training": (0.3, 0.03),
        "FOMAML": (0.03, 0.03),
        "MAML": (0.01, 0.01),
        "Reptile": (0.1, 0.03),
    },
}
"""The best point of each method's grid, (inner, outer), by environment: what `tuning` has first for `tuning_runs`."""
_TUNING = dict(curve_points=0, eval_tasks=100, eval_inner_iterations=JUDGED)


def runs(scale: Scale, environment: str) -> dict[str, list[ReinforcementLearning]]:
    """The trainings on an environment (`ENVIRONMENTS`), by method (`catalogue.METHODS`), one for each seed.

    `smoke` has joint training and Reptile.
    """
    few = ("Joint training", "Reptile")
    methods = {m: a for m, a in METHODS.items() if scale.profile != "smoke" or m in few}
    return {
        method: [
            _configuration(environment, algorithm, TUNED[environment][method], seed, **scale.settings(_SCALE))
            for seed in scale.chosen_seeds(_SEEDS)
        ]
        for method, algorithm in methods.items()
    }


def tuning_runs(environment: str) -> dict[str, list[ReinforcementLearning]]:
    """The trainings that step sizes were chosen by, by method: fifteen points each, with each of `TUNING_SEEDS`.

    They are as long as those of `runs`, on other tasks. An untrained initialisation has no outer step size; its points
    are fifteen inner step sizes, from a tenth of the least on.
    """
    inner = INNER_STEP_SIZES[environment]
    points = [(a, e) for a in inner for e in OUTER_STEP_SIZES[environment]]
    untrained = [(float(a), 0.0) for a in np.geomspace(inner[0] / 10, inner[-1], len(points)).round(5)]
    return {
        method: [
            _configuration(environment, algorithm, point, seed, **_TUNING)
            for point in (untrained if algorithm == "random" else points)
            for seed in TUNING_SEEDS
        ]
        for method, algorithm in METHODS.items()
    }


def _configuration(
    environment: str, algorithm: str, step_sizes: tuple[float, float], seed: int, **settings: Any
) -> ReinforcementLearning:
    inner, outer = step_sizes
    own: dict[str, Any] = _ENVIRONMENTS[environment] | settings
    if algorithm == "random":
        own |= dict(outer_iterations=0, curve_points=0)
    elif algorithm == "joint":  # one step on the episodes that the others play in five
        own |= dict(inner_iterations=1, inner_batch_size=5 * own["inner_batch_size"])
    return ReinforcementLearning(environment, algorithm, inner, outer_step_size=outer, seed=seed, **own)


def tuning(records: Iterable[Record]) -> dict[tuple[float, float], float]:
    """Points of a method's grid, best first: the return after `JUDGED` steps on unseen tasks, mean over seeds.

    A point of which a training diverged is left out.
    """
    points: dict[tuple[float, float], list[float]] = {}
    for record in records:
        at = record.config["inner_step_size"], record.config["outer_step_size"]
        ended = record.status == "finished"
        points.setdefault(at, []).append(record.results["return"]["mean"][JUDGED] if ended else np.nan)
    means = {at: float(np.mean(returns)) for at, returns in points.items()}
    return {at: means[at] for at in sorted(means, key=lambda at: -means[at]) if np.isfinite(means[at])}
