"""Runs on disk, addressed by what they are.

A run is one configuration. Its record (configuration, curve, results, how it was made) is a small JSON file, under
`figures/runs/` where it is worth publishing and under `data/runs/` otherwise; its state, for resuming and for
later evaluation, is under `data/runs/`. Asking for a run whose record is there reads it; one that was cut off goes
on from its checkpoint and ends with exactly the parameters it would have had.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from filelock import FileLock
from jaxtyping import PyTree

from . import places
from .devices import agree, first_process, mesh_for, replicated
from .experiments import same_program
from .runner import Training, as_json, make
from .training import State, start


@dataclass(frozen=True)
class Record:
    """What is kept of a finished run.

    - `name`: the run's name and the hash of its configuration.
    - `kind`, `config`: the configuration's class and fields.
    - `status`: "finished", or "diverged" where the loss or a parameter stopped being finite.
    - `curve`: what was measured along training, each with its `iteration`.
    - `results`: what was measured at the end.
    - `made`: data, device, processor, versions, the commits that had a part in it, date, how many runs were trained at
      once, seconds of the turns that this one had; where it diverged, if it did.
    """

    name: str
    kind: str
    config: dict[str, Any]
    status: str
    curve: list[dict[str, Any]]
    results: dict[str, Any]
    made: dict[str, Any]


def run_name(config: Any, *, training_only: bool = False) -> str:
    """`NAME-HASH` of a configuration; with `training_only`, without its `measured`, which only measurements depend on.

    Only fields that differ from their defaults are hashed, so that a field added later, whose default is what was
    done before, leaves the names of earlier runs as they were.
    """
    changed = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != f.default and not (training_only and f.name in config.measured)
    }
    text = as_json([type(config).__name__, changed], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _record_folders(figures: str | os.PathLike | None) -> list[Path]:
    """Where records may lie: with the figures asked for, with the project's own, and with the states."""
    folders = [Path(figures)] if figures else []
    return [folder / "runs" for folder in (*folders, places.figures_directory(), places.data_directory())]


def find_record(config: Any, figures: str | os.PathLike | None = None) -> Record | None:
    """The record of a configuration that was run before, here or elsewhere; `None` where there is none."""
    wanted = json.loads(as_json(dataclasses.asdict(config)))
    for directory in _record_folders(figures):
        path = directory / f"{run_name(config)}.json"
        if path.exists():
            record = Record(**json.loads(path.read_text()))
            # A default that was changed since makes another run of the same name.
            if wanted.items() >= record.config.items():
                return record
    return None


SCALE = ("outer_iterations", "eval_tasks", "curve_points", "curve_tasks", "order")
"""The fields of a configuration that, beside the seed, say at which scale an experiment is done, and in which order its
tasks, not which one it is."""


def largest_records(config: Any, figures: str | os.PathLike | None = None) -> list[Record]:
    """What is known of an experiment, whoever ran it: the records of its runs with the most outer iterations.

    Their configurations are `config` in all but `SCALE`, alike in length, learning curve and order. Of several such
    sets it is the one of the most seeds, then of the most evaluation tasks; of a seed, its record of the most of these.
    Empty where nobody ran it.
    """
    wanted = json.loads(as_json(dataclasses.asdict(config)))
    # A record made before a field was added has its default.
    optional = [field for field in dataclasses.fields(config) if field.default is not dataclasses.MISSING]
    defaults = json.loads(as_json({field.name: field.default for field in optional}))
    found: dict[tuple[int, ...], dict[int, tuple[int, Record]]] = {}
    for folder in _record_folders(figures):
        for path in sorted(folder.glob("*.json")):
            record = Record(**json.loads(path.read_text()))
            whole = defaults | record.config
            same = all(whole[name] == wanted[name] for name in wanted.keys() - {"seed", *SCALE})
            if same and record.kind == type(config).__name__:
                like = tuple(whole[name] for name in SCALE if name in whole and name != "eval_tasks")
                seeds = found.setdefault(like, {})
                tasks, _ = seeds.get(whole["seed"], (-1, None))
                if whole.get("eval_tasks", 0) > tasks:
                    seeds[whole["seed"]] = (whole.get("eval_tasks", 0), record)
    if not found:
        return []

    def size(of):
        iterations, *curve = of
        return iterations, len(found[of]), sum(tasks for tasks, _ in found[of].values()), curve

    return [record for _, (_, record) in sorted(found[max(found, key=size)].items())]


