"""The paper's figures, drawn from run records alone."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..datasets import ImageClasses
from ..runs.records import Record
from .report import task_name
from .settings import SWEPT, TABLE_1, TABLE_2, UNTRAINED, WITHOUT_OVERLAP
from .statistics import SETTINGS, cells_of, estimate, finished, shots_of

# Okabe and Ito's palette, distinguishable with every common colour-vision deficiency.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#555555"
COLOURS = {"Random initialisation": GREY, "Joint training": ORANGE, "FOMAML": PURPLE, "MAML": GREEN, "Reptile": BLUE}
STYLES = {
    "Random initialisation": ":",
    "Joint training": "--",
    "FOMAML": (0, (3, 1, 1, 1, 1, 1)),
    "MAML": "-.",
    "Reptile": "-",
}


def _seeds(count: int) -> str:
    return f"shaded: range over {count} training seeds" if count > 1 else "one training seed"


def _noted(title: str, note: str) -> str:
    """A title with a note below it, in lines that fit a figure."""
    return f"{title}\n{textwrap.fill(f'({note})', 80)}" if note else title


def _finish(figure: Figure, title: str, note: str = "", columns: int = 5) -> Figure:
    """Grids, one legend below all panels, the title above them."""
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3.5)
    figure.suptitle(_noted(title, note), fontsize=10)
    return figure


def _without_diverged(records: Sequence[Record], label: str) -> tuple[list[Record], str]:
    """The records of trainings that did not diverge, and a label for the legend that counts the others."""
    kept = [record for record in records if record.status == "finished"]
    lost = len(records) - len(kept)
    return kept, f"{label} (× {lost} of {len(records)} diverged)" if lost else label


def _curve(
    axes: Axes, records: Sequence[Record], value: Callable[[dict], float], label: str, smooth: bool = False, **look: Any
) -> None:
    """A learning curve of `value(point)`: mean over seeds, shaded from the lowest to the highest."""
    kept, label = _without_diverged(records, label)
    if not kept:
        axes.plot([], [], label=label, **look)
        return
    iterations = [point["iteration"] for point in kept[0].curve]
    lines = np.array([[value(point) for point in record.curve] for record in kept])
    lines = np.apply_along_axis(_smoothed, 1, lines) if smooth else lines
    look = {"marker": "o" if len(iterations) == 1 else ""} | look
    axes.plot(iterations, lines.mean(0), label=label, **look)
    axes.fill_between(iterations, lines.min(0), lines.max(0), color=look["color"], alpha=0.2, linewidth=0)


def _points(
    axes: Axes, places: Sequence[float | int], points: Sequence[Sequence[Record]], shots: str, setting: str, **look: Any
) -> None:
    """Final accuracy in percent at each place, and its 95 % interval (`statistics.estimate`).

    Of several seeds the mark is filled and the interval over them; of a single one it is hollow, and the interval over
    its tasks. A cross on the axis marks a place where a training diverged, which counts in neither.
    """
    for place, records in zip(places, points, strict=True):
        if any(record.status != "finished" for record in records):
            cross: dict[str, Any] = dict(marker="x", markersize=8, color=look["color"], clip_on=False, zorder=5)
            axes.plot(place, 0, transform=axes.get_xaxis_transform(), **cross)
    found = [cells_of(records, shots, setting) for records in points]
    means, reach = np.array([estimate(cells) if cells else (np.nan, np.nan) for cells in found]).T
    axes.errorbar(places, means, reach, capsize=2, markerfacecolor="white", **look)
    several = [len(cells) > 1 for cells in found]
    if any(several):
        filled = {name: look[name] for name in ("color", "marker", "markersize")}
        axes.plot(np.compress(several, places), np.compress(several, means), linestyle="", zorder=4, **filled)


MARKS = "bars: 95 % intervals, over seeds (filled marks) or over the tasks of a single seed (hollow marks)"


def _panel(axes: Axes, record: Record, title: str) -> None:
    shown = record.results["shown"]
    x, wave = shown["wave"]
    predictions = np.array(shown["predictions"])
    axes.plot(x, wave, color="black", linewidth=1.2, label="true wave")
    steps = sorted({0, 1, 4, 8, len(predictions) - 1} & set(range(len(predictions))))
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(steps)))
    for shade, step in zip(shades, steps, strict=True):
        axes.plot(x, predictions[step], color=shade, label=_after(step))
    axes.plot(*shown["points"], "^", color=VERMILION, markersize=6, label="sampled points")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("x")


def _after(steps):
    return "before" if steps == 0 else "after 1 step" if steps == 1 else f"after {steps} steps"


def figure_1(panels: Mapping[str, Record], note: str = "") -> Figure:
    """Figure 1: one task's wave, its sampled points, and the model before and along 32 gradient steps.

    `panels` maps a panel's title to a `SineRegression` record.
    """
    size = (4 * len(panels), 3.4)
    figure, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    row = grid[0]
    for axes, (title, record) in zip(row, panels.items(), strict=True):
        _panel(axes, record, title)
    row[0].set_ylabel("f(x)")
    return _finish(figure, "Figure 1: 32 gradient steps on 10 sampled points", note, 7)


def figure_1_moving(panels: Mapping[str, Record]) -> list[Image.Image]:
    """Figure 1 as it happens: a picture for each number of gradient steps; arguments as `figure_1` has them."""
    figure, row = plt.subplots(1, len(panels), figsize=(9, 2.9), sharey=True, layout="constrained", dpi=80)
    lines = []
    for axes, (title, record) in zip(row, panels.items(), strict=True):
        shown = record.results["shown"]
        axes.plot(*shown["wave"], color="black", linewidth=1.2, label="true wave")
        axes.plot(*shown["points"], "^", color=VERMILION, markersize=6, label="sampled points")
        (line,) = axes.plot([], [], color=BLUE, linewidth=2, label="the network")
        reach = 1.6 * max(map(abs, shown["wave"][1]))
        axes.set(title=title, xlabel="x", ylim=(-reach, reach))
        lines.append((line, shown["wave"][0], shown["predictions"]))
    row[0].set_ylabel("f(x)")
    _finish(figure, " ", columns=3)
    canvas, frames = FigureCanvasAgg(figure), []
    for step in range(len(lines[0][2])):
        for line, x, predictions in lines:
            line.set_data(x, predictions[step])
        figure.suptitle(f"ten points of an unseen wave: {_after(step)}", fontsize=10)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    plt.close(figure)
    return frames


def classes_and_task(data: ImageClasses, seed: int = 0, ways: int = 5, shots: int = 2) -> Figure:
    """Some of a dataset's classes, and a task of such classes: its support, then a query for each."""
    rng = np.random.default_rng(seed)
    some = rng.choice(len(data.classes), (3, 10), replace=False)
    of_task = rng.choice(len(data.classes), ways, replace=False)
    figure = plt.figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(10, shots * 2, 2))  # ty: ignore[not-iterable]
    sheets = {
        left: (3, 10, [data.of_class(int(c))[0] for c in some.ravel()], "some classes, an image of each"),
        middle: (ways, shots, [one for c in of_task for one in data.of_class(int(c))[:shots]], "one task: support"),
        right: (ways, 1, [data.of_class(int(c))[shots] for c in of_task], "query"),
    }
    for part, (rows, columns, images, title) in sheets.items():
        part.suptitle(title, fontsize=9)
        for axes, image in zip(part.subplots(rows, columns, squeeze=False).ravel(), images, strict=True):
            axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def loss_by_steps(methods: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """Eq. 8's loss on unseen tasks against gradient steps: mean over seeds, shaded from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, records in methods.items():
        losses = np.array([record.results["loss"]["mean"] for record in finished(records)])
        steps = np.arange(losses.shape[1])
        colour = COLOURS.get(name, PURPLE)
        axes.plot(steps, losses.mean(0), linestyle=STYLES.get(name, "-"), color=colour, label=name)
        axes.fill_between(steps, losses.min(0), losses.max(0), color=colour, alpha=0.2, linewidth=0)
    tasks = finished(next(iter(methods.values())))[0].results["loss"]["tasks"]
    axes.set(xlabel="gradient steps on 10 sampled points", ylabel="eq. 8: squared error integrated over [-5, 5]")
    axes.set_yscale("log")
    return _finish(figure, f"Mean over {tasks:,} unseen tasks; {_seeds(len(losses))}", note)


def before_adaptation(methods: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """What f_φ itself looks like before any adaptation: one line for each training seed."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, records in methods.items():
        for i, record in enumerate(finished(records)):
            x = record.results["shown"]["wave"][0]
            line = record.results["shown"]["predictions"][0]
            axes.plot(
                x, line, linestyle=STYLES.get(name, "-"), color=COLOURS.get(name, PURPLE), label=None if i else name
            )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="x", ylabel="f(x) before adaptation")
    return _finish(figure, "The initialisations themselves, one line a training seed (waves reach ±5)", note)


