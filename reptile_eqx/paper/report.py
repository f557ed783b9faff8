"""Figures and tables as files, each with a `.json` beside it that says how it was made."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate

from ..datasets import FACTS
from ..files import expanded, figures_directory, replacing
from ..runs.processes import as_json, first_process, write
from ..runs.records import Record, environment


def task_name(record: Record) -> str:
    """A classification run's dataset and ways as readers know them, such as "Omniglot, 5-way"."""
    dataset = record.config["dataset"]
    return f"{FACTS[dataset].title if dataset in FACTS else dataset}, {record.config['ways']}-way"


def scale(
    records: Sequence[Record],
    paper_iterations: int,
    paper_seeds: int = 3,
    paper_tasks: int = 10_000,
    seeds: Iterable[int] = (),
) -> str:
    """What a title must say where a result is not the paper's: stand-in data, fewer iterations, seeds or evaluation
    tasks (of classification, for which the paper's number is known), divergence.

    Empty at the paper's scale. `paper_tasks=0` leaves out the tasks of the final evaluation, of which a learning curve
    shows nothing. `seeds` are the numbers of seeds that trainings have, where some have more than others.
    """
    said = []
    if any(record.config.get("dataset") == "glyphs" for record in records):
        said.append("made-up glyphs, not Omniglot")
    iterations = min(record.config["outer_iterations"] for record in records)
    if iterations < paper_iterations:
        said.append(f"{iterations:,} of the paper's {paper_iterations:,} outer iterations")
    counts = {*seeds} or {len({record.config["seed"] for record in records})}
    if min(counts) < paper_seeds:
        said.append(f"{_range(counts)} of the paper's {paper_seeds} seeds")
    tasks = {record.config["eval_tasks"] for record in records if record.kind == "FewShotClassification"}
    if tasks and min(tasks) < paper_tasks:
        said.append(f"{_range(tasks)} of {paper_tasks:,} evaluation tasks")
    left_out = sum(record.status != "finished" for record in records)
    if left_out:
        said.append(f"{left_out} of {len(records)} trainings diverged and left out")
    return "; ".join(said)


def _range(numbers):
    return " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))


def folder(profile: str, figures: str | os.PathLike | None = None) -> Path:
    """Where a notebook's figures go: into `figures`, where that is given, and else into the project's own folder.

    There only `paper` writes beside what is published; other profiles have a folder of their own, which git ignores.
    """
    if figures is not None:
        return expanded(figures, "`figures`")
    return figures_directory() if profile == "paper" else figures_directory() / profile


def provenance(records: Sequence[Record], **more: Any) -> dict[str, Any]:
    """How a figure or table was made: with what, and its runs' names, configurations, seeds, devices, wall time."""
    return {
        **more,
        "made": environment(),
        "runs": [
            {"name": record.name, "status": record.status, "config": record.config, "made": record.made}
            for record in records
        ],
    }


def save_figure(
    figure: Figure, name: str, records: Sequence[Record], figures: str | os.PathLike | None = None, **more: Any
) -> None:
    """Write `NAME.png`, `NAME.svg` and `NAME.json` into the folder of figures, and show the figure in a notebook.

    It is shown once, and `described` in words for those who do not see it.
    """
    folder, alt = Path(figures or figures_directory()), described(figure)
    write_figure(figure, folder, name)
    _save_json(folder, name, records, {"alt": alt, **more})
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def described(figure: Figure) -> str:
    """What a figure shows, in words: its titles, what each panel has on its axes, and what its lines are.

    It is the alternative text of its picture, and made of the figure, so that it says what is drawn.
    """
    parts, lines, ylabel = [part.get_suptitle() for part in (figure, *figure.subfigs)], [], ""
    for axes in figure.axes:
        ylabel = axes.get_ylabel() or ylabel  # Of panels that share one, the first has it.
        shown = [axes.get_title(), " against ".join(filter(None, (ylabel, axes.get_xlabel())))]
        if axes.axison and axes.get_xlabel():
            parts.append(": ".join(filter(None, shown)))
            lines += axes.get_legend_handles_labels()[1]
    parts.append(f"Drawn: {'; '.join(dict.fromkeys(lines))}" if lines else "")
    text = ". ".join(dict.fromkeys(part.strip().rstrip(".") for part in parts if part.strip()))
    return " ".join(re.sub(r"\\(?:mathcal)?|[${}]", "", text).split())


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `NAME.png` and `NAME.svg` into a folder; returns their paths. Of several processes the first one writes."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths if first_process() else ():
        kind = path.suffix.removeprefix(".")
        about = {"Date": None} if kind == "svg" else None
        # Without date and random ids, the same figure is the same file.
        with matplotlib.rc_context({"svg.hashsalt": name}), replacing(path) as file:
            figure.savefig(file, dpi=160, bbox_inches="tight", metadata=about, format=kind)
    return paths


