"""Records of Section 8's reinforcement learning: figures, a table, and what they say."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...runs.records import Record
from ..claims import Claims
from ..comparisons import in_pairs
from ..plots import BLUE, COLOURS, GREY, STYLES, VERMILION
from ..statistics import finished, mean_and_spread, over_seeds, written
from .reinforcement import JUDGED, SHOWN_GOALS

MARKS = {"Random initialisation": "x", "Joint training": "s", "FOMAML": "D", "MAML": "^", "Reptile": "o"}
_TITLES = {
    "bandit": "Bandits: the reward of a pull, five pulls a step",
    "navigation": "Navigation: a point seeks a goal it does not see",
}

Methods = Mapping[str, Sequence[Record]]
"""Records of one environment, one for each seed, by method (`catalogue.METHODS`)."""


def _returns(records):
    """By seed, the mean return over unseen tasks before adaptation and after each gradient step."""
    return {r.config["seed"]: np.array(r.results["return"]["mean"]) for r in records if r.status == "finished"}


def _intervals(values):
    """Half the 95 % interval over seeds of each column's mean."""
    return [over_seeds(column)[1] for column in np.transpose(values)]


def by_steps(methods: Methods) -> Figure:
    """The return on unseen tasks against gradient steps, and along training after `JUDGED` of them.

    Mean over seeds, with Student's 95 % interval over them. Navigation's spans decades: its negative is shown.
    """
    some = finished(methods["Reptile"])
    environment = some[0].config["environment"]
    sign, what = (-1, "negative return") if environment == "navigation" else (1, "return")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    for method, records in methods.items():
        look: dict[str, Any] = dict(color=COLOURS[method], linestyle=STYLES[method], marker=MARKS[method], markersize=4)
        returns = sign * np.array(list(_returns(finished(records)).values()))
        steps = range(returns.shape[1])
        left.errorbar(steps, returns.mean(0), _intervals(returns), capsize=2, label=method, **look)
        if records[0].curve:
            iterations = [point["iteration"] for point in records[0].curve]
            curves = [[p["return"]["mean"][JUDGED] for p in record.curve] for record in finished(records)]
            values = sign * np.array(curves)
            right.errorbar(iterations, values.mean(0), _intervals(values), capsize=2, **look)
    left.axvline(JUDGED, color=GREY, linewidth=0.8, linestyle=":")
    left.set(xlabel="gradient steps on the unseen task", ylabel=what)
    right.set(xlabel="outer iterations", ylabel=f"{what} after {JUDGED} steps")
    if sign < 0:
        left.set_yscale("log", nonpositive="clip")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5, fontsize=8,
                  handlelength=3.5)  # fmt: skip
    tasks = f"{some[0].results['return']['tasks']:,} unseen tasks, on the right {some[0].config['curve_tasks']}"
    note = f"{tasks}; mean of {len(some)} seeds, bars: 95 % over seeds; dotted: the steps that settings were chosen for"
    figure.suptitle(f"{_TITLES[environment]}\n({note})", fontsize=10)
    return figure


def paths(methods: Methods) -> Figure:
    """Where the point goes, before adaptation and after `JUDGED` steps, on goals that it was not trained on.

    The policy is the first seed's; a row for each goal, a column for each method.
    """
    size = (2.1 * len(methods), 2.1 * len(SHOWN_GOALS) + 0.7)
    grid: Any
    figure, grid = plt.subplots(len(SHOWN_GOALS), len(methods), figsize=size, sharex=True, sharey=True,
                                layout="constrained")  # fmt: skip
    for column, (method, records) in enumerate(methods.items()):
        shown = np.array(finished(records)[0].results["paths"])
        for axes, goal, moments in zip(grid[:, column], SHOWN_GOALS, shown, strict=True):
            looks = ((GREY, "--", "before"), (BLUE, "-", f"after {JUDGED} steps"))
            for episodes, (colour, style, label) in zip(moments, looks, strict=True):
                for i, (x, y) in enumerate(np.swapaxes(episodes, 1, 2)):
                    axes.plot(x, y, style, color=colour, linewidth=1, label=None if i else label)
            axes.plot(*goal, "*", color=VERMILION, markersize=11, linestyle="", label="goal, not seen")
            axes.plot(0, 0, "o", color="black", markersize=4, linestyle="", label="start")
            axes.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), aspect="equal")
            axes.grid(alpha=0.25)
        grid[0, column].set_title(method, fontsize=9)
        grid[-1, column].set_xlabel("x")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=4, fontsize=8)
    seed = next(iter(methods.values()))[0].config["seed"]
    title = f"Two episodes of 20 steps each before adaptation and after it; seed {seed}, goals set by hand"
    figure.suptitle(title, fontsize=10)
    return figure


def table(methods: Methods) -> pd.DataFrame:
    """Returns on unseen tasks, mean ± standard deviation over seeds, with each method's step sizes."""
    rows = []
    for method, records in methods.items():
        returns = np.array(list(_returns(finished(records)).values()))
        config = records[0].config
        row = {"Method": method, "Inner step size": f"{config['inner_step_size']:g}"}
        for steps in (0, 1, JUDGED, returns.shape[1] - 1):
            when = f"after {steps} step{'s' * (steps > 1)}" if steps else "before"
            row[when] = written(*mean_and_spread(returns[:, steps]), ".3f")
        rows.append(row)
    return pd.DataFrame(rows)


def claims(methods: Methods) -> Claims:
    """What could be said of one environment's records, and whether they bear it out.

    A claim holds, or does not, where the 95 % interval over seeds says so, and else cannot be told.
    """
    returns = {method: _returns(records) for method, records in methods.items()}

    def at(method, steps):
        return {seed: values[steps] for seed, values in returns[method].items()}

    def gained(method, steps):
        return {seed: values[steps] - values[0] for seed, values in returns[method].items()}

    found: Claims = {
        f"{method} adapts: its return after {JUDGED} steps is above that before": in_pairs(
            at(method, JUDGED), at(method, 0)
        )
        for method in methods
    }
    pairs = (
        ("Joint training", "Random initialisation"),
        ("Reptile", "Random initialisation"),
        ("Reptile", "Joint training"),
        ("FOMAML", "Reptile"),
        ("MAML", "Reptile"),
        ("MAML", "FOMAML"),
    )
    for steps in (1, JUDGED):
        for better, worse in (pair for pair in pairs if returns.keys() >= set(pair)):
            claim = f"after {steps} step{'s' * (steps > 1)} {better}'s return is above that of {worse}"
            found[claim] = in_pairs(at(better, steps), at(worse, steps))
    found[f"Reptile gains more in {JUDGED} steps than joint training"] = in_pairs(
        gained("Reptile", JUDGED), gained("Joint training", JUDGED)
    )
    return found
