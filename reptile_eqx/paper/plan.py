"""Working off what a profile trains, and how long that takes on this machine (`reptile-eqx run --dry-run`)."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import jax
import pandas as pd

from ..datasets import DataError, ImageClasses, load
from ..runs.configuration import Configuration
from ..runs.devices import use_devices
from ..runs.records import Record, every_record, find_record
from ..runs.run import iterations_left, run
from . import bench, statistics
from .catalogue import Entry
from .experiments import FewShotClassification
from .operations import examples_per_iteration, of_evaluation, of_iteration

# An outer iteration of MAML takes 2.3 (k = 2) to 3.3 (k = 6) times as long as first-order MAML's, measured on Omniglot.
_MAML = 3.0


def trained(entry: Entry, data: ImageClasses | None = None, **settings: Any) -> tuple[Any, list[Record]]:
    """An entry's records, made where they are not there yet, each in its configuration's place, and all of them.

    `data` is the dataset that it reads, if any; `settings` are those of `run`.
    """
    configs = entry.configs
    records = dict(zip(configs, run(configs, data, **settings), strict=True))

    def placed(node):
        if isinstance(node, dict):
            return {key: placed(child) for key, child in node.items()}
        return [records[config] for config in node]

    return placed(entry.runs), list(records.values())


def on_record(runs: Any, figures: str | os.PathLike | None = None) -> Any:
    """The records that there are of an entry's `runs`, each in its place; nothing is trained."""
    if isinstance(runs, dict):
        return {key: on_record(child, figures) for key, child in runs.items()}
    return [record for record in (find_record(config, figures) for config in runs) if record]


def of_every_seed(entry: Entry, figures: str | os.PathLike | None = None) -> tuple[Any, list[Record]]:
    """The records that there are of an entry's runs with whatever seed, each list in its place, and all of them.

    Nothing is trained. Seeds may differ in the number of their evaluation tasks.
    """
    known, found = list(every_record(figures)), {}

    def placed(node):
        if isinstance(node, dict):
            return {key: placed(child) for key, child in node.items()}
        records = statistics.of_every_seed(node[0], known)
        found.update({record.name: record for record in records})
        return records

    return placed(entry.runs), list(found.values())


def train(entries: Iterable[Entry], data: str | None, devices: int | None, figures: str | os.PathLike | None) -> None:
    """Train what is not there yet, in the order given, and keep the records where the notebooks of `paper` look.

    `data` is the folder of the datasets (`datasets.load`); see `use_devices` and `run` for the rest. An entry that
    XLA cannot run, as it does not fit into a GPU's memory, or whose data is not to be had, is printed with its error,
    and those after it go on.
    """
    used = use_devices(devices)
    for entry in entries:
        print(f"\n{entry.notebook}: {entry.name}", file=sys.stderr)
        configs = entry.configs
        try:
            few_shot = isinstance(configs[0], FewShotClassification)
            dataset = load(configs[0].dataset, data, verify=True) if few_shot else None
            run(configs, dataset, publish=True, figures=figures, devices=used)
        except jax.errors.JaxRuntimeError:
            traceback.print_exc()
        except DataError as error:
            print(f"{entry.name} was not trained: {error}", file=sys.stderr)


def table(
    entries: Iterable[Entry],
    devices: int | None = None,
    figures: str | os.PathLike | None = None,
    speed: Callable[[str, int | None, str], float] | None = None,
) -> pd.DataFrame:
    """A row for each entry: its runs, what is left of them, and the hours that takes here, with their sum.

    `figures` is another folder where records may lie, as `run` has it.

    Speed is measured on one short training of each network and order of tasks that is still needed, by
    `bench.paper_speed` where no other `speed` is given, and scaled by the floating-point operations of training and
    evaluation. Runs that several entries have in common count for the first.
    """
    speed, seen, rows, measured = speed or bench.paper_speed, set(), [], {}
    for entry in entries:
        fresh = [config for config in entry.configs if config not in seen]
        seen.update(fresh)
        short = {config: iterations_left(config, figures) for config in fresh}
        left = {config: iterations for config, iterations in short.items() if iterations is not None}
        operations = {config: _operations(config, iterations) for config, iterations in left.items()}
        for kind in map(_kind, left):
            if kind not in measured:
                measured[kind] = speed(kind[0], devices, kind[1])
        rows.append(
            {
                "Notebook": entry.notebook,
                "What": entry.name,
                "Runs": len(fresh),
                "To do": len(left),
                "Outer iterations": sum(left.values()),
                "Images (millions)": sum(n * examples_per_iteration(c) for c, n in left.items()) / 1e6,
                "TFLOP": sum(operations.values()) / 1e12,
                "Hours here": sum(n / measured[_kind(config)] for config, n in operations.items()) / 3600,
            }
        )
    whole = pd.DataFrame(rows)
    total = {"Notebook": "", "What": "all", **whole.drop(columns=["Notebook", "What"]).sum().to_dict()}
    whole = pd.concat([whole, pd.DataFrame([total])], ignore_index=True)
    return whole.astype({"Runs": int, "To do": int, "Outer iterations": int})


def readable(left: pd.DataFrame) -> pd.DataFrame:
    """A `table` with its numbers as people read them."""
    formats = {"Images (millions)": "{:,.1f}", "TFLOP": "{:,.1f}", "Hours here": "{:.2f}"}
    return pd.DataFrame({name: column.map(formats.get(name, "{:,}").format) if column.dtype.kind in "if" else column
                         for name, column in left.items()})  # fmt: skip


def _operations(config: Any, iterations: int) -> float | int:
    """Floating-point operations of so many outer iterations of a run, and of its evaluations."""
    return iterations * of_iteration(config) * (_MAML if config.algorithm == "maml" else 1) + of_evaluation(config)


def _kind(config: Configuration) -> tuple[str, str]:
    """Which of `bench.WORKLOADS` has a configuration's network, and the order of its tasks."""
    if not isinstance(config, FewShotClassification):
        return "sine", "exact"
    return f"{'omniglot' if config.dataset == 'glyphs' else config.dataset}-5way", config.order
