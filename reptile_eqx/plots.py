"""The paper's figures, drawn from run records alone."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import finished
from .store import Record

# Okabe and Ito's palette, distinguishable with every common colour-vision deficiency.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#555555"
COLOURS = {"Random initialisation": GREY, "Joint training": ORANGE, "MAML": GREEN, "Reptile": BLUE}
STYLES = {"Random initialisation": ":", "Joint training": "--", "MAML": "-.", "Reptile": "-"}


def _panel(axes: Axes, record: Record, title: str) -> None:
    shown = record.results["shown"]
    x, wave = shown["wave"]
    predictions = np.array(shown["predictions"])
    axes.plot(x, wave, color="black", linewidth=1.2, label="true wave")
    steps = sorted({0, 8, 16, len(predictions) - 1} & set(range(len(predictions))))
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(steps)))
    for shade, step in zip(shades, steps, strict=True):
        axes.plot(x, predictions[step], color=shade, label=f"after {step} steps" if step else "before")
    axes.plot(*shown["points"], "^", color=VERMILION, markersize=6, label="sampled points")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("x")


def figure_1(panels: Mapping[str, Record | None], note: str = "") -> Figure:
    """Figure 1: one task's wave, its sampled points, and the model before and along 32 gradient steps.

    `panels` maps a panel's title to a `SineRegression` record; `None` keeps an empty place for it.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.4), sharey=True, layout="constrained")
    for axes, (title, record) in zip(row, panels.items(), strict=True):
        if record is None:
            axes.set_title(title, fontsize=10)
            axes.text(0.5, 0.5, "not run here", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_xlabel("x")
        else:
            _panel(axes, record, title)
    row[0].set_ylabel("f(x)")
    figure.legend(*row[-1].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle("Figure 1: 32 gradient steps on 10 sampled points" + (f"\n({note})" if note else ""), fontsize=11)
    return figure


def loss_by_steps(methods: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """Eq. 8's loss on unseen tasks against gradient steps: mean over seeds, shaded from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, records in methods.items():
        losses = np.array([record.results["loss"]["mean"] for record in finished(records)])
        steps = np.arange(losses.shape[1])
        colour = COLOURS.get(name, PURPLE)
        axes.plot(steps, losses.mean(0), STYLES.get(name, "-"), color=colour, label=name)
        axes.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.2, linewidth=0)
    tasks = next(iter(methods.values()))[0].results["loss"]["tasks"]
    axes.set(xlabel="gradient steps on 10 sampled points", ylabel="eq. 8: squared error integrated over [-5, 5]")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    title = f"Mean over {tasks:,} unseen tasks; shaded: range over {len(losses)} training seeds"
    axes.set_title(title + (f"\n({note})" if note else ""), fontsize=10)
    axes.grid(alpha=0.25)
    return figure


def before_adaptation(methods: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """What f_φ itself looks like before any adaptation: one line for each training seed."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, records in methods.items():
        for i, record in enumerate(finished(records)):
            x = record.results["shown"]["wave"][0]
            line = record.results["shown"]["predictions"][0]
            axes.plot(x, line, STYLES.get(name, "-"), color=COLOURS.get(name, PURPLE), label=None if i else name)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="x", ylabel="f(x) before adaptation", ylim=(-1, 1))
    axes.legend(frameon=False)
    axes.set_title("The initialisations themselves, one line a training seed (waves reach ±5)" + (f"\n({note})" if note else ""), fontsize=10)
    axes.grid(alpha=0.25)
    return figure


def learning_curves(records: Sequence[Record], note: str = "") -> Figure:
    """Accuracy on unseen classes along training: mean over seeds, shaded from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    records = finished(records)
    iterations = [point["iteration"] for point in records[0].curve]
    for label, colour in zip(records[0].results, (BLUE, VERMILION), strict=False):
        for setting, style in (("transductive", "-"), ("alone", "--")):
            means = [[100 * point[label][setting]["mean"] for point in record.curve] for record in records]
            axes.plot(iterations, np.mean(means, 0), style, color=colour, label=f"{label}, {setting}")
            axes.fill_between(iterations, np.min(means, 0), np.max(means, 0), color=colour, alpha=0.15, linewidth=0)
    tasks = records[0].config["curve_tasks"]
    axes.set(xlabel="outer iterations", ylabel="accuracy on unseen classes (%)")
    axes.legend(frameon=False)
    title = f"{records[0].config['ways']}-way, {tasks} tasks a point; shaded: range over {len(records)} seeds"
    axes.set_title(title + (f"\n({note})" if note else ""), fontsize=10)
    axes.grid(alpha=0.25)
    return figure
