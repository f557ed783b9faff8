"""`fit` trains any learner as the paper's are: seeds together on all devices, measured, kept, resumed exactly."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..checks import MOST_SEED, whole
from ..evaluation import mean_and_interval
from ..files import expanded
from ..inner import trainable
from ..training import Learner, State, start
from .checkpoint import Training, locked, skeleton
from .configuration import Measurement, Numbers
from .devices import mesh_for, replicated
from .digests import digest
from .processes import first_process
from .programs import train_and_measure

Measure = Callable[[PyTree, PyTree, PRNGKeyArray], PyTree[Array]]
"""A function of a model, the inner optimiser's state and a key to what is measured on one task: a pytree of arrays."""


class Fit(NamedTuple):
    """What `fit` returns; every list has an entry for each seed, in their order.

    - `states`: the `State` at the end: `states[0].model` is the first seed's initialisation.
    - `curve`: what was measured along training, as rows for `pandas.DataFrame`: `seed`, `iteration`, and for each
      measure its mean and, as `… ±`, half the width of its 95 % interval over tasks.
    - `results`: what was measured at the end: by measure, its mean, `ci95` and number of `tasks`; empty where a seed
      diverged.
    - `diverged`: between which iterations the loss or a parameter stopped being finite, or "".
    """

    states: list[State]
    curve: list[dict[str, Any]]
    results: list[dict[str, Any]]
    diverged: list[str]


def fit(
    learner: Learner,
    iterations: int,
    *,
    seeds: Sequence[int] | np.ndarray = (0,),
    measure: Mapping[str, Measure] | None = None,
    points: int = 10,
    tasks: int = 100,
    final_tasks: int = 1000,
    folder: str | os.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    precision: str = "float32",
    fresh: bool = False,
) -> Fit:
    """Train a learner: several seeds together on all devices, with a progress bar, a curve, and checkpoints.

    **Arguments:**

    - `learner`: what to train. Arrays that its parts hold as pytrees, such as `FewShot`'s images, are copied to every
      device once; arrays that its functions close over become part of the program.
    - `iterations`: how many outer iterations, in all.
    - `seeds`: each makes a training of its own, whose model, tasks and batches come of it.
    - `measure`: what to measure, functions by name. Each gets the model, the inner optimiser's state and a key;
      `QueryAccuracy(…)` is one, which must adapt with the learner's own inner optimiser. By default the mean loss of
      the inner loop on the learner's tasks is measured, with `{}` nothing.
    - `points`: at how many evenly spaced iterations they are measured, on `tasks` keys; at the end on `final_tasks`.
    - `folder`: where checkpoints go; `None` keeps none. The same call goes on from them, wherever it was cut off, and
      ends with the same bits. A call with more `iterations` goes on from the end. With `annealed_sgd` that is of no
      use: its step is 0 there, and one of another length makes another training, which needs another folder.
    - `devices`: all of JAX's by default (`use_devices`).
    - `precision`: of matrix products, as `jax.default_matmul_precision` takes it.
    - `fresh`: start anew, in the place of the checkpoints that are there.

    Says so on standard error where a training that had ended is read from its checkpoint, and of when that is. A
    damaged checkpoint is set aside under another name, with a warning, and its training starts anew.

    Raises `ValueError` for numbers that make no training, and for a folder whose checkpoint belongs to another
    training, with what differs. Warns of a seed whose loss or parameters stop being finite, which ends it while the
    others go on, of a training that moves nothing, and of what was measured and is not finite.
    """
    iterations, points = whole("iterations", iterations), whole("points", points)
    tasks, final_tasks = whole("tasks", tasks), whole("final_tasks", final_tasks)
    seeds, measure = _seeds(seeds), None if measure is None else _named(measure)
    if devices is not None and (isinstance(devices, str | int) or not all(isinstance(d, jax.Device) for d in devices)):
        raise ValueError(f"`devices` is {devices!r}; expected some of jax.devices(), or None for all")
    if devices is not None and not len(devices):
        raise ValueError("`devices` is empty; expected some of jax.devices(), or None for all")
    if folder is not None and (not isinstance(folder, str | os.PathLike) or not os.fspath(folder)):
        raise ValueError(f"`folder` is {folder!r}; expected a folder for the checkpoints, or None to keep none")
    if not isinstance(fresh, bool):
        raise ValueError(f"`fresh` is {fresh!r}; expected True or False")
    # Of NumPy's arrays a program can take no element by a number that it draws.
    learner, measure = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, (learner, measure))
    arrays, still = eqx.partition((learner, measure), eqx.is_array)
    settings = _settings(learner, measure, precision)
    settings |= {"curve": [points, tasks], "final_tasks": final_tasks}
    place = None if folder is None else expanded(folder, "`folder`")
    if place is not None and place.exists() and not place.is_dir():
        raise ValueError(f"`folder` is {place}, a file: give a folder for the checkpoints")
    trainings = []
    for seed in seeds:
        plan = _Plan(still, seed, iterations, points, tasks, final_tasks, precision)
        path = None if place is None else place / f"seed-{seed}" / "state.eqx"
        trainings.append(Training(plan, path, settings | {"seed": seed}))
    with locked(training.path for training in trainings):
        for training in trainings:
            if fresh:
                training.forget()
            _check_own(training, iterations)
        _tell_read(trainings)
        devices = jax.devices() if devices is None else devices
        data = replicated(arrays, mesh_for(devices, len(devices)))
        outcome = train_and_measure(trainings, data, devices)
    for seed, result in zip(seeds, outcome["results"], strict=True):
        for name, parts in result.items():
            means = [some["mean"] for some in ([parts] if _is_summary(parts) else parts.values())]
            if not np.isfinite(means).all():
                warnings.warn(f"seed {seed}: {name!r}, measured at the end, is not finite", stacklevel=2)
    _, rest = skeleton(lambda: start(learner, jax.random.PRNGKey(0)))
    return Fit(
        [eqx.combine(jax.tree.map(jnp.asarray, training.state), rest) for training in trainings],
        [row for training in trainings for row in _rows(training)],
        outcome["results"],
        [training.diverged for training in trainings],
    )


