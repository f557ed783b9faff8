"""The figures of few-shot density modelling, drawn from the records of `density.runs` alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ...runs.records import Record
from ..plots import COLOURS, STYLES
from ..statistics import finished
from .density import TUNED, mean_and_interval_over_seeds, unpacked

_MARKS = {"Random initialisation": "x", "Joint training": "s", "Reptile": "o"}


def bits_by_steps(records: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """Bits per pixel of other drawings of unseen characters against gradient steps, a panel for each number of shots.

    Means over seeds, shaded the 95 % interval over them (Student's t). A large mark is at the number of steps that was
    chosen on validation characters. The scale begins a little below the lowest line and ends above the trained ones, so
    that a random initialisation enters from above.
    """
    first = finished(next(iter(records.values())))[0].config
    figure, row = plt.subplots(
        1, len(first["eval_shots"]), figsize=(9, 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    trained = []
    for place, (axes, shots) in enumerate(zip(row[0], first["eval_shots"], strict=True)):
        for method, of in records.items():
            curves = np.array([record.results[f"{shots}-shot"]["mean"][0] for record in finished(of)])
            mean, interval = np.array([mean_and_interval_over_seeds(list(column)) for column in curves.T]).T
            steps, look = np.arange(len(mean)), dict[str, Any](color=COLOURS[method], linestyle=STYLES[method])
            axes.plot(steps, mean, marker=_MARKS[method], markersize=3, label=method, **look)
            axes.fill_between(steps, mean - interval, mean + interval, color=COLOURS[method], alpha=0.2, linewidth=0)
            at = min(TUNED[of[0].config["algorithm"]].eval_steps[place], len(mean) - 1)
            axes.plot(at, mean[at], _MARKS[method], color=COLOURS[method], markersize=9, clip_on=False, zorder=5)
            if of[0].config["outer_iterations"]:
                trained += [mean.min(), mean.max()]
        axes.set(title=f"{shots} drawing{'s' if shots > 1 else ''}", xlabel="gradient steps on them")
        axes.grid(alpha=0.25)
    low, high = min(trained), max(trained)
    row[0][0].set(ylabel="bits per pixel, other drawings", ylim=(low - 0.15 * (high - low), high + 0.6 * (high - low)))
    labels = row[0][0].get_legend_handles_labels()
    figure.legend(*labels, frameon=False, loc="outside lower center", ncols=3, fontsize=8, handlelength=3.5)
    seeds = f"shaded: 95 % interval over {len(finished(next(iter(records.values()))))} training seeds"
    title = "Drawings of unseen characters under a model adapted to a few of them"
    figure.suptitle(f"{title}\n{seeds}; large marks: steps chosen beforehand{f'; {note}' if note else ''}", fontsize=10)
    return figure


def samples(records: Mapping[str, Record], note: str = "") -> Figure:
    """Drawings that models make up: of each method's record, a block of columns. The first row is before adaptation;
    each other row is an unseen character, with the five drawings that were adapted to in the first block.

    The records are of one seed, so that they have seen and show the same characters.
    """
    shown = [record.results["shown"] for record in records.values()]
    rows, columns = len(shown[0]["support"]) + 1, len(shown[0]["support"][0])
    figure = plt.figure(figsize=(2.9 * (len(records) + 1), 0.62 * rows + 0.9), layout="constrained")
    blocks = figure.subfigures(1, len(records) + 1, squeeze=False, wspace=0.04)[0]
    befores = [[], *(record.results["before"][0] for record in records.values())]
    afters = [shown[0]["support"], *(some["after"] for some in shown)]
    titles = ["adapted to", *(f"{method}: made up\nbefore (top row), after" for method in records)]
    for block, title, before, after in zip(blocks, titles, befores, afters, strict=True):
        grid = block.subplots(rows, columns, squeeze=False)
        for axes, text in zip(grid.ravel(), [*(before or [None] * columns), *sum(after, [])], strict=True):
            axes.set(xticks=[], yticks=[])
            if text is None:
                axes.axis("off")
            else:
                axes.imshow(1 - unpacked(text), cmap="gray", vmin=0, vmax=1)
        block.suptitle(title, fontsize=9)
    figure.suptitle(
        f"Five drawings of an unseen character, and drawings sampled{f' ({note})' if note else ''}", fontsize=10
    )
    return figure
