"""Figures of Section 8's questions on images, drawn from records alone. Intervals are 95 % over seeds (Student's t)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ...runs.records import Record
from ..comparisons import BySeed
from ..plots import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from ..statistics import finished, over_seeds
from .answers import Means, accuracy, ended, fine_tuned, ways_of

_LOOKS: tuple[Any, ...] = (
    dict(color=BLUE, linestyle="-", marker="o"),
    dict(color=VERMILION, linestyle="--", marker="s"),
    dict(color=GREEN, linestyle="-.", marker="^"),
    dict(color=PURPLE, linestyle=(0, (3, 1, 1, 1, 1, 1)), marker="D"),
    dict(color=ORANGE, linestyle=":", marker="v"),
)
_POINTS: Any = dict(linestyle="none")


def depth(records: Mapping[str, Means], note: str = "") -> Figure:
    """Accuracy against the number of blocks: plain and with skips, after as many iterations and as many operations."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    lines = {
        "plain, as many iterations": ("as many iterations", False),
        "with skips, as many iterations": ("as many iterations", True),
        "plain, as many operations as 4 blocks": ("as many operations", False),
        "with skips, as many operations as 4 blocks": ("as many operations", True),
    }
    first = records["as many iterations"]["4 blocks"]
    for i, ((label, (what, skips)), look) in enumerate(zip(lines.items(), _LOOKS, strict=False)):
        points = {4: first} | {
            of[0].config["blocks"]: of for of in records[what].values() if of[0].config["residual"] == skips
        }
        means, intervals = zip(*(over_seeds(list(accuracy(points[b]).values())) for b in sorted(points)), strict=True)
        beside = 0.12 * (i - 1.5)  # so that no bar hides another
        axes.errorbar([b + beside for b in sorted(points)], means, intervals, capsize=3, label=label, **look)
    ways = first[0].config["ways"]
    axes.set(xlabel="blocks of the network", ylabel=f"accuracy, {ways}-way 1-shot (%)", xticks=[4, 6, 8, 12])
    return _finished(figure, "Deeper networks on unseen characters", note)


def gaps(records: Means, note: str = "") -> Figure:
    """Accuracy on training characters and on unseen ones: along training without regularisation, and at the end with
    each thing that may close the gap."""
    size = (9, 0.34 * len(records) + 1.6)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(2, 3), layout="constrained")
    rows = np.arange(len(records))[::-1]
    for split, label, look in (
        ("training", "training characters", _LOOKS[1]),
        ("evaluation", "unseen characters", _LOOKS[0]),
    ):
        plain = finished(records["none"])
        curves = 100 * np.array([[p[f"{split} 1-shot"]["mean"] for p in record.curve] for record in plain])
        mean, interval = np.array([over_seeds(column) for column in curves.T]).T
        left.errorbar([p["iteration"] for p in plain[0].curve], mean, interval, capsize=2, label=label, **look)
        of = [over_seeds(list(accuracy(some, split).values())) for some in records.values()]
        means, intervals = np.array(of).T
        right.errorbar(means, rows, xerr=intervals, capsize=2, label=label, **look | _POINTS)
    ways = records["none"][0].config["ways"]
    left.set(xlabel="outer iterations", ylabel=f"accuracy, {ways}-way 1-shot (%)", title="without regularisation")
    right.set(yticks=rows, yticklabels=list(records), xlabel=f"accuracy, {ways}-way 1-shot (%)", title="at the end")
    return _finished(figure, "The gap to unseen characters, and what may close it", _with_curves(note, records["none"]))


def ordinary(records: Means, note: str = "") -> Figure:
    """Along ordinary training: accuracy on drawings not trained on, and how far gradients of mini-batches agree.

    A way of which every training diverged is left out.
    """
    figure, row = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axes, what, label, scale in (
        (row[0], "test accuracy", "accuracy on other drawings (%)", 100),
        (row[1], "cosine", "cosine of two gradients", 1),
    ):
        for (name, of), look in zip(records.items(), _LOOKS, strict=False):
            if not ended(of):
                continue
            curves = np.array([[p["seen"][what]["mean"] for p in record.curve] for record in finished(of)]) * scale
            mean, interval = np.array([over_seeds(list(column)) for column in curves.T]).T
            x = [point["iteration"] for point in of[0].curve]
            axes.plot(x, mean, markersize=4, label=name, **look)
            axes.fill_between(x, mean - interval, mean + interval, color=look["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="outer iterations (of 100 drawings)", ylabel=label)
    first = next(iter(records.values()))
    return _finished(
        figure, "Ordinary training on one fixed set of characters, all with one step size", _with_curves(note, first)
    )


def fine_tuning(records: Means, note: str = "") -> Figure:
    """Accuracy after fine-tuning for tasks of 5 and 20 ways: joint training with a head for all characters, Reptile."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    ways = ways_of(records)
    for offset, name, look in ((-0.08, "Joint training", _LOOKS[4]), (0.08, "Reptile", _LOOKS[0])):
        of: list[BySeed] = [fine_tuned(records[name if name in records else f"{name}, {n}-way"], n) for n in ways]
        means, intervals = np.array([over_seeds(list(some.values())) for some in of]).T
        axes.errorbar(np.arange(len(ways)) + offset, means, intervals, capsize=3, label=name, **look | _POINTS)
    labels = [f"{n}-way 1-shot" for n in ways]
    axes.set(xticks=range(len(ways)), xticklabels=labels, xlim=(-0.5, len(ways) - 0.5), ylabel="accuracy (%)")
    return _finished(figure, "Fine-tuned to unseen characters", note)


def _with_curves(note, records):
    tasks = f"{records[0].config['curve_tasks']} tasks a point of a curve"
    return f"{note}; {tasks}" if note else tasks


def _finished(figure: Figure, title: str, note: str) -> Figure:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    handles = figure.axes[0].get_legend_handles_labels()
    columns = 2 if len(figure.axes) == 1 else 3
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3.5)
    lines = (f"{title};", "bars and shading: 95 % intervals over seeds", f"({note})" if note else "")
    figure.suptitle("\n".join(filter(None, lines)), fontsize=10)
    return figure


def scale(records: Sequence[Record]) -> str:
    """What a title says of how records were made: iterations, seeds, tasks, and made-up characters."""
    iterations = sorted({record.config["outer_iterations"] for record in records})
    seeds = len({record.config["seed"] for record in records})
    length = f"{iterations[-1]:,}" if len(iterations) == 1 else f"{iterations[0]:,} to {iterations[-1]:,}"
    said = [f"{length} outer iterations", f"{seeds} seed{'s' if seeds > 1 else ''}"]
    tasks = {record.config["eval_tasks"] for record in records}
    if len(tasks) == 1:
        said.append(f"{tasks.pop():,} evaluation tasks")
    if any(record.config.get("dataset") == "glyphs" for record in records):
        said.append("made-up glyphs, not Omniglot")
    return ", ".join(said)