def save_moving(frames: Sequence[Image.Image], name: str, figures: str | os.PathLike | None = None) -> Path:
    """Write pictures as `NAME.gif`, six a second, the last one for two seconds, over and over; returns its path."""
    path = Path(figures or figures_directory()) / f"{name}.gif"
    small = [frame.quantize(32, dither=Image.Dither.NONE) for frame in frames]
    duration = [1000 // 6] * (len(small) - 1) + [2000]
    if first_process():
        with replacing(path) as file:
            small[0].save(file, format="GIF", save_all=True, append_images=small[1:], duration=duration, loop=0)
    return path


def save_table(
    table: pd.DataFrame,
    name: str,
    title: str,
    records: Sequence[Record],
    figures: str | os.PathLike | None = None,
    **more: Any,
) -> list[Path]:
    """Write `NAME.md` and `NAME.tex` (with its title), `NAME.csv` and `NAME.json`; returns their paths."""
    folder = Path(figures or figures_directory())
    texts = {
        "md": f"**{title}**\n\n{table.to_markdown(index=False, disable_numparse=True)}\n",
        "csv": table.to_csv(index=False),
        "tex": f"% {title}\n{latex(table)}\n",
    }
    for kind, text in texts.items():
        write(folder / f"{name}.{kind}", text)
    return [*(folder / f"{name}.{kind}" for kind in texts), _save_json(folder, name, records, {"title": title, **more})]


def shown(table: pd.DataFrame, caption: str = "") -> HTML:
    """A table as a notebook shows it: no index, texts to the left, numbers with their thousands apart, no NaN."""
    styled = table.style.hide(axis="index").set_caption(caption)
    styled.format(na_rep="", thousands=",", precision=4)
    html = styled.to_html()
    html = html.replace("<caption>", f"<caption {_LEFT}>")
    for i, name in enumerate(table):
        # In each cell, as JupyterLab heeds no style sheet of a notebook that was executed by somebody else.
        if not pd.api.types.is_numeric_dtype(table[name]):
            html = re.sub(rf'(class="[^"]*\bcol{i}")', rf"\1 {_LEFT}", html)
    return HTML(html)


_LEFT = 'style="text-align: left"'
_LATEX = {"±": r"$\pm$", "α": r"$\alpha$", "½": r"$\frac12$", "⅓": r"$\frac13$", "¼": r"$\frac14$"}


def latex(table: pd.DataFrame) -> str:
    """A table as a LaTeX `tabular` with the rules of the package booktabs."""
    text = tabulate(table, headers="keys", tablefmt="latex_booktabs", showindex=False, disable_numparse=True)
    for symbol, command in _LATEX.items():
        text = text.replace(symbol, command)
    return text


def _save_json(folder, name, records, more):
    return write_json(folder, name, provenance(records, **more))


def write_json(folder: Path, name: str, contents: Mapping[str, Any]) -> Path:
    """Write `NAME.json` into a folder; returns its path."""
    path = folder / f"{name}.json"
    write(path, as_json(contents, indent=1) + "\n")
    return path
