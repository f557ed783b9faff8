"""One rule for whether an accuracy agrees with the paper's.

The difference has a 95 % interval. It *agrees* where the whole interval lies within a margin, and *differs* where the
whole interval lies beyond it. Otherwise it *cannot be told*, and is *consistent* where the interval has zero in it.
Fewer tasks, or a wider spread that is borrowed, never make agreement easier.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from .statistics import Cells, mean_and_spread, over_tasks, welch

MARGINS = {"omniglot": 0.5, "mini-imagenet": 1.0}
"""Points of accuracy, by dataset, for Reptile's rows; MAML's and first-order MAML's have `MARGIN_OF_MAML`."""
MARGIN_OF_MAML = 1.0

_PAPER_SEEDS = 3


class Agreement(NamedTuple):
    """Points of accuracy above the paper's, half the 95 % interval of that, and what the rule makes of them."""

    points: float
    interval: float
    verdict: str


def beside_paper(cells: Cells, paper: tuple[float, float], margin: float, borrowed: Sequence[float] = ()) -> Agreement:
    """What the rule says of an accuracy.

    Several seeds have Welch's interval, but none smaller than the error of their tasks and the paper's ± make it. One
    seed has no spread of its own. Its interval is made of the 95 % error of its tasks, of the spread that it borrows
    and of the paper's ± over √3, these with Student's quantile, as squares; it is NaN where there is nothing to borrow.

    **Arguments:**

    - `cells`: what each seed's evaluation found; one or more.
    - `paper`: the paper's mean in percent and its ±, the standard deviation over three seeds.
    - `margin`: in points.
    - `borrowed`: accuracies in percent of the seeds of the nearest cell that has several.
    """
    mean, tasks = over_tasks(cells)
    _, spread = mean_and_spread([100 * cell["mean"] for cell in cells])
    printed = stdtrit(_PAPER_SEEDS - 1, 0.975) * paper[1] / np.sqrt(_PAPER_SEEDS)
    interval = np.hypot(tasks, printed)
    if len(cells) > 1:
        interval = max(interval, welch((mean, spread, len(cells)), (*paper, _PAPER_SEEDS)))
    else:
        _, spread = mean_and_spread(borrowed) if borrowed else (np.nan, np.nan)
        interval = np.hypot(interval, stdtrit(max(1, len(borrowed) - 1), 0.975) * spread)
    points = mean - paper[0]
    return Agreement(points, float(interval), _judged(points, interval, margin))


def _judged(points, interval, margin):
    if abs(points) + interval < margin:
        return "agrees"
    if abs(points) - interval > margin:
        return "differs"
    return "consistent, cannot be told" if abs(points) <= interval else "cannot be told"
