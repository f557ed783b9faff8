"""Train and measure configurations that share one compiled program, side by side, with checkpoints.

Everything here is on the host, between compiled calls: which run goes next, how far, and what is kept on disk.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from .devices import SideBySide, agree, first_process, read_file
from .experiments import Measurement, same_program
from .training import start, train

_SECONDS_BETWEEN_CHECKPOINTS = 5.0
_SECONDS_BETWEEN_SAVED_TASKS = 20.0


def as_json(value: Any, **options: Any) -> str:
    """`json.dumps` that takes the numbers and arrays of NumPy and JAX for what they hold."""

    def plain(leaf):
        if isinstance(leaf, np.generic | np.ndarray | jax.Array):
            return np.asarray(leaf).tolist()
        raise TypeError(f"a record keeps numbers, texts, lists and dictionaries of them; given {leaf!r}")

    return json.dumps(value, default=plain, **options)


@dataclass
class Training:
    """A run under way: its state, as arrays on the host, and its learning curve so far.

    `diverged` says where the loss or a parameter stopped being finite, and is empty while all are. `commits` are those
    that had a part in it, in order.
    """

    config: Any
    path: Path
    state: PyTree = None
    iteration: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    diverged: str = ""
    commits: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.diverged) or self.iteration >= self.config.outer_iterations

    @property
    def stops(self) -> list[int]:
        """The iterations at which the learning curve is measured."""
        points = self.config.curve_points
        return sorted({round(self.config.outer_iterations * (i + 1) / points) for i in range(points)})

    def next_stop(self) -> int:
        """The iteration up to which training runs without a measurement."""
        return next((stop for stop in self.stops if stop > self.iteration), self.config.outer_iterations)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        if not first_process():
            return
        kept = {name: getattr(self, name) for name in ("iteration", "seconds", "curve", "diverged", "commits")}
        kept["config"] = self._settings
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        with partial.open("wb") as file:
            file.write(as_json(kept).encode() + b"\n")
            eqx.tree_serialise_leaves(file, self.state)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def resume(self) -> bool:
        """Take up the checkpoint where there is one; `state` already has its shapes and dtypes."""
        content = read_file(self.path)
        if content is None:
            return False
        file = io.BytesIO(content)
        kept = self._header(file.readline())
        if kept is None:
            return False
        here = self.commits
        for name, value in kept.items():
            setattr(self, name, value)
        self.commits += [commit for commit in here if commit not in self.commits]
        self.state = jax.device_get(eqx.tree_deserialise_leaves(file, self.state))
        return True

    def saved_iteration(self) -> int:
        """How far the checkpoint on disk is; 0 where there is none."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            kept = self._header(file.readline())
        return kept["iteration"] if kept else 0

    @property
    def _settings(self) -> dict[str, Any]:
        """The configuration as JSON keeps it."""
        return json.loads(as_json(dataclasses.asdict(self.config)))

    def _header(self, line: bytes) -> dict[str, Any] | None:
        """A checkpoint's first line; `None` where it is of another training, made before a default was changed.

        A curve that was measured otherwise than this run asks for is left behind.
        """
        kept, settings = json.loads(line), self._settings
        differing = {name for name, value in kept.pop("config", {}).items() if settings.get(name) != value}
        if differing - set(self.config.measured):
            return None
        if differing - {"eval_tasks"}:
            kept["curve"] = []
        return kept

    def _seen_path(self, measurement: Measurement) -> Path:
        # Of these parameters and no others. Tasks are numbered, so that more of them only add to the same file.
        asked = {name: self._settings[name] for name in self.config.measured if name != "eval_tasks"}
        digest = hashlib.sha256(json.dumps([measurement.name, asked], sort_keys=True).encode())
        for leaf in jax.tree.leaves(self.state):
            digest.update(np.asarray(leaf).tobytes())
        return self.path.with_name(f"seen-{digest.hexdigest()[:10]}.npz")

    def save_seen(self, measurement: Measurement, values: PyTree[np.ndarray]) -> None:
        """Keep what a final measurement has seen so far, with a leading axis of tasks."""
        if not first_process():
            return
        path = self._seen_path(measurement)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npz")
        np.savez(partial, *jax.tree.leaves(values))
        partial.replace(path)

    def load_seen(self, measurement: Measurement) -> list[np.ndarray] | None:
        """The leaves of what `save_seen` kept, or `None` where there is nothing."""
        content = read_file(self._seen_path(measurement))
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as leaves:
            return list(leaves.values())


