"""The paper's experiments as run configurations: frozen dataclasses that say all a result depends on.

A configuration describes one seed. Those that differ only in `numbers` share one compiled program. `store.run`
trains any class with the members these two have: `name`, `seed`, `outer_iterations`, `curve_points`, `numbers`,
`measured`, `learner(shared)` and `measurements(shared, final)`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PRNGKeyArray, PyTree

from .evaluation import adaptation, few_shot_accuracy
from .inner import mean_squared_error, reference_adam, sum_cross_entropy
from .meta import reptile
from .nn import OmniglotNetwork, sine_network
from .tasks import SCHEDULES, FewShot, ImagesByClass, SineWaves
from .training import Learner, State, annealed_sgd


# A configuration's `numbers` are plain for people and traced inside the program that several of them share.
Number = float | int | Float[Array, ""]
Seed = int | Integer[Array, ""]


class Measurement(NamedTuple):
    """Something measured on a trained state: `measure(state, key)` for each of `tasks` keys, then summarised.

    `measure` is part of a compiled program and returns a pytree of arrays; `summarise` turns that pytree, with a
    leading axis of tasks, into what a record keeps (JSON).
    """

    name: str
    tasks: int
    measure: Callable[[State, PRNGKeyArray], PyTree[Array]]
    summarise: Callable[[PyTree[np.ndarray]], Any]


def mean_and_interval(values: np.ndarray) -> dict[str, Any]:
    """Mean over the first axis (tasks) and half the width of its 95 % interval, as lists or numbers for JSON."""
    values = np.asarray(values, np.float64)
    count = values.shape[0]
    spread = values.std(0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
    return {"mean": values.mean(0).tolist(), "ci95": (1.96 * spread / count**0.5).tolist(), "tasks": count}


def _require(what: str, given: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"`{what}` is {given!r}; expected {expected}")


@dataclass(frozen=True)
class SineRegression:
    """Section 4: regression on sine waves. The defaults are the paper's.

    `algorithm` is "reptile", "joint" (training on the expected loss: one step on all 50 points) or "random"
    (no training). One pass over a task's 50 points is `inner_iterations` steps of `inner_batch_size` points.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "inner_step_size", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = ("eval_tasks", "eval_inner_iterations", "shown_task")

    algorithm: str = "reptile"
    inner_step_size: Number = 0.02
    inner_batch_size: int = 10
    inner_iterations: int = 5
    outer_step_size: Number = 0.1
    outer_iterations: int = 30_000
    meta_batch_size: int = 1
    seed: Seed = 0
    curve_points: int = 10
    curve_tasks: int = 100
    eval_tasks: int = 1000
    eval_inner_iterations: int = 32
    shown_task: int = 0

    def __post_init__(self):
        _require("algorithm", self.algorithm, self.algorithm in ("reptile", "joint", "random"), "reptile, joint or random")
        _require("outer_iterations", self.outer_iterations, self.outer_iterations >= 0, "0 or more")
        _require("eval_tasks", self.eval_tasks, self.eval_tasks >= 2, "2 or more, to have an interval")

    @property
    def name(self) -> str:
        """What the run is called in the store."""
        return f"sine-{self.algorithm}-{self.outer_iterations}-seed{self.seed}"

    def learner(self, shared: None = None) -> Learner:
        """The training that this configuration describes."""
        batch, steps = (50, 1) if self.algorithm == "joint" else (self.inner_batch_size, self.inner_iterations)
        gradient = reptile(mean_squared_error, optax.sgd(self.inner_step_size), steps=steps, batch_size=batch)
        outer = annealed_sgd(self.outer_step_size, self.outer_iterations)
        return Learner(sine_network, SineWaves(spaced=True), gradient, outer, self.meta_batch_size)

    def measurements(self, shared: None = None, *, final: bool) -> tuple[Measurement, ...]:
        """Eq. 8 against the number of gradient steps; at the end also the figure's task, curve by curve."""
        tasks = SineWaves(points=10)
        optimiser = optax.sgd(self.inner_step_size)

        def losses(state, key):
            task = tasks(key)

            def integrated(model):
                # eq. 8 over an interval of length 10
                return 10 * mean_squared_error(model, task.query)

            return adaptation(
                optimiser, mean_squared_error, state.model, task, self.eval_inner_iterations, integrated
            )

        def shown(state, key):
            # The same task whatever the seed of the training, so that panels can be compared.
            task = tasks(jax.random.fold_in(jax.random.PRNGKey(0), self.shown_task))

            def curve(model):
                return jax.vmap(model)(task.query[0])[:, 0]

            predictions = adaptation(
                optimiser, mean_squared_error, state.model, task, self.eval_inner_iterations, curve
            )
            return {"points": task.support, "wave": task.query, "predictions": predictions}

        def as_lists(values):
            return jax.tree.map(lambda leaf: np.round(leaf[0].astype(float), 4).squeeze().tolist(), values)

        if not final:
            return (Measurement("loss", self.curve_tasks, losses, mean_and_interval),)
        return (
            Measurement("loss", self.eval_tasks, losses, mean_and_interval),
            Measurement("shown", 1, shown, as_lists),
        )


