"""Runs on disk, named by a hash of their configuration.

A run is one configuration. Its record (configuration, curve, results, how it was made) is a small JSON file, under
`figures/runs/` where it is worth publishing and under `data/runs/` otherwise; its state, for resuming and for
later evaluation, is under `data/runs/`. Asking for a run whose record is there reads it; one that was cut off goes
on from its checkpoint and ends with exactly the parameters it would have had. A run belongs to its data: the same
configuration on other data is another run.
"""

import dataclasses
import glob
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..bars import say
from ..files import data_directory, figures_directory, now
from ..training import State, start
from . import digests
from .checkpoint import Training, locked, skeleton, state_path
from .configuration import Configuration, check, numbers_of, run_name, same_program
from .devices import mesh_for, replicated
from .processes import agree, as_json, first_process, write
from .programs import train_and_measure
from .records import Record, environment, find_record, plain, record_path


def run(
    configs: Sequence[Configuration],
    data: PyTree = None,
    *,
    publish: bool = False,
    figures: str | os.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    fresh: bool = False,
) -> list[Record]:
    """The records of the given configurations, trained where they are not there yet.

    Those that differ only in their `numbers` (seed, step sizes) are trained together, in one program. Where several
    processes work together (`use_devices`), all of them ask for the same, the first one keeps the files, and every one
    gets the records. A line says what was read rather than trained, and of when that is.

    **Arguments:**

    - `configs`: run configurations, such as `SineRegression(seed=1)`.
    - `data`: the dataset that all of them read (`datasets.load`), or any pytree of arrays; copied to every device once.
      Its `origin`, where it has one, is kept in the record, and so is its digest: other data makes another run.
    - `publish`: keep records in `figures/runs/`, which git tracks, instead of `data/runs/`.
    - `figures`: another folder for figures and their records.
    - `devices`: what to train on, all of JAX's by default.
    - `fresh`: train again what is there, from the start; its records and checkpoints are replaced.

    Raises `ValueError` where `data` is not arrays, where the configurations cannot be trained on it, and for numbers
    that make no training; `Unwritable` where something cannot be kept.
    """
    for leaf in jax.tree.leaves(data):
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise ValueError(f"`data` is a dataset or a pytree of arrays; given a {type(leaf).__name__} in it")
    for config in configs:
        check(config)
    devices = jax.devices() if devices is None else devices
    folder = (Path(figures or figures_directory()) if publish else data_directory()) / "runs"
    if figures and Path(figures).exists() and not Path(figures).is_dir():
        raise ValueError(f"`figures` is {figures}, a file: give a folder")
    depends = _depends(configs, data)
    records = {} if fresh else _on_record(configs, figures, depends)
    _tell_read(records.values())
    groups: dict[Any, list[Configuration]] = {}
    for config in dict.fromkeys(config for config in configs if config not in records):
        if config not in depends:
            config.learner(data, numbers_of(config))  # It says what it lacks.
        groups.setdefault(same_program(config), []).append(config)
    for group in groups.values():
        paths = {config: state_path(config, depends[config]["data"]) for config in group}
        with locked(paths.values()):
            # Another process may have made some of them while this one waited for it.
            records |= {} if fresh else _on_record(group, figures, depends)
            left = {config: depends[config] for config in group if config not in records}
            for config in left if fresh else ():
                _training(config, depends[config]["data"]).forget()
            if left:
                data = replicated(data, mesh_for(devices, len(devices)))
                records |= _made(left, data, devices, folder, configs)
    return [records[config] for config in configs]


def _depends(configs: Iterable[Configuration], data: PyTree) -> dict[Configuration, dict[str, str]]:
    """What each configuration's result depends on beside itself. One that needs data, where there is none, is left out:
    its record can only be read, whatever data that was."""
    of_data, by_program = digests.of_data(data), {}
    for config in configs:
        if (program := same_program(config)) not in by_program:
            with suppress(ValueError) if data is None else nullcontext():
                by_program[program] = digests.of_run(config, data, of_data)
    there = {config: by_program.get(same_program(config)) for config in configs}
    return {config: found for config, found in there.items() if found is not None}


