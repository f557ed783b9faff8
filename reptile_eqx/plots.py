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


def _accuracies(records: Sequence[Record], setting: str) -> np.ndarray:
    """Final accuracies in percent, one a seed."""
    return np.array([100 * record.results["5-shot"][setting]["mean"] for record in finished(records)])


def figure_3(curves: Mapping[str, Sequence[Record]], note: str = "", setting: str = "alone") -> Figure:
    """Figure 3: learning curves of the gradient combinations, smoothed over three points; shaded: range over seeds."""
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    colours = dict(zip("1234", (GREY, ORANGE, GREEN, BLUE), strict=True))
    for label, records in curves.items():
        k = max(int(digit) for digit in label if digit.isdigit())
        style = "-" if label.startswith("g1") else "--" if label[0] in "½⅓¼" else ":"
        kept = finished(records)
        iterations = [point["iteration"] for point in kept[0].curve]
        lines = np.array([[100 * p["5-shot"][setting]["mean"] for p in record.curve] for record in kept])
        lines = np.apply_along_axis(_smoothed, 1, lines)
        axes.plot(iterations, lines.mean(0), style, color=colours[str(k)], label=label)
        axes.fill_between(iterations, lines.min(0), lines.max(0), color=colours[str(k)], alpha=0.15, linewidth=0)
    asked = "non-transductive" if setting == "alone" else setting
    axes.set(xlabel="outer iterations", ylabel=f"5-shot accuracy on unseen classes (%), {asked}")
    axes.legend(frameon=False, ncols=2, fontsize=8)
    axes.set_title("Figure 3: inner-loop gradient combinations" + (f"\n({note})" if note else ""), fontsize=10)
    axes.grid(alpha=0.25)
    return figure


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of each point and its neighbours, fewer at the ends."""
    padded = np.concatenate([[np.nan], values, [np.nan]])
    return np.nanmean([padded[:-2], padded[1:-1], padded[2:]], axis=0)


def figure_4(
    panel: str, lines: Mapping[str, Mapping[float, Sequence[Record]]], note: str = "", setting: str = "alone"
) -> Figure:
    """A panel of Figure 4: final accuracy against what it sweeps; bars: standard deviation over seeds."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    looks = {
        "Reptile": (BLUE, "-", "o"),
        "FOMAML, shared tail, cycle": (VERMILION, "-", "s"),
        "FOMAML, shared tail, replacement": (VERMILION, "--", "s"),
        "FOMAML, separate tail, cycle": (GREEN, "-", "^"),
        "FOMAML, separate tail, replacement": (GREEN, "--", "^"),
    }
    for line, points in lines.items():
        colour, style, marker = looks[line]
        values = [_accuracies(records, setting) for records in points.values()]
        spread = [v.std(ddof=1) if v.size > 1 else 0 for v in values]
        means = [v.mean() for v in values]
        axes.errorbar(list(points), means, spread, color=colour, linestyle=style, marker=marker, label=line, capsize=2)
    swept = {"4a": "inner-loop iterations", "4b": "inner-loop batch size", "4c": "outer step size"}[panel]
    asked = "non-transductive" if setting == "alone" else setting
    axes.set(xlabel=swept, ylabel=f"5-shot accuracy on unseen classes (%), {asked}")
    if panel == "4b":
        axes.text(76, axes.get_ylim()[0], " a separate tail leaves 75 images", fontsize=7, va="bottom", color=GREEN)
    if panel == "4c":
        axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"Figure {panel}" + (f"\n({note})" if note else ""), fontsize=10)
    axes.grid(alpha=0.25)
    return figure