@dataclass(frozen=True)
class FewShotClassification:
    """Section 6.1: N-way classification, trained once and evaluated at several shots. Defaults: Table 3, 5-way.

    Classes are shuffled by the seed and split into `train_classes` for training, each also turned by 90°, 180°
    and 270°, and the rest for evaluation, unturned. `dataset` names the images that are passed as `shared`.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = ("eval_shots", "eval_tasks", "eval_inner_iterations", "eval_inner_batch_size")

    dataset: str = "omniglot"
    train_classes: int = 1200
    ways: int = 5
    learning_rate: Number = 1e-3
    inner_batch_size: int = 10
    inner_iterations: int = 5
    schedule: str = "cycle"
    training_shots: int = 10
    outer_step_size: Number = 1.0
    outer_iterations: int = 100_000
    meta_batch_size: int = 5
    seed: Seed = 0
    curve_points: int = 20
    curve_tasks: int = 100
    eval_shots: tuple[int, ...] = (1, 5)
    eval_tasks: int = 10_000
    eval_inner_iterations: int = 50
    eval_inner_batch_size: int = 5

    def __post_init__(self):
        _require("schedule", self.schedule, self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        _require("eval_tasks", self.eval_tasks, self.eval_tasks >= 2, "2 or more, to have an interval")
        for field in ("ways", "training_shots", "inner_batch_size", "inner_iterations", "outer_iterations",
                      "meta_batch_size", "eval_inner_iterations", "eval_inner_batch_size"):  # fmt: skip
            _require(field, getattr(self, field), getattr(self, field) >= 1, "1 or more")

    @property
    def name(self) -> str:
        """What the run is called in the store."""
        return f"{self.dataset}-{self.ways}way-reptile-{self.outer_iterations}-seed{self.seed}"

    def _tasks(self, images, *, training: bool, shots: int, queries: int) -> FewShot:
        order = jax.random.permutation(jax.random.fold_in(jax.random.PRNGKey(self.seed), 1), images.shape[0])
        classes = order[: self.train_classes] if training else order[self.train_classes :]
        return FewShot(images, classes, self.ways, shots, queries, rotations=training)

    def learner(self, shared: ImagesByClass) -> Learner:
        """The training that this configuration describes, on images by class."""
        gradient = reptile(
            sum_cross_entropy,
            reference_adam(self.learning_rate),
            steps=self.inner_iterations,
            batch_size=self.inner_batch_size,
            schedule=SCHEDULES[self.schedule],
        )
        return Learner(
            lambda key: OmniglotNetwork(self.ways, key=key),
            self._tasks(shared, training=True, shots=self.training_shots, queries=0),
            gradient,
            annealed_sgd(self.outer_step_size, self.outer_iterations),
            self.meta_batch_size,
        )

    def measurements(self, shared: ImagesByClass, *, final: bool) -> tuple[Measurement, ...]:
        """Accuracy on unseen classes, alone and transductive, at each of `eval_shots`."""

        def at(shots):
            tasks = self._tasks(shared, training=False, shots=shots, queries=1)

            def accuracy(state, key):
                task_key, batch_key = jax.random.split(key)
                return few_shot_accuracy(
                    sum_cross_entropy,
                    reference_adam(self.learning_rate),
                    state.model,
                    state.inner,
                    tasks(task_key),
                    batch_key,
                    steps=self.eval_inner_iterations,
                    batch_size=self.eval_inner_batch_size,
                )._asdict()

            def summarise(values):
                return {setting: mean_and_interval(shares) for setting, shares in values.items()}

            return Measurement(f"{shots}-shot", self.eval_tasks if final else self.curve_tasks, accuracy, summarise)

        return tuple(at(shots) for shots in self.eval_shots)


def same_program(config: Any) -> Any:
    """The configuration with its `numbers` at their defaults: equal for runs that one compiled program can train."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: defaults[name] for name in config.numbers})