def _on_record(
    configs: Iterable[Configuration], figures: str | os.PathLike | None, depends: dict[Configuration, dict[str, str]]
) -> dict[Configuration, Record]:
    """The records that are there, where the first process looks."""
    configs = list(dict.fromkeys(configs))
    found = [find_record(config, figures, depends.get(config)) for config in configs] if first_process() else []
    found = agree([record and dataclasses.asdict(record) for record in found])
    return {config: Record(**record) for config, record in zip(configs, found, strict=True) if record}


def _tell_read(records: Iterable[Record]) -> None:
    dates = sorted(record.made.get("date", "an unknown date")[:10] for record in records)
    if dates and first_process():
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        runs = "1 run was" if len(dates) == 1 else f"{len(dates)} runs were"
        say(f"{runs} read, not trained: made {when} (fresh=True trains again)")


def _made(
    configs: dict[Configuration, dict[str, str]],
    data: PyTree,
    devices: Sequence[jax.Device],
    folder: Path,
    among: Sequence[Configuration],
) -> dict[Configuration, Record]:
    """Train and measure configurations that share one program, each with its digests, and write the records.

    The progress bars name each by what it differs in from those it is `among`.
    """
    # The environment is asked for before training, as the checkout may be another when it ends.
    made = agree({"data": _origin(data), **environment(devices)})
    trainings = [_training(config, some["data"], commits=[made["commit"]]) for config, some in configs.items()]
    outcome = train_and_measure(trainings, data, devices, among)
    made |= {"runs_together": outcome["together"], "date": agree(now())}
    made["compile_seconds"] = round(outcome["compile_seconds"], 1)
    records = {}
    for training, results in zip(trainings, outcome["results"], strict=True):
        path = Path(agree(str(record_path(folder, training.config, configs[training.config]))))
        record = _record(path.stem, training, results, made | {"digests": configs[training.config]})
        kept = dataclasses.asdict(record)
        write(path, as_json({name: kept[name] for name in kept if name != "more"}, indent=1) + "\n")
        records[training.config] = record
    return records


def _training(config: Configuration, data: str, **more: Any) -> Training:
    settings = plain(config) | ({"data": data} if data else {})
    return Training(config, state_path(config, data), settings, **more)


def _origin(data):
    return "none, tasks are drawn from the seed" if data is None else getattr(data, "origin", "")


def _record(name: str, training: Training, results: dict[str, Any], made: dict[str, Any]) -> Record:
    made = made | {"commit": ", ".join(training.commits), "training_seconds": round(training.seconds, 3)}
    kept = {
        "name": name,
        "kind": type(training.config).__name__,
        "config": dataclasses.asdict(training.config),
        "curve": training.curve,
        "results": results,
        "made": made | ({"diverged": training.diverged} if training.diverged else {}),
    }
    # As it is read from its file.
    kept = json.loads(as_json(kept))
    finite = not any(number is None for number in jax.tree.leaves((kept["curve"], kept["results"]), is_leaf=_is_none))
    return Record(**kept, status="diverged" if training.diverged else "finished" if finite else "not finite")


def _is_none(value):
    return value is None


def iterations_left(config: Configuration, figures: str | os.PathLike | None = None) -> int | None:
    """Outer iterations that a run's checkpoint here is short of; `None` where its record is there: nothing is left.

    Whatever data they are of: this asks what is left to do, before there is any.
    """
    if find_record(config, figures) is not None:
        return None
    plain_path = state_path(config, "")
    folders = plain_path.parent.parent.glob(f"{glob.escape(plain_path.parent.name)}*")
    trainings = [Training(config, folder / plain_path.name, plain(config)) for folder in folders]
    for training in trainings:
        training.settings |= {"data": training.kept().get("config", {}).get("data")}
    return config.outer_iterations - max((training.saved_iteration() for training in trainings), default=0)


def load_state(config: Configuration, data: PyTree = None) -> State:
    """The state at the end of a run that was made on this machine, also of one that diverged.

    `data` is what it was trained on (`run`). Raises `FileNotFoundError` where it was not made here.
    """
    arrays, still = skeleton(lambda: start(config.learner(data, numbers_of(config)), jax.random.PRNGKey(0)))
    training = _training(config, digests.of_data(data), state=arrays)
    if not training.resume() or not training.done:
        raise FileNotFoundError(f"{run_name(config)} has not been trained here: no finished {training.path}")
    return eqx.combine(training.state, still)
