"""Runs on disk, named by a hash of their configuration.

A run is one configuration. Its record (configuration, curve, results, how it was made) is a small JSON file, under
`figures/runs/` where it is worth publishing and under `data/runs/` otherwise; its state, for resuming and for
later evaluation, is under `data/runs/`. Asking for a run whose record is there reads it; one that was cut off goes
on from its checkpoint and ends with exactly the parameters it would have had.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..files import data_directory, figures_directory, now
from ..training import State, start
from .checkpoint import Training, locked, skeleton, state_path
from .configuration import Configuration, numbers_of, run_name, same_program
from .devices import mesh_for, replicated
from .processes import agree, as_json, write
from .programs import train_and_measure
from .records import Record, environment, find_record, plain


def run(
    configs: Sequence[Configuration],
    data: PyTree = None,
    *,
    publish: bool = False,
    figures: str | os.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[Record]:
    """The records of the given configurations, trained where they are not there yet.

    Those that differ only in their `numbers` (seed, step sizes) are trained together, in one program. Where several
    processes work together (`use_devices`), all of them ask for the same, the first one keeps the files, and every one
    gets the records.

    **Arguments:**

    - `configs`: run configurations, such as `SineRegression(seed=1)`.
    - `data`: the dataset that all of them read (`datasets.load`), or any pytree of arrays; copied to every device once.
      Its `origin`, where it has one, is kept in the record.
    - `publish`: keep records in `figures/runs/`, which git tracks, instead of `data/runs/`.
    - `figures`: another folder for figures and their records.
    - `devices`: what to train on, all of JAX's by default.

    Raises `ValueError` where `data` is not arrays, or the configurations cannot be trained on it.
    """
    for leaf in jax.tree.leaves(data):
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise ValueError(f"`data` is a dataset or a pytree of arrays; given a {type(leaf).__name__} in it")
    devices = jax.devices() if devices is None else devices
    folder = (Path(figures or figures_directory()) if publish else data_directory()) / "runs"
    records = _on_record(configs, figures)
    groups: dict[Any, list[Configuration]] = {}
    for config in dict.fromkeys(config for config in configs if config not in records):
        groups.setdefault(same_program(config), []).append(config)
    for group in groups.values():
        with locked(map(state_path, group)):
            # Another process may have made some of them while this one waited for it.
            records |= _on_record(group, figures)
            left = [config for config in group if config not in records]
            if left:
                data = replicated(data, mesh_for(devices, len(devices)))
                records |= _made(left, data, devices, folder)
    return [records[config] for config in configs]


def _on_record(configs: Iterable[Configuration], figures: str | os.PathLike | None) -> dict[Configuration, Record]:
    """The records that are there, where the first process looks."""
    configs = list(dict.fromkeys(configs))
    found = [find_record(config, figures) for config in configs]
    found = agree([record and dataclasses.asdict(record) for record in found])
    return {config: Record(**record) for config, record in zip(configs, found, strict=True) if record}


def _made(
    configs: list[Configuration], data: PyTree, devices: Sequence[jax.Device], folder: Path
) -> dict[Configuration, Record]:
    """Train and measure configurations that share one program, and write the records."""
    # The environment is asked for before training, as the checkout may be another when it ends.
    made = agree({"data": _origin(data), **environment(devices)})
    trainings = [_training(config, commits=[made["commit"]]) for config in configs]
    outcome = train_and_measure(trainings, data, devices)
    made |= {"runs_together": outcome["together"], "date": agree(now())}
    made["compile_seconds"] = round(outcome["compile_seconds"], 1)
    records = {}
    for training, results in zip(trainings, outcome["results"], strict=True):
        record = _record(training, results, made)
        write(folder / f"{record.name}.json", as_json(dataclasses.asdict(record), indent=1) + "\n")
        records[training.config] = record
    return records


def _training(config: Configuration, **more: Any) -> Training:
    return Training(config, state_path(config), plain(config), **more)


def _origin(data):
    return "none, tasks are drawn from the seed" if data is None else getattr(data, "origin", "")


def _record(training: Training, results: dict[str, Any], made: dict[str, Any]) -> Record:
    made = made | {"commit": ", ".join(training.commits), "training_seconds": round(training.seconds, 3)}
    kept = {
        "name": run_name(training.config),
        "kind": type(training.config).__name__,
        "config": dataclasses.asdict(training.config),
        "status": "diverged" if training.diverged else "finished",
        "curve": training.curve,
        "results": results,
        "made": made | ({"diverged": training.diverged} if training.diverged else {}),
    }
    # As it is read from its file.
    return Record(**json.loads(as_json(kept)))


def iterations_left(config: Configuration, figures: str | os.PathLike | None = None) -> int | None:
    """Outer iterations that a run's checkpoint here is short of; `None` where its record is there: nothing is left."""
    if find_record(config, figures) is not None:
        return None
    return config.outer_iterations - _training(config).saved_iteration()


def load_state(config: Configuration, data: PyTree = None) -> State:
    """The state at the end of a run that was made on this machine, also of one that diverged.

    Raises `FileNotFoundError` where it was not made here.

    `data` is what it was trained on (`run`).
    """
    learner = config.learner(data, numbers_of(config))
    arrays, still = skeleton(lambda: start(learner, jax.random.PRNGKey(0)))
    training = _training(config, state=arrays)
    if not training.resume() or not training.done:
        raise FileNotFoundError(f"{run_name(config)} has not been trained here: no finished {training.path}")
    return eqx.combine(training.state, still)