@dataclass(frozen=True)
class _Plan:
    """One seed of a `fit`, as the engine takes it: a `Configuration`."""

    numbers: ClassVar[tuple[str, ...]] = ("seed",)
    measured: ClassVar[tuple[str, ...]] = ("curve", "final_tasks", "measure")
    counts: ClassVar[tuple[str, ...]] = ("final_tasks",)

    still: PyTree
    seed: int
    outer_iterations: int
    curve_points: int
    tasks: int
    final_tasks: int
    precision: str

    @property
    def name(self) -> str:
        return f"seed {self.seed}"

    def learner(self, data: PyTree, numbers: Numbers) -> Learner:
        return eqx.combine(data, self.still)[0]

    def measurements(self, data: PyTree, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        def measurement(name, measure):
            def seen(state, key):
                values = jax.tree.map(jnp.asarray, measure(state.model, state.inner, key))
                if not jax.tree.leaves(values):
                    raise ValueError(f"the measure {name!r} returns nothing; expected a number, or a pytree of numbers")
                return jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), values)

            return Measurement(name, self.final_tasks if final else self.tasks, seen, _summarised)

        return tuple(measurement(name, measure) for name, measure in _measures(*eqx.combine(data, self.still)).items())


def _measures(learner, measure):
    return {"inner loss": _InnerLoss(learner)} if measure is None else measure


class _InnerLoss(eqx.Module):
    """The mean loss of the inner loop on a task of the learner's own."""

    own: Learner

    def __call__(self, model, inner, key):
        task_key, batch_key = jax.random.split(key)
        return self.own.gradient.estimate(model, inner, self.own.tasks(task_key), batch_key)[2]


def _summarised(values):
    leaves = jax.tree_util.tree_leaves_with_path(values)
    parts = {jax.tree_util.keystr(path, simple=True, separator="."): mean_and_interval(leaf) for path, leaf in leaves}
    return parts[""] if list(parts) == [""] else parts


def _rows(training):
    for point in training.curve:
        row = {"seed": training.config.seed, "iteration": point["iteration"]}
        for name, value in point.items():
            if name != "iteration":
                parts = {"": value} if _is_summary(value) else {f" {part}": some for part, some in value.items()}
                for part, some in parts.items():
                    row |= {f"{name}{part}": _or_nan(some["mean"]), f"{name}{part} ±": _or_nan(some["ci95"])}
        yield row


def _or_nan(number):
    return float("nan") if number is None else number