def learning_curves(records: Sequence[Record], note: str = "") -> Figure:
    """Accuracy on unseen classes along training: mean over seeds, shaded from the lowest to the highest.

    Of one seed, shaded is the 95 % interval over the tasks of a point. Marks at the end are the final evaluation, of
    more tasks, with 95 % intervals: filled over seeds, hollow over the tasks of one. Triangles at the right are the
    paper's (Tables 1 and 2).
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    records = finished(records)
    iterations = [point["iteration"] for point in records[0].curve]
    for label, colour in zip(records[0].results, (BLUE, VERMILION), strict=False):
        for setting, style, mark in (("transductive", "-", "o"), ("alone", "--", "s")):
            cells = [[point[label][setting] for point in record.curve] for record in records]
            means = 100 * np.array([[cell["mean"] for cell in curve] for curve in cells])
            over_tasks = 100 * np.array([cell["ci95"] for cell in cells[0]]) if len(cells) == 1 else 0
            axes.plot(iterations, means.mean(0), style, color=colour, label=f"{label}, {SETTINGS[setting]}")
            low, high = means.min(0) - over_tasks, np.minimum(means.max(0) + over_tasks, 100)
            axes.fill_between(iterations, low, high, color=colour, alpha=0.15, linewidth=0)
            end = records[0].config["outer_iterations"]
            _points(axes, [end], [records], label, setting, color=colour, marker=mark, markersize=4, linestyle="")
            for paper in _papers(records[0], label, setting):
                place: dict[str, Any] = dict(transform=axes.get_yaxis_transform(), clip_on=False, linestyle="")
                axes.plot(1.02, paper, marker="<", color=colour, fillstyle="full" if style == "-" else "none", **place)
    tasks = records[0].config["curve_tasks"]
    axes.set(xlabel="outer iterations", ylabel="accuracy on unseen classes (%)")
    marks = f"marks: {_final(records)}; triangles: the paper's"
    seeds = "one training seed, shaded: 95 % over tasks" if len(records) == 1 else _seeds(len(records))
    return _finish(figure, f"{task_name(records[0])}, {tasks} tasks a point; {seeds};\n{marks}", note, 2)


def _final(records: Sequence[Record]) -> str:
    tasks = sorted({record.config["eval_tasks"] for record in records})
    return f"final evaluation ({' to '.join(f'{n:,}' for n in dict.fromkeys((tasks[0], tasks[-1])))} tasks), bars 95 %"


def beside_record(here: Sequence[Record], record: Sequence[Record], note: str = "") -> Figure:
    """Learning curves of a training, over those of the largest one on record and the paper's values at its end.

    `here` and `record` are each one training's records, a seed each; where they are the same they are drawn once.
    There is a panel for each of its shots, with a logarithmic axis, as lengths differ by powers of ten. Shaded: range
    over seeds.
    """
    said = {"here": here} | ({"on record": record} if [r.name for r in record] != [r.name for r in here] else {})
    shown = shots_of(here)
    size = (max(6.4, 5 * len(shown)), 4.4)
    figure, row = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    for axes, shots in zip(row[0], shown, strict=True):
        for setting, colour, marker in (("transductive", BLUE, "o"), ("alone", VERMILION, "s")):
            for what, style, alpha in (("on record", "--", 0.5), ("here", "-", 1.0)):
                some = [r for r in said.get(what, ()) if r.curve]
                if some:
                    label = f"{SETTINGS[setting]}, {what} ({some[0].config['outer_iterations']:,})"
                    look: dict[str, Any] = dict(color=colour, linestyle=style, marker=marker, markersize=4, alpha=alpha)
                    _curve(axes, some, _accuracy(shots, setting), label, **look)
            for paper in _papers(here[0], shots, setting):
                axes.axhline(paper, color=colour, linestyle=":", label=f"{SETTINGS[setting]}, the paper's, at its end")
        axes.set(xscale="log", xlabel="outer iterations", ylabel=f"{shots} accuracy on unseen classes (%)")
    tasks = " and ".join(f"{n:,}" for n in dict.fromkeys(some[0].config["curve_tasks"] for some in said.values()))
    title = f"{_ROWS[here[0].config['algorithm']]} on {task_name(here[0])}, along training; {tasks} tasks a point"
    return _finish(figure, title, note, 2)


_ROWS = {"reptile": "Reptile", "maml": "MAML", "fomaml": "1st-order MAML"}


def _papers(record, shots, setting):
    """The paper's accuracy of a training's algorithm in such a cell, where it has one."""
    table = {"omniglot": TABLE_2, "mini-imagenet": TABLE_1}.get(record.config["dataset"], {})
    row = _ROWS[record.config["algorithm"]] + (" + Transduction" if setting == "transductive" else "")
    cell = table.get(row, {}).get((int(shots.split("-")[0]), record.config["ways"]))
    return [cell[0]] if cell else []


def _accuracy(shots: str, setting: str) -> Callable[[Any], float]:
    """From a record's results, or from a point of its curve, to accuracy in percent."""
    return lambda measured: 100 * measured[shots][setting]["mean"]


