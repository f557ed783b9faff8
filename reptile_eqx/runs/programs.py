"""Train and measure runs that share one compiled program, all at once, with checkpoints.

First what is compiled (`Programs`), then the loop on the host (`train_and_measure`): which run goes next, how far, and
what is kept on disk.
"""

import dataclasses
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..bars import tqdm
from ..inner import trainable
from ..training import NOTHING_MOVED, State, advance, start, unmoved
from .checkpoint import Training, skeleton
from .configuration import Configuration, Measurement, numbers_of
from .devices import Spread
from .processes import agree, as_json, first_process

_SECONDS_A_CALL = 5.0
_SECONDS_BETWEEN_CHECKPOINTS = 2.5
_SECONDS_BETWEEN_SAVED_TASKS = 20.0
_TASKS_AT_ONCE_ON_A_CORE = 25
_SHOWN_IN_A_TITLE = 4
_ALONG_TRAINING, _AT_THE_END = 2, 3  # random streams of the tasks that are measured


class Programs:
    """The compiled programs of configurations that are `same_program`: the first state, training, measurements.

    Each makes the learner, or the measurement, from the numbers that it is given, so that one program serves all seeds
    and step sizes.
    """

    def __init__(self, config: Configuration, data: PyTree, runs: int, devices: Sequence[jax.Device]):
        """`config` is one of them, `runs` how many there are; `data` is what they read."""
        self._config, self._data, self._runs, self._devices = config, data, runs, devices
        self._on_cpu = devices[0].platform == "cpu"
        numbers = numbers_of(config)
        learner = config.learner(data, numbers)
        # What cannot be evaluated is an error before it is trained.
        self._measurements = {final: config.measurements(data, numbers, final=final) for final in (False, True)}
        for some in self._measurements.values():
            names = [measurement.name for measurement in some]
            if len(set(names)) < len(names):
                raise ValueError(f"each measurement needs a name of its own; given {', '.join(names)}")
        self._arrays, self._still = skeleton(lambda: start(learner, jax.random.PRNGKey(0)))
        self._begun = Spread(self._begin, data, runs, devices)
        self._begun_outside = Spread(self._begin_outside, data, runs, devices)
        self.train = Spread(self._train, data, runs, devices, learner.meta_batch_size if learner.merge else 1)
        self._compiled: dict[tuple[str, int, int, int], Spread] = {}

    def unit(self, config: Configuration, state: PyTree) -> dict[str, PyTree]:
        """What a compiled program needs to know of one run."""
        return {"numbers": numbers_of(config), "state": state}

    def start(self, configs: Sequence[Configuration]) -> list[State]:
        """The arrays of the first state of each.

        What the outer optimiser starts from may have the number of iterations in it. It is a small program of its own,
        so that the large one is the same for any number.
        """
        states, width = [], self._begun.width
        for begin in range(0, len(configs), width):
            units = [self.unit(config, None) for config in configs[begin : begin + width]]
            begun = self._begun(units)
            with_state = [unit | {"state": state} for unit, state in zip(units, begun, strict=True)]
            outside = self._begun_outside(with_state)
            states += [state._replace(outer=outer) for state, outer in zip(begun, outside, strict=True)]
        return states

    def _begin(self, data, unit):
        learner = self._config.learner(data, unit["numbers"])._replace(outer=optax.identity())
        return eqx.filter(start(learner, jax.random.PRNGKey(unit["numbers"]["seed"])), eqx.is_array)

    def _begin_outside(self, data, unit):
        learner = self._config.learner(data, unit["numbers"])
        model = eqx.combine(unit["state"].model, self._still.model)
        return eqx.filter(learner.outer.init(trainable(model)[0]), eqx.is_array)

    def _train(self, data, unit, iterations):
        learner, state = self._config.learner(data, unit["numbers"]), eqx.combine(unit["state"], self._still)
        with jax.default_matmul_precision(self._config.precision):
            state, loss = advance(learner, state, iterations, "task")
        return eqx.filter(state, eqx.is_array), loss

    def tasks(self, *, final: bool) -> int:
        """How many tasks one training is measured on."""
        return sum(measurement.tasks for measurement in self._measurements[final])

    def measure(self, trainings: Sequence[Training], *, final: bool, bar: tqdm | None = None) -> list[dict[str, Any]]:
        """Each training's measurements, summarised, with the tasks of all of them spread over the devices.

        What final ones have seen is kept on disk, so that a long evaluation that is cut off goes on where it was. `bar`
        counts the tasks.
        """
        results = [{} for _ in trainings]
        for i, measurement in enumerate(self._measurements[final]):
            for values, result in zip(self._values(trainings, i, final=final, bar=bar), results, strict=True):
                values = jax.tree.map(lambda leaf: leaf[: measurement.tasks], values)
                result[measurement.name] = measurement.summarise(values)
        return results

    def _values(self, trainings, index, *, final, bar):
        """What a measurement sees of every training, with a leading axis of tasks, at least as many as it asks for."""
        measurement = self._measurements[final][index]
        block, program = self._measuring_program(measurement, index, final)
        seen = [self._seen_before(training, measurement) if final else None for training in trainings]
        done = [0 if values is None else len(jax.tree.leaves(values)[0]) for values in seen]
        if bar is not None:
            bar.update(sum(min(some, measurement.tasks) for some in done))
        todo = [(i, first) for i in range(len(trainings)) for first in range(done[i], measurement.tasks, block)]
        fresh, kept = set(), time.monotonic()
        for begin in range(0, len(todo), program.width):
            turn = todo[begin : begin + program.width]
            which = {"stream": np.uint32(_AT_THE_END if final else _ALONG_TRAINING)}
            units = [self.unit(trainings[i].config, trainings[i].state) | which for i, _ in turn]
            units = [unit | {"first": np.int32(first)} for unit, (_, first) in zip(units, turn, strict=True)]
            for (i, _), values in zip(turn, program(units), strict=True):
                both = [values] if seen[i] is None else [seen[i], values]
                seen[i] = jax.tree.map(lambda *leaves: np.concatenate(leaves), *both)
                fresh.add(i)
            if bar is not None:
                bar.update(sum(min(block, measurement.tasks - first) for _, first in turn))
            if time.monotonic() - kept > _SECONDS_BETWEEN_SAVED_TASKS or begin + program.width >= len(todo):
                for i in fresh if final else ():
                    trainings[i].save_seen(measurement, seen[i])
                fresh, kept = set(), time.monotonic()
        return seen

    def _seen_before(self, training, measurement):
        """What a final measurement of an earlier process has seen, or `None`."""
        state = eqx.combine(self._arrays, self._still)

        def like():
            return eqx.filter_eval_shape(measurement.measure, state, jax.random.PRNGKey(0))

        return training.load_seen(measurement, like)

    def _measuring_program(self, measurement: Measurement, index: int, final: bool) -> tuple[int, Spread]:
        """How many tasks a measurement takes at a time, and the program for it."""
        # Runs may share a GPU, whose memory would not hold the patches of all their tasks at once.
        devices = len(self._devices)
        together = -(-max(self._runs, devices) // devices)
        at_once = _TASKS_AT_ONCE_ON_A_CORE if self._on_cpu else max(1, measurement.at_once // together)
        block = min(measurement.tasks, at_once)
        units = self._runs * -(-measurement.tasks // block) if self._on_cpu else max(self._runs, devices)
        # Along the curve and at the end one program measures what has one name.
        which = (measurement.name, index, block, min(units, devices) if self._on_cpu else units)
        if which not in self._compiled:
            self._compiled[which] = Spread(self._measure_in_turn(index, final, block), self._data, units, self._devices)
        return block, self._compiled[which]

    def _measure_in_turn(self, index, final, block):
        def program(data, unit):
            numbers = unit["numbers"]
            measure = self._config.measurements(data, numbers, final=final)[index].measure
            state = eqx.combine(unit["state"], self._still)
            # Evaluation tasks depend on the seed and the measurement's index alone, and are others than the curve's.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(numbers["seed"]), unit["stream"]), index)
            keys = jax.vmap(lambda task: jax.random.fold_in(key, task))(unit["first"] + jnp.arange(block))
            together = {} if self._on_cpu else {"batch_size": block}
            with jax.default_matmul_precision(self._config.precision):
                return jax.lax.map(lambda k: measure(state, k), keys, **together)

        return program


def train_and_measure(
    trainings: Sequence[Training], data: PyTree, devices: Sequence[jax.Device], among: Sequence[Configuration] = ()
) -> dict[str, Any]:
    """Bring trainings that are `same_program` to their end, saving each on the way.

    `among` is all that was asked for together with them, from which their progress bars are to tell them.

    Returns their results (in order) as `results`, how many were trained at once as `together`, `compile_seconds`.
    """
    programs = Programs(trainings[0].config, data, len(trainings), devices)
    _begin(programs, trainings)
    total, done = sum(t.config.outer_iterations for t in trainings), sum(t.iteration for t in trainings)
    with _bar(trainings, among, "training", total=total, initial=done, unit="it", smoothing=0.05) as bar:
        chunk, unsaved, saved = 1, {}, -math.inf
        while pending := [t for t in trainings if not t.done]:
            # Those furthest behind go first: with more runs than devices they take turns, and no device idles.
            turn = sorted(pending, key=lambda t: t.iteration)[: programs.train.width]
            chunk = _advance(programs, turn, chunk)
            bar.update(sum(t.iteration for t in trainings) - done)
            done = sum(t.iteration for t in trainings)
            at_stop = [t for t in turn if t.iteration in t.stops and not t.diverged]
            if at_stop:
                bar.set_postfix_str("evaluating")
                for training, result in zip(at_stop, programs.measure(at_stop, final=False), strict=True):
                    # As it is read from a checkpoint.
                    training.curve.append(json.loads(as_json({"iteration": training.iteration, **result})))
                bar.set_postfix_str(_headline([training.curve[-1] for training in at_stop]))
            unsaved |= {id(training): training for training in turn}
            # A run of a few seconds has many stops; writing at each of them would take as long as the training.
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS or all(t.done for t in trainings):
                for training in unsaved.values():
                    training.save()
                unsaved, saved = {}, time.monotonic()
    for training in trainings:
        if training.path is not None and not training.path.exists():  # nothing to train: a random initialisation
            training.save()
    measured = _measured(programs, [t for t in trainings if not t.diverged], among)
    results = [{} if t.diverged else next(measured) for t in trainings]
    together = min(len(trainings), programs.train.width)
    return {"results": results, "together": together, "compile_seconds": programs.train.compile_seconds}


def _begin(programs: Programs, trainings: Sequence[Training]) -> None:
    """Give every training its first state, or the one it had when it was cut off."""
    for training, state in zip(trainings, programs.start([t.config for t in trainings]), strict=True):
        training.state = state
        training.resume()


def _advance(programs: Programs, turn: Sequence[Training], chunk: int) -> int:
    """Train those whose turn it is for `chunk` iterations or up to a stop; returns how long the next may be."""
    iterations = min(chunk, *(t.next_stop() - t.iteration for t in turn))
    compiled = programs.train.compile_seconds
    began = time.perf_counter()
    outcomes = programs.train([programs.unit(t.config, t.state) for t in turn], np.int32(iterations))
    seconds = agree(time.perf_counter() - began - (programs.train.compile_seconds - compiled))
    for training, (state, loss) in zip(turn, outcomes, strict=True):
        if unmoved(training.state.model, state.model):
            warnings.warn(f"{training.config.name}: {NOTHING_MOVED}", stacklevel=2)
        training.state = state
        training.iteration += iterations
        training.seconds += seconds
        if not _finite(state, loss):
            begun, seed = training.iteration - iterations, training.config.seed
            training.diverged = f"between outer iterations {begun} and {training.iteration} of seed {seed}"
            hint = "" if begun else ". From the start on: are there labels beyond the head, or NaN in the data?"
            warnings.warn(f"{training.config.name}: not finite any more {training.diverged}{hint}", stacklevel=2)
    return max(1, min(round(iterations * _SECONDS_A_CALL / seconds), 10 * max(iterations, chunk)))


def _measured(
    programs: Programs, trainings: Sequence[Training], among: Sequence[Configuration]
) -> Iterator[dict[str, Any]]:
    """What is measured at the end of each."""
    if not trainings:
        return iter(())
    total = len(trainings) * programs.tasks(final=True)
    with _bar(trainings, among, "evaluating", total=total, unit="task") as bar:
        found = programs.measure(trainings, final=True, bar=bar)
        bar.set_postfix_str(_headline(found))
    return iter(found)


def _finite(state: PyTree, loss: PyTree) -> bool:
    """Whether the loss, the parameters and the optimisers' states are; what else a model holds may be infinite."""
    parameters, _ = trainable(jax.tree.map(jnp.asarray, state.model))
    leaves = jax.tree.leaves((parameters, state.inner, state.outer, loss))
    return all(np.isfinite(leaf).all() for leaf in leaves)


def _bar(trainings: Sequence[Training], among: Sequence[Configuration], doing: str, **settings: Any) -> tqdm:
    shown = first_process() and settings["total"]
    title = title_of([training.config for training in trainings], among)
    return tqdm(desc=f"{doing} {title}", disable=not shown, **settings)


def title_of(configs: Sequence[Configuration], among: Sequence[Configuration] = ()) -> str:
    """What runs of one program are called, by which numbers they differ, and by what from most of those `among` which
    they are."""
    config, name = configs[0], _called(configs[0])
    alike = [other for other in among if type(other) is type(config) and _called(other) == name]
    said = [name]
    for field in ("seed", *(f.name for f in dataclasses.fields(config) if f.name != "seed")):
        values = list(dict.fromkeys(str(getattr(some, field)) for some in configs))
        usual = Counter(str(getattr(other, field)) for other in alike).most_common(1)
        if field == "seed" or len(values) > 1 or (usual and usual[0][0] != values[0]):
            shown = ", ".join(values) if len(values) <= _SHOWN_IN_A_TITLE else f"{values[0]} to {values[-1]}"
            said.append(f"{field}{'s' if field == 'seed' and len(values) > 1 else ''} {shown}")
    return ", ".join(filter(None, said))


def _called(config: Configuration) -> str:
    """Its name without the numbers that a bar shows anyway."""
    name = config.name.removesuffix(f"seed {config.seed}").removesuffix(f"-seed{config.seed}")
    return name.removesuffix(f"-{config.outer_iterations}")


def _headline(points: Sequence[dict[str, Any]]) -> str:
    """The first measurement's first number, in the mean over trainings, where there is one."""
    name = next((name for name in points[0] if name != "iteration"), "")
    numbers = [_number(point.get(name)) for point in points]
    if not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"{name} {np.mean(numbers):.3f}"


def _number(value: Any) -> Any:
    while isinstance(value, dict):
        value = next(iter(value.values()), None)
    while isinstance(value, list):
        value = value[-1] if value else None
    return value