class Programs:
    """The compiled programs of configurations that differ only in their `numbers`."""

    def __init__(self, example: Any, shared: PyTree, runs: int, devices: Sequence[jax.Device] | None):
        """`example` is their `same_program`, `runs` how many there are; see `store.run` for the rest."""
        self._example, self._shared, self._devices = example, shared, devices
        self._runs = runs
        learner = example.learner(shared)
        for final in (False, True):  # What cannot be evaluated is an error before it is trained.
            names = [measurement.name for measurement in example.measurements(shared, final=final)]
            if len(set(names)) < len(names):
                raise ValueError(f"each measurement needs a name of its own; given {', '.join(names)}")
        self.start = self._side_by_side(self._start, runs)
        self.train = self._side_by_side(self._train, runs, 1 if learner.merge is None else learner.meta_batch_size)
        self._measure = {}
        like = eqx.filter_eval_shape(lambda: start(learner, jax.random.PRNGKey(0)))
        self._state_like = like
        self._still = eqx.filter(like, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))

    def _side_by_side(self, program: Callable, units: int, tasks: int = 1) -> SideBySide:
        return SideBySide(program, self._shared, units, self._devices, tasks)

    def unit(self, training: Training) -> dict[str, PyTree]:
        """What a compiled program needs to know of one run."""
        numbers = {}
        for name in self._example.numbers:
            dtype = np.uint32 if name == "seed" else jnp.result_type(float)
            numbers[name] = np.asarray(getattr(training.config, name), dtype)
        return {"numbers": numbers, "state": training.state}

    def _configured(self, unit):
        return dataclasses.replace(self._example, **unit["numbers"])

    def _start(self, shared, unit):
        config = self._configured(unit)
        return eqx.filter(start(config.learner(shared), jax.random.PRNGKey(config.seed)), eqx.is_array)

    def _train(self, shared, unit, iterations):
        state = eqx.combine(unit["state"], self._still)
        with jax.default_matmul_precision(self._example.precision):
            state, loss = train(self._configured(unit).learner(shared), state, iterations, "task")
        return eqx.filter(state, eqx.is_array), loss

    def measure(self, trainings: Sequence[Training], *, final: bool, bar: tqdm | None = None) -> list[dict[str, Any]]:
        """Each training's measurements, summarised, with the tasks of all of them spread over the devices.

        What final ones have seen is kept on disk, so that a long evaluation that is cut off goes on where it was.
        """
        results = [{} for _ in trainings]
        for i, measurement in enumerate(self._example.measurements(self._shared, final=final)):
            seen = [self._seen_before(t, i, measurement) if final else None for t in trainings]
            seen = self._see(trainings, i, measurement, seen, final, bar)
            for values, result in zip(seen, results, strict=True):
                values = jax.tree.map(lambda leaf: leaf[: measurement.tasks], values)
                result[measurement.name] = measurement.summarise(values)
        return results

    def _seen_before(self, training, index, measurement):
        """What a final measurement of an earlier process has seen, or `None`."""
        leaves = training.load_seen(measurement)
        if leaves is None:
            return None

        def measured(shared, state):
            return self._example.measurements(shared, final=True)[index].measure(state, jax.random.PRNGKey(0))

        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._shared)
        return jax.tree.unflatten(jax.tree.structure(eqx.filter_eval_shape(measured, shapes, self._state_like)), leaves)

    def _see(self, trainings, index, measurement, seen, final, bar):
        """Every training's values for all of a measurement's tasks, given those `seen` before (`None`: none)."""
        on_cpu = jax.default_backend() == "cpu"
        # Runs may share a GPU, whose memory would not hold the patches of all their tasks at once.
        devices = len(self._devices or jax.devices())
        together = -(-max(self._runs, devices) // devices)
        block = min(measurement.tasks, 25 if on_cpu else max(1, measurement.at_once // together))
        units = self._runs * -(-measurement.tasks // block) if on_cpu else max(self._runs, devices)
        program = self._side_by_side(self._measured(index, final, block), units)
        # Along the curve and at the end one program measures what has one name.
        program = self._measure.setdefault((measurement.name, index, block, program.width), program)
        done = [0 if values is None else len(jax.tree.leaves(values)[0]) for values in seen]
        todo = [(j, first) for j in range(len(trainings)) for first in range(done[j], measurement.tasks, block)]
        fresh, kept = set(), time.monotonic()
        for begin in range(0, len(todo), program.width):
            if bar is not None:
                bar.set_postfix_str(f"{measurement.name}: {begin * block} of {len(todo) * block} tasks")
            turn = todo[begin : begin + program.width]
            which = {"tasks": np.uint32(2 + final)}
            blocks = program([{**self.unit(trainings[j]), **which, "first": np.int32(first)} for j, first in turn])
            for (j, _), values in zip(turn, blocks, strict=True):
                both = [values] if seen[j] is None else [seen[j], values]
                seen[j] = jax.tree.map(lambda *leaves: np.concatenate(leaves), *both)
                fresh.add(j)
            if time.monotonic() - kept > _SECONDS_BETWEEN_SAVED_TASKS or begin + program.width >= len(todo):
                for j in fresh if final else ():
                    trainings[j].save_seen(measurement, seen[j])
                fresh, kept = set(), time.monotonic()
        return seen

    def _measured(self, index: int, final: bool, block: int) -> Callable:
        def program(shared, unit):
            config = self._configured(unit)
            measure = config.measurements(shared, final=final)[index].measure
            state = eqx.combine(unit["state"], self._still)
            # Evaluation tasks depend on the seed and the measurement's place alone, and are others than the curve's.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(config.seed), unit["tasks"]), index)
            keys = jax.vmap(lambda task: jax.random.fold_in(key, task))(unit["first"] + jnp.arange(block))
            together = {} if jax.default_backend() == "cpu" else {"batch_size": block}
            with jax.default_matmul_precision(self._example.precision):
                return jax.lax.map(lambda k: measure(state, k), keys, **together)

        return program


def make(trainings: Sequence[Training], shared: PyTree, devices: Sequence[jax.Device] | None) -> dict[str, Any]:
    """Bring trainings that share a program to their end, saving each on the way.

    Returns their results (in order) as `results`, how many were trained at once as `side_by_side`, `compile_seconds`.
    """
    programs = Programs(same_program(trainings[0].config), shared, len(trainings), devices)
    _begin(programs, trainings)
    total, done = sum(t.config.outer_iterations for t in trainings), sum(t.iteration for t in trainings)
    shown = dict(unit="it", desc=_title(trainings), smoothing=0.05, disable=not first_process())
    with tqdm(total=total, initial=done, **shown) as bar:
        chunk, unsaved, saved = 1, {}, -math.inf
        while pending := [t for t in trainings if not t.done]:
            # Those furthest behind go first: with more runs than devices they take turns, and no device idles.
            turn = sorted(pending, key=lambda t: t.iteration)[: programs.train.width]
            chunk = _advance(programs, turn, chunk)
            bar.update(sum(t.iteration for t in trainings) - done)
            done = sum(t.iteration for t in trainings)
            at_stop = [t for t in turn if t.iteration in t.stops and not t.diverged]
            if at_stop:
                for training, result in zip(at_stop, programs.measure(at_stop, final=False, bar=bar), strict=True):
                    training.curve.append({"iteration": training.iteration, **result})
                bar.set_postfix_str(_headline(at_stop[0].curve[-1]))
            unsaved |= {id(training): training for training in turn}
            # A run of a few seconds has many stops; writing at each of them would take as long as the training.
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS / 2 or all(t.done for t in trainings):
                for training in unsaved.values():
                    training.save()
                unsaved, saved = {}, time.monotonic()
        for training in trainings:
            if not training.path.exists():  # nothing to train, as for a random initialisation
                training.save()
        finished = [t for t in trainings if not t.diverged]
        measured = iter(programs.measure(finished, final=True, bar=bar) if finished else ())
    results = [{} if t.diverged else next(measured) for t in trainings]
    at_once = min(len(trainings), programs.train.width)
    return {"results": results, "side_by_side": at_once, "compile_seconds": programs.train.compile_seconds}


def _begin(programs: Programs, trainings: Sequence[Training]) -> None:
    """Give every training its first state, or the one it had when it was cut off."""
    width = programs.start.width
    for begin in range(0, len(trainings), width):
        some = trainings[begin : begin + width]
        for training, state in zip(some, programs.start([programs.unit(t) for t in some]), strict=True):
            training.state = state
            training.resume()


def _advance(programs: Programs, turn: Sequence[Training], chunk: int) -> int:
    """Train those whose turn it is for `chunk` iterations or up to a stop; returns how long the next may be."""
    iterations = min(chunk, *(t.next_stop() - t.iteration for t in turn))
    compiled = programs.train.compile_seconds
    began = time.perf_counter()
    outcomes = programs.train([programs.unit(t) for t in turn], np.int32(iterations))
    seconds = agree(time.perf_counter() - began - (programs.train.compile_seconds - compiled))
    for training, (state, loss) in zip(turn, outcomes, strict=True):
        training.state = state
        training.iteration += iterations
        training.seconds += seconds
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, loss))):
            begun, seed = training.iteration - iterations, training.config.seed
            training.diverged = f"between outer iterations {begun} and {training.iteration} of seed {seed}"
            warnings.warn(f"{training.config.name}: not finite any more {training.diverged}", stacklevel=2)
    return max(1, min(round(iterations * _SECONDS_BETWEEN_CHECKPOINTS / seconds), 10 * max(iterations, chunk)))


def _title(trainings: Sequence[Training]) -> str:
    name = trainings[0].config.name
    return name if len(trainings) == 1 else f"{name} and {len(trainings) - 1} more"


def _headline(point: dict[str, Any]) -> str:
    """The first number of a point's last measurement, where there is one, for the progress bar."""
    name, value = list(point.items())[-1]
    while isinstance(value, dict):
        value = next(iter(value.values()), None)
    while isinstance(value, list):
        value = value[-1] if value else None
    return f"{name} {value:.3f}" if isinstance(value, int | float) else name
