"""One rule for whether an accuracy agrees with the paper's.

The difference has a 95 % interval. It *agrees* where the whole interval lies within a margin, and *differs* where the
whole interval lies beyond it. Otherwise it *cannot be told*, and is *consistent* where the interval has zero in it. A
wide interval, from few tasks or from seeds that lie apart, never makes agreement easier.
"""

from typing import NamedTuple

import numpy as np

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


def beside_paper(cells: Cells, paper: tuple[float, float], margin: float, borrowed: float = np.nan) -> Agreement:
    """What the rule says of an accuracy.

    **Arguments:**

    - `cells`: what each seed's evaluation found; one or more.
    - `paper`: the paper's mean in percent and its ±, the standard deviation over three seeds.
    - `margin`: in points.
    - `borrowed`: the standard deviation over seeds of the nearest cell that has several, in points. One seed has none
      of its own: its interval is made of this, of its tasks' error, and of the paper's ± over √3.
    """
    mean, spread = mean_and_spread([100 * cell["mean"] for cell in cells])
    if len(cells) > 1:
        interval = welch((mean, spread, len(cells)), (*paper, _PAPER_SEEDS))
    else:
        _, tasks = over_tasks(cells)
        interval = float(np.hypot(tasks, 1.96 * np.hypot(borrowed, paper[1] / np.sqrt(_PAPER_SEEDS))))
    points = mean - paper[0]
    return Agreement(points, interval, _judged(points, interval, margin))


def _judged(points, interval, margin):
    if abs(points) + interval < margin:
        return "agrees"
    if abs(points) - interval > margin:
        return "differs"
    return "consistent, cannot be told" if abs(points) <= interval else "cannot be told"
