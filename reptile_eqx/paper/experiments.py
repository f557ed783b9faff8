"""The paper's experiments as run configurations: frozen dataclasses that say all a result depends on.

A configuration describes one seed. Those that differ only in `numbers` share one compiled program. `store.run`
trains any class with the members these have: `name`, `seed`, `outer_iterations`, `curve_points`, `precision`,
`numbers`, `measured` (the fields that matter to measurements alone, so that runs which differ in them share a
training; `eval_tasks` is the one that may change without the curve being measured again), `learner(shared)` and
`measurements(shared, final)`. Each of `numbers` has a plain default and may be 0, which stands for it in
`same_program`.
"""

import dataclasses
import math
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
from .meta import MetaGradient, gradient_combination, maml, resetting
from .nn import MiniImageNetNetwork, OmniglotNetwork, sine_network
from .tasks import SCHEDULES, Examples, FewShot, ImagesByClass, SineWaves, count_examples
from .theory import flatten
from .training import Learner, State, annealed_sgd, merge_adam, merge_average

# A configuration's `numbers` are plain for people and traced inside the program that several of them share.
Number = float | int | Float[Array, ""]
Seed = int | Integer[Array, ""]


class Measurement(NamedTuple):
    """Something measured on a trained state: `measure(state, key)` for each of `tasks` keys, then summarised.

    `measure` is part of a compiled program and returns a pytree of arrays; `summarise` turns that pytree, with a
    leading axis of tasks, into what a record keeps (JSON). One name stands for one `measure`, along training and at the
    end. A GPU takes up to `at_once` tasks at a time, which bounds its memory.
    """

    name: str
    tasks: int
    measure: Callable[[State, PRNGKeyArray], PyTree[Array]]
    summarise: Callable[[PyTree[np.ndarray]], Any]
    at_once: int = 500