def _tell_read(trainings):
    done = {t.path.parent.name: t.kept() for t in trainings if t.saved_iteration() >= t.config.outer_iterations}
    if done and first_process():
        dates = {kept["date"][:10] for kept in done.values()}
        print(
            f"{', '.join(done)} read, not trained: made {' and '.join(sorted(dates))} (fresh=True trains again)",
            file=sys.stderr,
        )


def _seeds(seeds):
    if np.ndim(seeds) != 1 or not len(seeds):
        raise ValueError(f"`seeds` is {seeds!r}; expected one or more different seeds, such as (0, 1, 2)")
    chosen = [whole("seeds", seed, 0, MOST_SEED) for seed in seeds]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"`seeds` is {seeds!r}; expected different seeds, such as (0, 1, 2)")
    return chosen


def _named(measure):
    if not isinstance(measure, Mapping):
        raise TypeError(f"`measure` is functions by name, such as {{'accuracy': QueryAccuracy(…)}}; given {measure!r}")
    for name in measure:
        if not isinstance(name, str) or name in ("seed", "iteration"):
            raise ValueError(f"a measure is named {name!r}; expected a text, and not 'seed' or 'iteration'")
    return dict(measure)


def _settings(learner, measure, precision):
    """What the training is, part by part: digests of the parts' programs, and of the arrays that they hold."""
    key = jax.random.PRNGKey(0)
    state = eqx.filter_eval_shape(start, learner, key)
    task = eqx.filter_eval_shape(lambda learner, key: learner.tasks(key), learner, key)

    def gradient(learner, state, task, key):
        return learner.gradient.estimate(state.model, state.inner, task, key)

    def outer(learner, direction, state):
        return learner.outer.update(direction, state.outer, trainable(state.model)[0])

    def began(learner, state):
        return learner.outer.init(trainable(state.model)[0])

    def merged(learner, inner):
        return learner.merge(inner, jax.tree.map(lambda leaf: jnp.stack([leaf] * learner.meta_batch_size), inner))

    direction, *_ = eqx.filter_eval_shape(gradient, learner, state, task, key)
    return {
        "model": _digest(lambda learner, key: learner.model(key), learner, key, text=_without_addresses(state.model)),
        "tasks": _digest(lambda learner, key: learner.tasks(key), learner, key),
        "loss, inner loop and algorithm": _digest(gradient, learner, state, task, key),
        "outer optimiser": _digest(outer, learner, direction, state) + _digest(began, learner, state),
        "meta_batch_size": learner.meta_batch_size,
        "merge": learner.merge and _digest(merged, learner, state.inner),
        "precision": precision,
        "arrays": digest(jax.tree.leaves(eqx.filter(learner, eqx.is_array))),
        "measure": {
            name: _digest(some, state.model, state.inner, key) for name, some in _measures(learner, measure).items()
        },
    }


def _digest(function, *arguments, text=""):
    """Of a function's program and the arrays it closes over."""
    jaxpr, *_ = eqx.filter_make_jaxpr(function)(*arguments)
    return digest(_constants(jaxpr), text + _without_addresses(jaxpr))


def _constants(program):
    """Arrays that a program closes over, and those of the programs inside it, which are not printed."""
    yield from getattr(program, "consts", ())
    for equation in getattr(program, "jaxpr", program).eqns:
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns"):
                yield from _constants(value)


def _without_addresses(value):
    """As text; functions are printed with where they lie in memory."""
    return re.sub(r"0x[0-9a-f]+", "", repr(value))


def _is_summary(value):
    return "ci95" in value and not isinstance(value["ci95"], dict)


def _check_own(training, iterations):
    """Refuse a folder that has the checkpoint of another training, or of a longer one."""
    if differing := training.differing():
        said = [f"{name} ({a} there, {b} here)" if isinstance(a, int) else name for name, (a, b) in differing.items()]
        raise ValueError(
            f"{training.path} is the checkpoint of another training. What differs: {', '.join(said)}. Give another "
            "folder, or remove that one. (Programs are compared as JAX writes them, so another version of it may "
            "differ in all.)"
        )
    if training.saved_iteration() > iterations:
        raise ValueError(
            f"{training.path} is at iteration {training.saved_iteration()}, and {iterations} were asked for: ask for "
            "as many or more, or give another folder"
        )
