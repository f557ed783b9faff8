"""Figures and tables as files, each with a `.json` beside it that says how it was made."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tabulate import tabulate

from . import places
from .devices import first_process
from .store import Record, environment, write_text

_DATASETS = {"omniglot": "Omniglot", "mini-imagenet": "Mini-ImageNet", "glyphs": "Made-up glyphs"}


def task_name(record: Record) -> str:
    """A classification run's dataset and ways as readers know them, such as "Omniglot, 5-way"."""
    dataset = record.config["dataset"]
    return f"{_DATASETS.get(dataset, dataset)}, {record.config['ways']}-way"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds, the paper's ±; the latter is NaN for a single seed."""
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else float("nan")


def percent(mean: float, spread: float) -> str:
    """A cell such as `95.39 ± 0.09 %`; without ± where a single seed gives none."""
    return f"{mean:.2f} %" if np.isnan(spread) else f"{mean:.2f} ± {spread:.2f} %"


def finished(records: Sequence[Record]) -> list[Record]:
    """The records of trainings that did not diverge; raises `ValueError` where none is left."""
    kept = [record for record in records if record.status == "finished"]
    if not kept:
        raise ValueError(f"every training diverged: {', '.join(record.name for record in records)}")
    return kept


def scale(records: Sequence[Record], paper_iterations: int, paper_seeds: int = 3, paper_tasks: int = 10_000) -> str:
    """What a title must say where a result is not the paper's: stand-in data, fewer iterations, seeds or evaluation
    tasks (of classification, for which the paper's number is known), divergence.

    Empty at the paper's scale. `paper_tasks=0` leaves out the tasks of the final evaluation, of which a learning curve
    shows nothing.
    """
    said = []
    if any(record.config.get("dataset") == "glyphs" for record in records):
        said.append("made-up glyphs, not Omniglot")
    iterations = min(record.config["outer_iterations"] for record in records)
    if iterations < paper_iterations:
        said.append(f"{iterations:,} of the paper's {paper_iterations:,} outer iterations")
    seeds = len({record.config["seed"] for record in records})
    if seeds < paper_seeds:
        said.append(f"{seeds} of the paper's {paper_seeds} seeds")
    tasks = min((r.config["eval_tasks"] for r in records if r.kind == "FewShotClassification"), default=paper_tasks)
    if tasks < paper_tasks:
        said.append(f"{tasks:,} of {paper_tasks:,} evaluation tasks")
    diverged = sum(record.status == "diverged" for record in records)
    if diverged:
        said.append(f"{diverged} of {len(records)} trainings diverged and left out")
    return "; ".join(said)


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
) -> list[Path]:
    """Write `NAME.png`, `NAME.svg` and `NAME.json` into the folder of figures; returns their paths."""
    folder = Path(figures or places.figures_directory())
    return [*write_figure(figure, folder, name), _save_json(folder, name, records, more)]


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `NAME.png` and `NAME.svg` into a folder; returns their paths. Of several processes the first one writes."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths if first_process() else ():
        folder.mkdir(parents=True, exist_ok=True)
        kind = path.suffix.removeprefix(".")
        partial = path.with_suffix(f".part.{kind}")
        # Without date and random ids, the same figure is the same file.
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(partial, dpi=160, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
        partial.replace(path)
    return paths


def save_table(
    table: pd.DataFrame,
    name: str,
    title: str,
    records: Sequence[Record],
    figures: str | os.PathLike | None = None,
    **more: Any,
) -> list[Path]:
    """Write `NAME.md` and `NAME.tex` (with its title), `NAME.csv` and `NAME.json`; returns their paths."""
    folder = Path(figures or places.figures_directory())
    texts = {
        "md": f"**{title}**\n\n{table.to_markdown(index=False, disable_numparse=True)}\n",
        "csv": table.to_csv(index=False),
        "tex": f"% {title}\n{latex(table)}\n",
    }
    for kind, text in texts.items():
        write_text(folder / f"{name}.{kind}", text)
    return [*(folder / f"{name}.{kind}" for kind in texts), _save_json(folder, name, records, {"title": title, **more})]


def latex(table: pd.DataFrame) -> str:
    """A table as a LaTeX `tabular` with the rules of the package booktabs."""
    text = tabulate(table, headers="keys", tablefmt="latex_booktabs", showindex=False, disable_numparse=True)
    for symbol, command in {
        "±": r"$\pm$",
        "α": r"$\alpha$",
        "½": r"$\frac12$",
        "⅓": r"$\frac13$",
        "¼": r"$\frac14$",
    }.items():
        text = text.replace(symbol, command)
    return text


def _save_json(folder, name, records, more):
    return write_json(folder, name, provenance(records, **more))


def write_json(folder: Path, name: str, contents: Mapping[str, Any]) -> Path:
    """Write `NAME.json` into a folder; returns its path."""
    path = folder / f"{name}.json"
    write_text(path, json.dumps(contents, indent=1) + "\n")
    return path


def size_before_adaptation(records: Sequence[Record]) -> float:
    """Root mean square over [-5, 5] of f_φ itself, before any adaptation, averaged over training seeds."""
    curves = [np.array(record.results["shown"]["predictions"][0]) for record in finished(records)]
    return float(np.mean([np.sqrt(np.mean(curve**2)) for curve in curves]))


def losses_by_setting(tried: Mapping[str, Record]) -> pd.DataFrame:
    """Eq. 8 before and after adaptation for each of several `SineRegression` runs, with its interval over tasks."""
    rows = []
    for setting, record in tried.items():
        loss = record.results.get("loss")
        cells = {
            f"loss after {n} steps": f"{loss['mean'][n]:.2f} ± {loss['ci95'][n]:.2f}" if loss else "diverged"
            for n in (0, 1, 8, record.config["eval_inner_iterations"])
        }
        rows.append({"Setting": setting, **cells})
    return pd.DataFrame(rows)


def sine_summary(methods: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """Eq. 8 before and after adaptation for each method, mean ± standard deviation over seeds, and the size of f_φ."""
    rows = []
    for name, records in methods.items():
        losses = np.array([record.results["loss"]["mean"] for record in finished(records)])
        row = {"Method": name, "RMS of f before": f"{size_before_adaptation(records):.2f}"}
        for step in (0, 1, 8, losses.shape[1] - 1):
            mean, spread = mean_and_spread(losses[:, step])
            row[f"loss after {step} steps"] = f"{mean:.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")
        rows.append(row)
    return pd.DataFrame(rows)