def figure_3(curves: Mapping[str, Sequence[Record]], note: str = "", setting: str = "alone") -> Figure:
    """Figure 3: learning curves of the gradient combinations, smoothed over three points; shaded: range over seeds.

    The first panel has all of them. The others have the upper part of the sums, the averages and the last gradients.
    Where seeds differ in number, the legend says how many a line has.
    """
    colours = dict(zip("1234", (GREY, ORANGE, GREEN, BLUE), strict=True))
    sums, averages, last = styles = {"sums": "-", "averages": "--", "last gradients (FOMAML)": ":"}
    kinds = {c: sums if c.startswith("g1") else averages if c[0] in "½⅓¼" else last for c in curves}
    families = {kind: [label for label in curves if kinds[label] == kind and label != "g1"] for kind in styles}
    families = {kind: labels for kind, labels in families.items() if labels}
    figure, grid = plt.subplots(1, 1 + len(families), figsize=(3.4 * (1 + len(families)), 4.4), layout="constrained")
    panels, value = np.atleast_1d(grid), _accuracy("5-shot", setting)
    counts = {len(records) for records in curves.values()}
    for axes, (kind, labels) in zip(panels, {"all": list(curves), **families}.items(), strict=True):
        for label in labels:
            k = max(digit for digit in label if digit.isdigit())
            several = f"{label}, {len(curves[label])} seed{'s' * (len(curves[label]) > 1)}"
            called = label if len(counts) == 1 else several
            _curve(axes, curves[label], value, called, smooth=True, color=colours[k], linestyle=styles[kinds[label]])
        axes.set(xlabel="outer iterations", title=kind)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel(f"5-shot accuracy (%), {SETTINGS[setting]}")
    ends = [value(r.curve[-1]) for label, some in curves.items() for r in some if label != "g1" and r.curve]
    for axes in panels[1:] if ends else ():
        axes.set_ylim(min(ends) - 10, min(max(ends) + 2, 100))
    tasks = next(iter(curves.values()))[0].config["curve_tasks"]
    title = "Figure 3: inner-loop gradient combinations, on unseen classes"
    points = f"{tasks} tasks a point, the same all along a seed's curve; each smoothed with the points beside it"
    shaded = _seeds(max(counts)) if len(counts) == 1 else "shaded: range over seeds, where there are several"
    return _finish(figure, f"{title}\n{points}\n{shaded}", note)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of each point and its neighbours, fewer at the ends."""
    padded = np.concatenate([[np.nan], values, [np.nan]])
    return np.nanmean([padded[:-2], padded[1:-1], padded[2:]], axis=0)


_LOOKS = {
    "Reptile": (BLUE, "-", "o"),
    "FOMAML, shared tail, cycle": (VERMILION, "-", "s"),
    "FOMAML, shared tail, replacement": (ORANGE, "--", "D"),
    "FOMAML, separate tail, cycle": (GREEN, "-", "^"),
    "FOMAML, separate tail, replacement": (GREY, "--", "v"),
}


def figure_4(
    panels: Mapping[str, Mapping[str, Mapping[float | int, Sequence[Record]]]],
    note: str = "",
    setting: str = "alone",
    title: str = "Figure 4: what overlapping batches do, on unseen classes",
) -> Figure:
    """Figure 4: final accuracy against what each panel sweeps, on one scale.

    The bars are 95 % intervals: over seeds where a point has several (filled), else over its tasks (hollow). The insets
    of 4a and 4b are their upper parts, where lines coincide; 4c has the levels of Reptile with batches of 25 and of an
    untrained network. A panel's name may go on, such as "4b, mean loss".
    """
    size = (1 + 3.5 * len(panels), 4.6)
    figure, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    row = grid[0]
    swept = {
        "4a": "inner-loop iterations",
        "4b": "inner-loop batch size (images;\nwith a separate tail 75 at most)",
        "4c": "outer step size\n(batches of all 100 images)",
    }
    for axes, (panel, lines) in zip(row, panels.items(), strict=True):
        axes.set(xlabel=swept[panel[:2]], title=panel, ylim=(0, 100))
        corner = {"4a": (0.5, 0.08, 0.47, 0.42), "4b": (0.13, 0.08, 0.5, 0.34)}.get(panel[:2])
        inset = axes.inset_axes(corner, ylim=(85, 100)) if corner else None
        for line, points in lines.items():
            if line == UNTRAINED:
                continue
            look = dict(zip(("color", "linestyle", "marker"), _LOOKS[line], strict=True))
            label = _without_diverged([record for records in points.values() for record in records], line)[1]
            for where in (axes, inset) if inset else (axes,):
                _points(
                    where, list(points), list(points.values()), "5-shot", setting, label=label, markersize=4, **look
                )
        if inset:
            inset.tick_params(labelsize=7)
            inset.grid(alpha=0.25)
        if panel.startswith("4b"):
            for where in filter(None, (axes, inset)):
                where.set_xticks(sorted({value for points in lines.values() for value in points}))
        if panel.startswith("4c"):
            axes.set_xscale("log")
            reptile = (some.get("Reptile", {}).get(WITHOUT_OVERLAP.get(name[:2])) for name, some in panels.items())
            reference = next(filter(None, reptile), ())
            untrained = lines.get(UNTRAINED, {}).get(0.0, ())
            for level, color, records in (("Reptile, batches of 25", BLUE, reference), ("untrained", GREY, untrained)):
                if cells := cells_of(records, "5-shot", setting):
                    mean, _ = estimate(cells)
                    axes.axhline(mean, color=color, linestyle=":")
                    said: dict[str, Any] = dict(color=color, fontsize=8, ha="right", va="top")
                    axes.text(0.98, mean - 2, level, transform=axes.get_yaxis_transform(), **said)
    row[0].set_ylabel(f"5-shot accuracy (%), {SETTINGS[setting]}")
    return _finish(figure, f"{title}\n{MARKS}", note, 3)


def ablation_sweeps(sweeps: Mapping[str, Mapping[Any, Sequence[Record]]], note: str = "") -> Figure:
    """Final accuracy against each of `SWEPT`, a panel each, its values evenly spaced; bars as in `figure_4`."""
    columns = min(2, len(sweeps))
    rows = -(-len(sweeps) // columns)
    size = (4.6 * columns, 3.2 * rows + 0.6)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (swept, points) in zip(grid.ravel(), sweeps.items(), strict=False):
        places, groups = range(len(points)), list(points.values())
        for shots, colour in zip(shots_of(groups[0]), (BLUE, VERMILION), strict=False):
            for setting, style in (("transductive", "-"), ("alone", "--")):
                label = f"{shots}, {SETTINGS[setting]}"
                look = dict(color=colour, linestyle=style, marker="o", markersize=4, label=label)
                _points(axes, places, groups, shots, setting, **look)
        axes.set_xticks(places, [f"{value:g}" for value in points])
        axes.set_xlabel(SWEPT[swept])
        axes.margins(x=0.15)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy on unseen classes (%)")
    return _finish(figure, f"5-way Omniglot, around Table 3\n{MARKS}", note, 4)


def ablation_curves(variants: Mapping[str, Sequence[Record]], note: str = "", setting: str = "alone") -> Figure:
    """Learning curves of a few variants of a training, a panel for each of its shots; shaded: range over seeds.

    Marks at the end are the final evaluation, of more tasks, with 95 % intervals: filled over seeds, hollow over the
    tasks of one.
    """
    shown = shots_of(next(iter(variants.values())))
    size = (4.6 * len(shown), 3.8)
    figure, row = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    looks = ((BLUE, "-"), (ORANGE, "--"), (VERMILION, "-."))
    for axes, shots in zip(row[0], shown, strict=True):
        for (name, records), (colour, style) in zip(variants.items(), looks, strict=False):
            _curve(axes, records, _accuracy(shots, setting), name, color=colour, linestyle=style)
            if kept := [record for record in records if record.status == "finished"]:
                end = kept[0].config["outer_iterations"]
                _points(axes, [end], [kept], shots, setting, color=colour, marker="o", markersize=4, linestyle="")
        axes.set(xlabel="outer iterations", ylabel=f"{shots} accuracy (%), {SETTINGS[setting]}")
    first = next(iter(variants.values()))[0].config
    ends = f"marks: {_final([record for records in variants.values() for record in records])}"
    title = f"5-way Omniglot, around Table 3, unseen classes, {first['curve_tasks']} tasks a point"
    return _finish(figure, f"{title};\n{ends}", note, 3)


def expansion_errors(alphas: np.ndarray, expansions: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Errors of eq. 16 and of eqs. 36, 38, 40 against the step size, a panel for each activation."""
    figure, grid = plt.subplots(1, len(expansions), figsize=(11, 4.2), sharey=True, squeeze=False, layout="constrained")
    row = grid[0]
    for axes, (name, errors) in zip(row, expansions.items(), strict=True):
        inner = [label for label in errors if label.startswith("g_")]
        shades = plt.get_cmap("viridis")(np.linspace(0.9, 0.3, len(inner)))
        for shade, label in zip(shades, inner, strict=True):
            axes.loglog(alphas, errors[label], color=shade, linewidth=1, label=f"${label}$")
        for label, style in (("MAML", "--"), ("FOMAML", ":"), ("Reptile", "-")):
            axes.loglog(alphas, errors[label], linestyle=style, color=COLOURS[label], linewidth=2, label=label)
        guide = errors["Reptile"][0] * (alphas / alphas[0]) ** 2
        axes.loglog(alphas, guide, color="black", linewidth=0.8, linestyle=(0, (1, 3)), label="slope 2")
        axes.axvline(TRAINED_WITH, color=GREY, linewidth=1, linestyle="--", label=f"α = {TRAINED_WITH}, as trained")
        axes.axvline(0.1 / (len(inner) + 1), color="black", linewidth=1, linestyle=":", label="αk = 0.1")
        axes.set(xlabel="inner step size α", title=f"sine MLP, {name}, k = {len(inner) + 1}")
    row[0].set_ylabel("norm of (exact - expansion)")
    return _finish(figure, "Errors of the expansions", columns=7)