def mean_and_interval(values: np.ndarray) -> dict[str, Any]:
    """Mean over the first axis (tasks) and half the width of its 95 % interval, as lists or numbers for JSON."""
    values = np.asarray(values, np.float64)
    count = values.shape[0]
    spread = values.std(0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
    return {"mean": values.mean(0).tolist(), "ci95": (1.96 * spread / count**0.5).tolist(), "tasks": count}


def mean_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Cross-entropy averaged over the batch: MAML's loss in Finn et al.'s experiments."""
    return sum_cross_entropy(model, batch) / count_examples(batch)


_PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
LOSSES = {"sum": sum_cross_entropy, "mean": mean_cross_entropy}
"""What `loss` names."""


def _gradient(config: Any, loss: Callable, optimiser: optax.GradientTransformation) -> MetaGradient:
    """The meta-gradient that a configuration's `algorithm` names."""
    k = config.inner_iterations
    settings = dict(batch_size=config.inner_batch_size, schedule=SCHEDULES[config.schedule])
    if config.algorithm == "maml":
        return maml(loss, optimiser, steps=k, separate_tail=config.tail > 0, **settings)
    weights = (0.0,) * (k - 1) + (1.0,) if config.algorithm == "fomaml" else (1.0,) * k
    weights = config.weights if config.algorithm == "combination" else weights
    return gradient_combination(loss, optimiser, weights, separate_tail=config.tail > 0, **settings)


def _outer(config: Any) -> optax.GradientTransformation:
    """Annealed SGD as in the paper, or Adam as MAML has it, with `outer_step_size` as its learning rate."""
    if config.outer_optimiser == "adam":
        return optax.adam(config.outer_step_size)
    return annealed_sgd(config.outer_step_size, config.outer_iterations)


def _check(config: Any, algorithms: tuple[str, ...]) -> None:
    """What both experiments ask of their settings; raises `ValueError` naming the first that is impossible."""
    _require("algorithm", config.algorithm, config.algorithm in algorithms, " or ".join(algorithms))
    _require("schedule", config.schedule, config.schedule in SCHEDULES, " or ".join(SCHEDULES))
    _require("outer_optimiser", config.outer_optimiser, config.outer_optimiser in ("sgd", "adam"), "sgd or adam")
    _require("eval_tasks", config.eval_tasks, config.eval_tasks >= 2, "2 or more, to have an interval")
    for field in ("inner_batch_size", "inner_iterations", "meta_batch_size"):
        _require(field, getattr(config, field), getattr(config, field) >= 1, "1 or more")
    for field in ("outer_iterations", "curve_points"):
        _require(field, getattr(config, field), getattr(config, field) >= 0, "0 or more")
    if config.curve_points:
        _require("curve_tasks", config.curve_tasks, config.curve_tasks >= 2, "2 or more, to have an interval")
    for field in set(config.numbers) - {"weights"}:
        number = getattr(config, field)
        if isinstance(number, int | float):  # Inside a compiled program it is traced.
            _require(field, number, 0 <= number < math.inf, "a finite number, 0 or more")
    if config.algorithm == "joint":
        _require("inner_iterations", config.inner_iterations, config.inner_iterations == 1, "1 for joint training")


def _require(what: str, given: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"`{what}` is {given!r}; expected {expected}")


@dataclass(frozen=True)
class SineRegression:
    """Section 4: regression on sine waves. The defaults are the paper's Reptile.

    `algorithm` is "reptile", "joint" (training on the expected loss), "fomaml", "maml" or "random" (no training, and
    `outer_iterations` = 0).
    With `training_points` = 0 a training task is the 50 equally spaced points of its wave, which five batches of ten
    pass over once; otherwise it is that many random points, and the 50 are FOMAML's and MAML's last batch.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "inner_step_size", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = ("eval_tasks", "eval_inner_iterations", "eval_step_size", "shown_task")
    precision: ClassVar[str] = "float32"

    algorithm: str = "reptile"
    training_points: int = 0
    inner_step_size: Number = 0.02
    inner_batch_size: int = 10
    inner_iterations: int = 5
    schedule: str = "cycle"
    outer_optimiser: str = "sgd"
    outer_step_size: Number = 0.1
    outer_iterations: int = 30_000
    meta_batch_size: int = 1
    seed: Seed = 0
    curve_points: int = 10
    curve_tasks: int = 100
    eval_tasks: int = 1000
    eval_inner_iterations: int = 32
    eval_step_size: float = 0.02
    shown_task: int = 0

    def __post_init__(self):
        _check(self, ("reptile", "joint", "fomaml", "maml", "random"))
        if self.algorithm == "random":
            _require("outer_iterations", self.outer_iterations, self.outer_iterations == 0, "0, as nothing is trained")
        last_apart = self.algorithm in ("fomaml", "maml")
        _require("training_points", self.training_points, (self.training_points > 0) == last_apart,
                 "points to adapt to for FOMAML and MAML, and 0 for the others")  # fmt: skip

    @property
    def tail(self) -> int:
        """How many examples the last batch has that are set apart for it."""
        return 50 if self.training_points else 0

    @property
    def name(self) -> str:
        """What the run is called in the store."""
        return f"sine-{self.algorithm}-{self.outer_iterations}-seed{self.seed}"

    def learner(self, shared: None = None) -> Learner:
        """The training that this configuration describes."""
        tasks = SineWaves(points=self.training_points) if self.training_points else SineWaves(spaced=True)
        gradient = _gradient(self, mean_squared_error, optax.sgd(self.inner_step_size))
        return Learner(sine_network, tasks, gradient, _outer(self), self.meta_batch_size)

    def measurements(self, shared: None = None, *, final: bool) -> tuple[Measurement, ...]:
        """Eq. 8 against the number of gradient steps; at the end also the figure's task, curve by curve."""
        tasks = SineWaves(points=10)
        optimiser = optax.sgd(self.eval_step_size)

        def losses(state, key):
            task = tasks(key)

            def integrated(model):
                # eq. 8 over an interval of length 10
                return 10 * mean_squared_error(model, task.query)

            return adaptation(optimiser, mean_squared_error, state.model, task, self.eval_inner_iterations, integrated)

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
class SineAnalysis(SineRegression):
    """The same training, watched along the way for what Section 5 says of it; nothing is measured at the end.

    Per task: the inner products of the gradients of two mini-batches, of one task (`same`) and of two (`other`); what
    a step of size `eval_step_size` on one of them takes off the loss of the other (`gain_same`, `gain_other`); and the
    distance from φ to where `eval_inner_iterations` steps on the whole wave lead (`distance`).
    """

    measured: ClassVar[tuple[str, ...]] = ()  # All that is measured is measured along the way.

    def measurements(self, shared: None = None, *, final: bool) -> tuple[Measurement, ...]:
        """What the class says, along training."""
        tasks = SineWaves(points=20)

        def watch(state, key):
            (x, y), wave = tasks(key)
            stranger = tasks(jax.random.fold_in(key, 1)).support
            batch, same, other = (x[:10], y[:10]), (x[10:], y[10:]), (stranger[0][:10], stranger[1][:10])
            phi, loss = flatten(mean_squared_error, state.model)
            gradient = jax.grad(loss)
            stepped = phi - self.eval_step_size * gradient(phi, batch)

            def solution(_, at):
                return at - self.eval_step_size * gradient(at, wave)

            solved = jax.lax.fori_loop(0, self.eval_inner_iterations, solution, phi)
            return {
                "same": jnp.vdot(gradient(phi, batch), gradient(phi, same)),
                "other": jnp.vdot(gradient(phi, batch), gradient(phi, other)),
                "gain_same": loss(phi, same) - loss(stepped, same),
                "gain_other": loss(phi, other) - loss(stepped, other),
                "distance": jnp.linalg.norm(solved - phi),
                "loss_there": loss(solved, wave),
            }

        def summarise(values):
            return {name: mean_and_interval(leaf) for name, leaf in values.items()}

        return () if final else (Measurement("watched", self.curve_tasks, watch, summarise),)


@dataclass(frozen=True)
class FewShotClassification:
    """Section 6: N-way classification, trained once and evaluated at several shots. Defaults: Table 3, 5-way.

    `dataset` names the images that are passed as `shared`. The classes of "mini-imagenet" are in the order of the
    published split: `train_classes` to train on, `validation_classes` that nothing here uses, and the rest to
    evaluate on. Those of any other dataset are shuffled by the seed first, and each one to train on is also turned by
    90°, 180° and 270°. The network is the dataset's.

    `algorithm` is "reptile", "joint", "fomaml", "maml", or "combination" with the given `weights`, one for each inner
    iteration. Of the `training_shots`, `tail` are set aside for the last batch (a separate tail; 0: shared).
    `optimiser` is "adam" (β₁ = `adam_b1`, rolling state unless `reset_optimiser`) or "sgd", `loss` "sum" or "mean".
    `order` is "exact", the tasks of a meta-batch one after another as the authors have them, or "parallel", side by
    side with the optimiser's states merged (`training.Learner`).
    `precision` is that of the convolutions' products, on a GPU of all: "float32", or "tensorfloat32" or "bfloat16",
    which round their operands to 10 and 7 bits and sum in float32. JAX's own default on a GPU is about "tensorfloat32".
    `eval_inner_batch_size` may have one number for each of `eval_shots`.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "outer_step_size", "weights")
    measured: ClassVar[tuple[str, ...]] = ("eval_shots", "eval_tasks", "eval_inner_iterations", "eval_inner_batch_size")

    dataset: str = "omniglot"
    train_classes: int = 1200
    validation_classes: int = 0
    ways: int = 5
    algorithm: str = "reptile"
    weights: tuple[float, ...] | list[float] | Float[Array, " k"] = ()
    tail: int = 0
    optimiser: str = "adam"
    adam_b1: float = 0.0
    reset_optimiser: bool = False
    loss: str = "sum"
    learning_rate: Number = 1e-3
    inner_batch_size: int = 10
    inner_iterations: int = 5
    schedule: str = "cycle"
    training_shots: int = 10
    outer_optimiser: str = "sgd"
    outer_step_size: Number = 1.0
    outer_iterations: int = 100_000
    meta_batch_size: int = 5
    order: str = "exact"
    precision: str = "float32"
    seed: Seed = 0
    curve_points: int = 20
    curve_tasks: int = 100
    eval_shots: tuple[int, ...] | list[int] = (1, 5)
    eval_tasks: int = 10_000
    eval_inner_iterations: int = 50
    eval_inner_batch_size: int | tuple[int, ...] | list[int] = 5

    def __post_init__(self):
        for field in ("weights", "eval_shots", "eval_inner_batch_size"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        _check(self, ("reptile", "joint", "fomaml", "maml", "combination"))
        for field in ("ways", "training_shots", "outer_iterations", "eval_inner_iterations"):
            _require(field, getattr(self, field), getattr(self, field) >= 1, "1 or more")
        sizes = self.eval_batch_sizes
        _require("eval_inner_batch_size", self.eval_inner_batch_size,
                 len(sizes) == len(self.eval_shots) and min(sizes, default=0) >= 1,
                 f"1 or more, or that for each of the {len(self.eval_shots)} `eval_shots`")  # fmt: skip
        _require("eval_shots", self.eval_shots, min(self.eval_shots, default=0) >= 1, "1 or more of each class")
        _require("adam_b1", self.adam_b1, 0 <= self.adam_b1 < 1, "0 or more and less than 1")
        _require("optimiser", self.optimiser, self.optimiser in ("adam", "sgd"), "adam or sgd")
        _require("order", self.order, self.order in ("exact", "parallel"), "exact or parallel")
        _require("precision", self.precision, self.precision in _PRECISIONS, " or ".join(_PRECISIONS))
        _require("loss", self.loss, self.loss in LOSSES, " or ".join(LOSSES))
        _require("tail", self.tail, 0 <= self.tail < self.training_shots,
                 f"fewer than the {self.training_shots} training shots it is taken from")  # fmt: skip
        if self.algorithm in ("reptile", "joint"):
            _require("tail", self.tail, self.tail == 0, f"0, as {self.algorithm} has no last batch of its own")
        wanted = self.inner_iterations if self.algorithm == "combination" else 0
        _require("weights", self.weights, len(self.weights) == wanted,
                 f"{wanted} numbers, one for each inner iteration of a combination")  # fmt: skip

    @property
    def name(self) -> str:
        """What the run is called in the store."""
        return f"{self.dataset}-{self.ways}way-{self.algorithm}-{self.outer_iterations}-seed{self.seed}"

    def inner_optimiser(self) -> optax.GradientTransformation:
        """The inner loop's optimiser."""
        if self.optimiser == "sgd":
            return optax.sgd(self.learning_rate)
        return reference_adam(self.learning_rate, b1=self.adam_b1)

    @property
    def eval_batch_sizes(self) -> tuple[int, ...]:
        """The batch size of the adaptation at each of `eval_shots`."""
        size = self.eval_inner_batch_size
        return size if isinstance(size, tuple) else (size,) * len(self.eval_shots)

    def network(self, key: PRNGKeyArray) -> OmniglotNetwork | MiniImageNetNetwork:
        """A fresh network for the dataset's images."""
        network = MiniImageNetNetwork if self.dataset == "mini-imagenet" else OmniglotNetwork
        return network(self.ways, key=key)

    def _tasks(self, images, *, training: bool, shots: int, queries: int) -> FewShot:
        order, published = jnp.arange(images.shape[0]), self.dataset == "mini-imagenet"
        rest = images.shape[0] - self.validation_classes
        _require("train_classes", self.train_classes, 0 < self.train_classes < rest,
                 f"1 to {rest - 1} of the {images.shape[0]} classes, so that some are left to evaluate on")  # fmt: skip
        if not published:
            order = jax.random.permutation(jax.random.fold_in(jax.random.PRNGKey(self.seed), 1), order)
        classes = order[: self.train_classes] if training else order[self.train_classes + self.validation_classes :]
        return FewShot(images, classes, self.ways, shots, queries, rotations=training and not published)

    def learner(self, shared: ImagesByClass | None) -> Learner:
        """The training that this configuration describes, on images by class."""
        if shared is None:
            raise ValueError(f"{self.name} takes images by class, and none were given")
        size = (84, 84, 3) if self.dataset == "mini-imagenet" else (28, 28, 1)
        if shared.shape[2:] != size:
            raise ValueError(
                f"the network for {self.dataset!r} takes images of {size}, height, width and channels; given "
                f"{shared.shape[2:]}: resize them, or train a network of your own with `Learner`"
            )
        gradient = _gradient(self, LOSSES[self.loss], self.inner_optimiser())
        merge = merge_adam(b2=0.999, b1=self.adam_b1) if self.optimiser == "adam" else merge_average
        return Learner(
            self.network,
            self._tasks(shared, training=True, shots=self.training_shots - self.tail, queries=self.tail),
            resetting(gradient) if self.reset_optimiser else gradient,
            _outer(self),
            self.meta_batch_size,
            merge if self.order == "parallel" else None,
        )

    def measurements(self, shared: ImagesByClass, *, final: bool) -> tuple[Measurement, ...]:
        """Accuracy on unseen classes, alone and transductive, at each of `eval_shots`."""

        def at(shots, batch_size):
            tasks = self._tasks(shared, training=False, shots=shots, queries=1)

            def accuracy(state, key):
                task_key, batch_key = jax.random.split(key)
                return few_shot_accuracy(
                    LOSSES[self.loss],
                    self.inner_optimiser(),
                    state.model,
                    state.inner,
                    tasks(task_key),
                    batch_key,
                    steps=self.eval_inner_iterations,
                    batch_size=batch_size,
                )._asdict()

            def summarise(values):
                return {setting: mean_and_interval(shares) for setting, shares in values.items()}

            # Alone, each held-out image is classified with the whole support beside it.
            pixels = self.ways * (self.ways * shots + 1) * math.prod(shared.shape[2:4])
            return Measurement(
                name=f"{shots}-shot",
                tasks=self.eval_tasks if final else self.curve_tasks,
                measure=accuracy,
                summarise=summarise,
                at_once=max(1, 2**24 // pixels),  # On Mini-ImageNet the patches of three runs' tasks have 2³⁰ numbers.
            )

        return tuple(map(at, self.eval_shots, self.eval_batch_sizes))


def same_program(config: Any) -> Any:
    """The configuration with its `numbers` blanked: equal for runs that one compiled program can train."""

    def blank(value):
        return (0.0,) * len(value) if isinstance(value, tuple) else type(value)(0)

    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    blanks = {name: blank(getattr(config, name) if defaults[name] == () else defaults[name]) for name in config.numbers}
    return dataclasses.replace(config, **blanks)
