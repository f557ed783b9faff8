"""What the notebook on tasks of one's own needs beside the library: pictures to begin with, and its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..datasets import ImageClasses
from ..evaluation import mean_and_interval
from .plots import BLUE, GREEN, GREY, ORANGE, VERMILION

COLOURS = {"random": GREY, "joint training": ORANGE, "MAML": GREEN, "Reptile": BLUE, "the head alone": VERMILION}
STYLES = {"random": ":", "joint training": "--", "MAML": "-.", "Reptile": "-", "the head alone": "--"}
MARKS = {"random": "x", "joint training": "s", "MAML": "^", "Reptile": "o", "the head alone": "s"}


def write_pictures(data: ImageClasses, folder: Path, classes: int, seed: int = 0) -> Path:
    """Write some of a dataset's classes as one folder each, of PNG and JPEG files of several sizes; returns `folder`.

    Classes have 8 pictures at least, and all of them at most, as folders of one's own would.
    """
    random = np.random.default_rng(seed)
    for position in random.choice(len(data.classes), classes, replace=False):
        place = folder / data.classes[position].replace("/", " ")
        place.mkdir(parents=True, exist_ok=True)
        images = np.asarray(data.of_class(int(position)))
        for i, image in enumerate(images[: random.integers(min(8, len(images)), len(images) + 1)]):
            side = int(random.integers(56, 112))
            picture = Image.fromarray(image.squeeze()).resize((side, side))
            picture.save(place / f"{i:03d}.{'png' if i % 2 else 'jpg'}")
    return folder


def learning_curves(curve: Sequence[Mapping[str, Any]], parts: Mapping[str, str], title: str, ylabel: str) -> Figure:
    """A `Fit.curve` over iterations: for each column in `parts`, by the label it gets, a line and its 95 % interval."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    x = [row["iteration"] for row in curve]
    looks = zip(parts.items(), (BLUE, VERMILION, GREEN), ("-", "--", "-."), ("o", "s", "^"), strict=False)
    for (column, label), colour, style, mark in looks:
        y, error = (np.array([row[name] for row in curve], float) for name in (column, f"{column} ±"))
        axes.plot(x, y, style, color=colour, marker=mark, markersize=4, label=label)
        axes.fill_between(x, y - error, y + error, color=colour, alpha=0.15, linewidth=0)
    return _finished(figure, title, "outer iterations", ylabel)


def by_steps(values: Mapping[str, np.ndarray], steps: Sequence[int], title: str, ylabel: str) -> Figure:
    """Means over tasks after some of the gradient steps, with their 95 % intervals: for each initialisation by name an
    array of shape `(task, step)`."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, some in values.items():
        summary = mean_and_interval(np.asarray(some)[:, list(steps)])
        look: dict[str, Any] = dict(
            color=COLOURS.get(name, BLUE), linestyle=STYLES.get(name, "-"), marker=MARKS.get(name, "d")
        )
        axes.errorbar(range(len(steps)), summary["mean"], summary["ci95"], capsize=2, markersize=4, label=name, **look)
    axes.set_xticks(range(len(steps)), list(map(str, steps)))
    return _finished(figure, title, "gradient steps on the unseen task", ylabel)


def _finished(figure, title, xlabel, ylabel):
    (axes,) = figure.axes
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def answers(support: Any, labels: Any, new: Any, said: Any, truth: Any, names: Sequence[str], title: str) -> Figure:
    """A contact sheet of one task: a row for each class, first the pictures that were adapted to, then new ones, each
    under what the classifier said of it: ✓ where that is right, ✗ and the row of the class it named where not."""
    labels, said, truth = map(np.asarray, (labels, said, truth))
    rows, left, right = len(names), int(np.bincount(labels).max()), int(np.bincount(truth).max())
    figure, grid = plt.subplots(
        rows,
        left + right,
        figsize=(0.85 * (left + right) + 1.6, 0.98 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.ravel():
        axes.axis("off")
    for row, name in enumerate(names):
        for column, picture in enumerate(np.asarray(support)[labels == row]):
            _picture(grid[row, column], picture)
        for column, position in enumerate(np.flatnonzero(truth == row), left):
            _picture(grid[row, column], np.asarray(new)[position])
            good = said[position] == row
            text = "✓" if good else f"✗ said {said[position] + 1}"
            grid[row, column].set_title(text, fontsize=7, color=BLUE if good else VERMILION, pad=2)
        grid[row, 0].set_title(f"{row + 1}: {name}", fontsize=7, loc="left", pad=2)
    figure.suptitle(title, fontsize=10)
    return figure


def pictures_by_steps(rows: Mapping[str, Any], truth: Any, steps: Sequence[int], quality: Mapping[str, Any]) -> Figure:
    """One picture as each initialisation has it after some steps, `(step, height, width)` by name, beside the truth."""
    figure, grid = plt.subplots(
        len(rows), len(steps) + 1, figsize=(0.95 * (len(steps) + 2), 1.12 * len(rows) + 0.6), layout="constrained"
    )
    for (name, pictures), axes in zip(rows.items(), grid, strict=True):
        for column, step in enumerate(steps):
            _picture(axes[column], np.clip(pictures[step], 0, 1))
            axes[column].set_title(f"{step}: {quality[name][step]:.0f} dB", fontsize=7, pad=2)
        _picture(axes[-1], truth)
        axes[-1].set_title("the picture", fontsize=7, pad=2)
        axes[0].text(-0.25, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle("One unseen picture after some gradient steps (steps: peak signal-to-noise ratio)", fontsize=10)
    return figure


def _picture(axes, picture):
    axes.imshow(np.squeeze(picture), cmap="gray", vmin=0, vmax=255 if np.asarray(picture).dtype == np.uint8 else 1)
    axes.axis("off")


def forecasts(series: Any, known: int, guesses: Mapping[str, Any], title: str) -> Figure:
    """One time series, of which `known` values were adapted to, and forecasts of the rest by name."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(range(len(series)), series, ".", color="black", label="the series")
    axes.axvspan(-0.5, known - 0.5, color=GREY, alpha=0.12, linewidth=0, label="adapted to")
    for name, guess in guesses.items():
        axes.plot(range(known, len(series)), guess, STYLES[name], color=COLOURS[name], label=name)
    return _finished(figure, title, "time (samples)", "value")