def coefficient_errors(alphas: np.ndarray, problems: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> Figure:
    """Where the Taylor series breaks: relative error of AvgGradInner's coefficient against αk, a panel a network."""
    size = (5.2 * len(problems), 4.4)
    figure, row = plt.subplots(1, len(problems), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (name, errors) in zip(row[0], problems.items(), strict=True):
        for (k, by_algorithm), marker in zip(errors.items(), "os^", strict=False):
            for algorithm, values in by_algorithm.items():
                label = f"{algorithm}, k = {k}"
                axes.loglog(alphas * k, values, marker=marker, markersize=4, color=COLOURS[algorithm], label=label)
        axes.axhline(0.02, color="black", linewidth=0.8, linestyle=":", label="2 %")
        axes.axvline(0.1, color="black", linewidth=0.8, linestyle="--", label="αk = 0.1")
        trained = {"color": GREY, "alpha": 0.25, "linewidth": 0, "label": f"α = {TRAINED_WITH}, as trained"}
        axes.axvspan(TRAINED_WITH * min(errors), TRAINED_WITH * max(errors), **trained)
        axes.set(xlabel="αk", ylim=(1e-5, 1e3))
        axes.set_title(name, fontsize=10)
    row[0, 0].set_ylabel("relative error of AvgGradInner's coefficient")
    return _finish(figure, "Where the Taylor series breaks")


TRAINED_WITH = 0.02
"""The inner step size of Section 4's trainings."""

WATCHED = {
    "same": "inner product, same task",
    "other": "inner product, different tasks",
    "cosine_same": "cosine, same task",
    "cosine_other": "cosine, different tasks",
    "gain_same": "loss a step takes off the other batch",
    "gain_other": "loss a step takes off another task",
    "distance": "distance from φ to the solution reached",
    "loss_there": "mean squared error there",
}


def watched(methods: Mapping[str, Sequence[Record]], what: Sequence[str], note: str = "") -> Figure:
    """What `SineAnalysis` runs saw along training, pairs of `WATCHED`, a row each: mean over seeds, and their range.

    Distances and losses are on logarithmic scales. Of other quantities the two of a row have one linear scale.
    """
    logarithmic = set(what) <= {"distance", "loss_there"}
    rows = len(what) // 2
    size, shared = (10, 3 * rows + 0.6), False if logarithmic else "row"
    figure, grid = plt.subplots(rows, 2, figsize=size, sharex=True, sharey=shared, squeeze=False, layout="constrained")
    for axes, quantity in zip(grid.ravel(), what, strict=True):
        for name, records in methods.items():
            look: dict[str, Any] = dict(color=COLOURS[name], linestyle=STYLES[name])
            _curve(axes, records, lambda point, what=quantity: point["watched"][what]["mean"], name, **look)
        axes.set(ylabel=WATCHED[quantity])
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.axhline(0, color="black", linewidth=0.6)
    for axes in grid[-1]:
        axes.set(xlabel="outer iterations")
    one = next(iter(methods.values()))
    title = f"Sine tasks, {one[0].config['curve_tasks']} unseen tasks a point; {_seeds(len(one))}"
    return _finish(figure, title, note, 4)


def figure_2(paths: Mapping[str, np.ndarray], goal: np.ndarray) -> Figure:
    """Figure 2: iterates that move alternately towards two solution manifolds, and the point nearest both."""
    figure, row = plt.subplots(1, 2, figsize=(8.4, 4.8), sharex=True, sharey=True, layout="constrained")
    x = np.linspace(-3.6, 3.2, 200)
    shown = (
        {"exact projection": BLUE},
        {"1 gradient steps": ORANGE, "5 gradient steps": GREEN, "20 gradient steps": PURPLE},
    )
    for axes, chosen in zip(row, shown, strict=True):
        axes.plot(x, 1 + x**2 / 4, color="black", linewidth=1.5)
        axes.plot(x, x / 2 - 1, color="black", linewidth=1.5)
        axes.text(-2.4, 2.75, "$\\mathcal{W}_1$")
        axes.text(-2.4, -2.6, "$\\mathcal{W}_2$")
        for name, colour in chosen.items():
            path = paths[name]
            label = name.replace("1 gradient steps", "1 gradient step")
            axes.plot(*path.T, "o-", color=colour, markersize=2, linewidth=0.7, label=label)
        axes.plot(*goal, "*", color=VERMILION, markersize=13, label="nearest both")
        axes.set(xlabel="$\\phi_1$", xlim=(-3.6, 3.2), ylim=(-2.9, 4.2))
        axes.legend(frameon=False, fontsize=8, loc="upper center")
        axes.set_aspect("equal")
    row[0].set_ylabel("$\\phi_2$")
    row[0].set_title("Figure 2: exact projection (eqs. 45-47)", fontsize=10)
    row[1].set_title("partial minimisation by k gradient steps", fontsize=10)
    return figure