def run(
    configs: Sequence[Any],
    shared: PyTree = None,
    *,
    origin: str = "",
    publish: bool = False,
    figures: str | os.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[Record]:
    """The records of the given configurations, trained where they are not there yet.

    Those that differ only in their `numbers` (seed, step sizes) are trained side by side in one program. Where several
    processes work together (`use_devices`), all of them ask for the same, the first one keeps the files, and every one
    gets the records.

    **Arguments:**

    - `configs`: run configurations, such as `SineRegression(seed=1)`.
    - `shared`: what all of them read, such as the images; copied to every device once.
    - `origin`: where `shared` came from, kept in the record.
    - `publish`: keep records in `figures/runs/`, which git tracks, instead of `data/runs/`.
    - `figures`: another folder for figures and their records.
    - `devices`: what to train on, all of JAX's by default.

    Raises `ValueError` where `shared` is not arrays, or the configurations cannot be trained on it.
    """
    for leaf in jax.tree.leaves(shared):
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise ValueError(
                f"`shared` is arrays, such as the `images` of `datasets.load(…)`; given a {type(leaf).__name__}"
            )
    devices = jax.devices() if devices is None else devices
    home = (Path(figures or places.figures_directory()) if publish else places.data_directory()) / "runs"
    groups = {}
    for config in _not_recorded(dict.fromkeys(configs), figures):
        groups.setdefault(same_program(config), []).append(config)
    for group in groups.values():
        with ExitStack() as locks:
            for path in sorted(_state_path(config) for config in group if first_process()):
                path.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(FileLock(path.with_suffix(".lock")))
            # Another process may have made some of them while this one waited for it.
            # The environment is asked for before training, as the checkout may be another when it ends.
            made = {"data": origin, **environment(devices)}
            trainings = [
                Training(config, _state_path(config), commits=[made["commit"]])
                for config in _not_recorded(group, figures)
            ]
            if trainings:
                shared = replicated(shared, mesh_for(devices, len(devices)))
                outcome = make(trainings, shared, devices)
                made |= {"runs_side_by_side": outcome["side_by_side"], "date": now()}
                made["compile_seconds"] = round(outcome["compile_seconds"], 1)
                for training, results in zip(trainings, outcome["results"], strict=True):
                    record = _record(training, results, made)
                    write_text(home / f"{record.name}.json", as_json(dataclasses.asdict(record), indent=1) + "\n")
    found = [find_record(config, figures) for config in configs]
    return [Record(**record) for record in agree([record and dataclasses.asdict(record) for record in found])]


def _not_recorded(configs: Iterable[Any], figures: str | os.PathLike | None) -> list[Any]:
    """Those of the configurations that no record is there of, where the first process looks."""
    configs = list(configs)
    missing = agree([find_record(config, figures) is None for config in configs])
    return [config for config, gone in zip(configs, missing, strict=True) if gone]


def iterations_left(config: Any, figures: str | os.PathLike | None = None) -> int | None:
    """Outer iterations that a run's checkpoint here is short of; `None` where its record is there: nothing is left."""
    if find_record(config, figures) is not None:
        return None
    training = Training(config, _state_path(config))
    return config.outer_iterations - training.saved_iteration()


def load_state(config: Any, shared: PyTree = None) -> State:
    """The trained state of a run that was made on this machine; raises `FileNotFoundError` where it is not."""
    like = eqx.filter_eval_shape(lambda: start(config.learner(shared), jax.random.PRNGKey(0)))
    arrays, still = eqx.partition(like, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    training = Training(config, _state_path(config), arrays)
    if not training.resume() or not training.done:
        raise FileNotFoundError(f"{run_name(config)} has not been trained here: no finished {training.path}")
    return eqx.combine(training.state, still)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside, then rename: nobody ever reads half a file. Of several processes the first one writes."""
    if not first_process():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)


def _state_path(config: Any) -> Path:
    return places.data_directory() / "runs" / run_name(config, training_only=True) / "state.eqx"


def _record(training: Training, results: dict[str, Any], made: dict[str, Any]) -> Record:
    config = training.config
    made = {**made, "commit": ", ".join(training.commits), "training_seconds": round(training.seconds, 3)}
    if training.diverged:
        made["diverged"] = training.diverged
    return Record(
        name=run_name(config),
        kind=type(config).__name__,
        config=dataclasses.asdict(config),
        status="diverged" if training.diverged else "finished",
        curve=training.curve,
        results=results,
        made=made,
    )


def environment(devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """What something is made with: device, the CPU's model, versions, commit, date."""
    devices = list(devices or jax.devices())
    packages = ("reptile-eqx", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "processor": _processor(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "commit": commit(),
        "date": now(),
    }


def _processor() -> str:
    """The CPU's model as its maker names it, where the system says."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The checkout's commit, with `+` where files other than `figures/` differ from it; empty outside a checkout."""
    if not places.in_checkout() or shutil.which("git") is None:
        return ""

    def git(*arguments):
        command = ["git", "-C", str(places.CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
