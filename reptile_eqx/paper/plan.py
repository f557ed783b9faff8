"""What a profile trains, in order of worth, how long that takes on this machine (`reptile-eqx run --dry-run`), and
working it off."""

import dataclasses
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import pandas as pd

from . import bench, datasets, flops, presets, sweeps
from .devices import use_devices
from .experiments import SineRegression
from .store import iterations_left, run

# An outer iteration of MAML takes 2.3 (k = 2) to 3.3 (k = 6) times as long as first-order MAML's, measured on Omniglot.
_MAML = 3.0


class Step(NamedTuple):
    """A part of a notebook: what it trains, and the run configurations."""

    notebook: str
    what: str
    configs: list[Any]


def steps(
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    eval_tasks: int | None = None,
    train: Sequence[str] | None = None,
) -> list[Step]:
    """All that the notebooks train at a profile, in order of worth. The arguments are the notebooks' parameters.

    The sine's trainings take minutes in all. Then come 5-way Omniglot, Figures 3 and 4, the other trainings of Reptile
    and what is varied around Table 3; last MAML's and first-order MAML's rows of Tables 1 and 2, which take most of
    the time.
    """
    scale = (profile, seeds, outer_iterations)
    found = [
        Step("1_sine_regression", f"Figure 1, {algorithm}", presets.sine_runs(profile, algorithm, *scale[1:]))
        for algorithm in ("random", "joint", "fomaml", "maml", "reptile")
    ]
    settings = list(_leaves(presets.maml_setting_runs(profile, outer_iterations)))
    found.append(Step("1_sine_regression", "MAML's setting", settings))
    found += [
        Step("2_analysis", f"Section 5, {algorithm}", presets.analysis_runs(profile, algorithm, *scale[1:]))
        for algorithm in ("joint", "fomaml", "maml", "reptile")
    ]
    tables = [
        Step("3_classification", name, presets.classification_runs(name, *scale, eval_tasks))
        for name in presets.trainings_of(profile, train)
    ]
    found += [step for step in tables if step.what == "omniglot-5way-reptile"]
    found.append(Step("4_ablations", "Figure 3", list(_leaves(sweeps.figure_3_runs(*scale)))))
    for panel in sweeps.SWEEPS:
        found.append(Step("4_ablations", f"Figure {panel}", list(_leaves(sweeps.figure_4_runs(panel, *scale)))))
    found += [step for step in tables if step.what.endswith("reptile") and step not in found]
    for swept in sweeps.ABLATIONS:
        configs = list(_leaves(sweeps.ablation_runs(swept, *scale)))
        found.append(Step("4_ablations", f"Table 3, varied: {swept}", configs))
    for swept in sweeps.FASTER:
        configs = list(_leaves(sweeps.faster_runs(swept, *scale)))
        found.append(Step("4_ablations", f"Table 3, faster by {swept}", configs))
    return found + [step for step in tables if step not in found]


def on_platform(found: Sequence[Step], profile: str, platform: str) -> list[Step]:
    """The same steps as they are trained on a platform, "cpu" or "gpu", which decides on the order of tasks."""
    order = presets.order_of_tasks(profile, platform)
    return [
        step._replace(configs=[dataclasses.replace(config, order=order) for config in step.configs])
        if step.notebook == "3_classification"
        else step
        for step in found
    ]


def train(found: Sequence[Step], data: str | None, devices: int | None, figures: str | os.PathLike | None) -> None:
    """Train what is not there yet, in the order given, and keep the records where the notebooks of `paper` look.

    `data` is the folder of the datasets (`datasets.load`); see `use_devices` and `store.run` for the rest. A step that
    XLA cannot run, as it does not fit into a GPU's memory, is printed with its error, and those after it go on.
    """
    used = use_devices(devices)
    for step in on_platform(found, "paper", used[0].platform):
        print(f"\n{step.notebook}: {step.what}", file=sys.stderr)
        try:
            dataset = getattr(step.configs[0], "dataset", None)
            images = datasets.load(dataset, data) if dataset else None
            shared, origin = (images.images, images.origin) if images else (None, presets.SINE_WAVES)
            run(step.configs, shared, origin=origin, publish=True, figures=figures, devices=used)
        except jax.errors.JaxRuntimeError:
            traceback.print_exc()


def _leaves(runs: Any) -> Iterator[Any]:
    for node in runs.values() if isinstance(runs, dict) else runs:
        if isinstance(node, dict | list):
            yield from _leaves(node)
        else:
            yield node


def table(found: Sequence[Step], devices: int | None = None, figures: str | os.PathLike | None = None) -> pd.DataFrame:
    """A row for each step: its runs, what is left of them, and the hours that takes here, with their sum.

    `figures` is another folder where records may lie, as `store.run` has it.

    Speed is measured on one short training of each network and order of tasks that is still needed (`bench`), and
    scaled by the floating-point operations of training and evaluation. Runs that several steps have in common count for
    the first.
    """
    seen, runs, left = set(), [], []
    for step in found:
        fresh = [config for config in dict.fromkeys(step.configs) if config not in seen]
        seen.update(fresh)
        runs.append(len(fresh))
        short = {config: iterations_left(config, figures) for config in fresh}
        left.append([_Left(config, iterations) for config, iterations in short.items() if iterations is not None])
    kinds = {(run.workload, run.order) for some in left for run in some}
    speed = {(name, order): bench.paper_speed(name, devices, order=order) for name, order in sorted(kinds)}
    rows = [
        {
            "Notebook": step.notebook,
            "What": step.what,
            "Runs": several,
            "To do": len(some),
            "Outer iterations": sum(run.iterations for run in some),
            "Images (millions)": sum(run.examples for run in some) / 1e6,
            "TFLOP": sum(run.operations for run in some) / 1e12,
            "Hours here": sum(run.operations / speed[run.workload, run.order] for run in some) / 3600,
        }
        for step, several, some in zip(found, runs, left, strict=True)
    ]
    whole = pd.DataFrame(rows)
    total = {"Notebook": "", "What": "all", **whole.drop(columns=["Notebook", "What"]).sum().to_dict()}
    whole = pd.concat([whole, pd.DataFrame([total])], ignore_index=True)
    return whole.astype({"Runs": int, "To do": int, "Outer iterations": int})


def readable(left: pd.DataFrame) -> pd.DataFrame:
    """A `table` with its numbers as people read them."""
    formats = {"Images (millions)": "{:,.1f}", "TFLOP": "{:,.1f}", "Hours here": "{:.2f}"}
    return pd.DataFrame({name: column.map(formats.get(name, "{:,}").format) if column.dtype.kind in "if" else column
                         for name, column in left.items()})  # fmt: skip


class _Left:
    """What is left to do of a run: outer iterations, images (or points), floating-point operations."""

    def __init__(self, config: Any, iterations: int):
        self.workload, self.order = _workload(config), getattr(config, "order", "exact")
        layers = bench.workloads()[self.workload].layers
        self.iterations = iterations
        self.examples = self.iterations * flops.examples_per_iteration(config)
        training = self.iterations * flops.by_hand(config, layers) * (_MAML if config.algorithm == "maml" else 1)
        self.operations = training + flops.of_evaluation(config, layers)


def _workload(config: Any) -> str:
    """Which of `bench.workloads()` has the configuration's network."""
    if isinstance(config, SineRegression):
        return "sine"
    return "mini-imagenet-5way" if config.dataset == "mini-imagenet" else "omniglot-5way"
