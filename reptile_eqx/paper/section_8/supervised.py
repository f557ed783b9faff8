"""Ordinary supervised training on one fixed set of characters, by optimisers that Section 5 tells apart.

To second order in α, k steps of SGD move φ by kα·AvgGrad - ½k(k-1)α²·AvgGradInner (eq. 41). The second term
raises the inner product of the gradients of different mini-batches, so that a step on one helps the others. A single
step of the same length on the same data lacks the term; here it can also be added, and amplified.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from ...checks import number, whole
from ...datasets.common import ImageClasses
from ...evaluation import mean_and_interval
from ...inner import start_optimiser, trainable
from ...losses import mean_cross_entropy
from ...meta import reptile
from ...nn import OmniglotNetwork
from ...optimisers import annealed_sgd, reference_adam
from ...runs.configuration import Measurement, Numbers
from ...tasks import Task, cycle
from ...training import Learner, MetaGradient
from ..experiments import split_classes


class Characters(eqx.Module):
    """The one task: `count` drawings of a set of characters, each labelled by its character; some are kept for tests.

    With `turned`, a character also counts three more times, turned by 90°, 180° and 270°.
    """

    images: UInt8[Array, "class drawing height width channel"]
    classes: Int[Array, " choices"]
    count: int = eqx.field(static=True)
    first: int = eqx.field(static=True)
    last: int = eqx.field(static=True)
    turned: bool = eqx.field(static=True, default=False)

    def __call__(self, key: PRNGKeyArray) -> Task:
        """Drawings `first` to `last` - 1 of any character, with replacement; a pure function of `key`."""
        choices = self.classes.shape[0]
        label = jax.random.randint(key, (self.count,), 0, choices * (4 if self.turned else 1))
        drawing = jax.random.randint(jax.random.fold_in(key, 1), (self.count,), self.first, self.last)
        chosen = self.images[self.classes[label % choices], drawing]
        turns = (label // choices)[:, None, None, None]
        chosen = jnp.where(turns % 2 == 1, jnp.rot90(chosen, axes=(1, 2)), chosen)
        chosen = jnp.where(turns >= 2, jnp.flip(chosen, (1, 2)), chosen)
        return Task((chosen.astype(jnp.result_type(float)) / 255, label), None)


@dataclass(frozen=True)
class Supervised:
    """A network that tells `train_classes` characters apart, trained on 15 drawings of each, tested on the other five.

    An outer iteration sees `inner_iterations` mini-batches of `inner_batch_size` drawings, as k small steps of
    `learning_rate` after which φ goes `outer_step_size` of the way (1: plain SGD or Adam; less: Reptile as an
    optimiser); or, with `one_step`, as a single step of k times the length on all of them. To that step,
    `amplified` times the term is added that the k steps have to second order.
    The outer step size is annealed to 0 in every case.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    counts: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    precision: ClassVar[str] = "float32"

    dataset: str = "omniglot"
    train_classes: int = 1100
    validation_classes: int = 100
    turned: bool = False
    optimiser: str = "sgd"
    learning_rate: float | int = 0.1
    inner_batch_size: int = 20
    inner_iterations: int = 5
    one_step: bool = False
    amplified: float | int = 0.0
    outer_step_size: float | int = 1.0
    outer_iterations: int = 2000
    seed: int = 0
    curve_points: int = 10
    curve_tasks: int = 10
    eval_tasks: int = 50

    def __post_init__(self):
        for field in ("train_classes", "inner_batch_size", "inner_iterations", "outer_iterations", "eval_tasks"):
            object.__setattr__(self, field, whole(field, getattr(self, field)))
        for field in ("learning_rate", "outer_step_size", "amplified"):
            number(field, getattr(self, field))
        if self.optimiser not in ("sgd", "adam"):
            raise ValueError(f"`optimiser` is {self.optimiser!r}; expected sgd or adam")
        if self.amplified and not self.one_step:
            raise ValueError(f"`amplified` is {self.amplified!r}; expected 0, as it is for a single step")
        if self.dataset not in ("omniglot", "glyphs"):
            raise ValueError(f"`dataset` is {self.dataset!r}; expected omniglot or glyphs, which are 28×28")
        if self.one_step and self.optimiser != "sgd":
            raise ValueError(f"`optimiser` is {self.optimiser!r}; expected sgd, whose single step is the sum of k")

    @property
    def name(self) -> str:
        """What the run is called."""
        how = "one-step" if self.one_step else "steps"
        return f"open-supervised-{how}-{self.outer_iterations}-seed{self.seed}"

    @property
    def outputs(self) -> int:
        """How many classes the head has."""
        return self.train_classes * (4 if self.turned else 1)

    def split(self, data: ImageClasses, numbers: Numbers) -> tuple[Array, Array, Array]:
        """The characters to train on, to choose settings by, and to evaluate on."""
        return split_classes(data, numbers["seed"], self.train_classes, self.validation_classes)

    def _drawings(self, data, numbers, count, *, first, last):
        classes = self.split(data, numbers)[0]
        return Characters(jnp.asarray(data.images), classes, count, first, last, self.turned)

    def learner(self, data: ImageClasses, numbers: Numbers) -> Learner:
        """The training that this configuration describes, on a dataset."""
        k, rate = self.inner_iterations, numbers["learning_rate"]
        inner = optax.sgd(rate) if self.optimiser == "sgd" else reference_adam(rate)
        settings: dict[str, Any] = dict(steps=k, batch_size=self.inner_batch_size, schedule=cycle)
        gradient = one_step(rate, k, self.amplified) if self.one_step else None
        return Learner(
            lambda key: OmniglotNetwork(self.outputs, key=key),
            self._drawings(data, numbers, k * self.inner_batch_size, first=0, last=15),
            gradient or reptile(mean_cross_entropy, inner, **settings),
            annealed_sgd(numbers["outer_step_size"], self.outer_iterations),
        )

    def measurements(self, data: ImageClasses, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """Accuracy and loss on 200 drawings that were not trained on; the loss on 200 that were; and the inner product
        and cosine of the gradients of two mini-batches of the latter."""
        size = self.inner_batch_size
        unseen = self._drawings(data, numbers, 200, first=15, last=20)
        seen = self._drawings(data, numbers, 200, first=0, last=15)

        def measure(state, key):
            test, training = unseen(key).support, seen(jax.random.fold_in(key, 1)).support
            one, other = (jax.tree.map(lambda leaf, i=i: leaf[i : i + size], training) for i in (0, size))
            product, cosine = agreement(state.model, one, other)
            logits = state.model(test[0])
            return {
                "test accuracy": jnp.mean(logits.argmax(1) == test[1]),
                "test loss": mean_cross_entropy(state.model, test),
                "training loss": mean_cross_entropy(state.model, training),
                "inner product": product,
                "cosine": cosine,
            }

        def summarise(values):
            return {name: mean_and_interval(leaf) for name, leaf in values.items()}

        return (Measurement("seen", self.eval_tasks if final else self.curve_tasks, measure, summarise),)


def one_step(rate: Any, steps: int, amplified: float) -> MetaGradient:
    """The single step α·k·ḡ on all of a task's examples, and `amplified` times what k steps have beside it.

    That is -½k(k-1)α²·AvgGradInner (eq. 41). AvgGradInner = ½·∂⟨g_a, g_b⟩/∂φ (eq. 32), for the two halves a and b of
    the examples.
    """

    def start(model):
        return start_optimiser(optax.sgd(rate), model)

    def estimate(model, state, task, key):
        parameters, rest = trainable(model)
        half = task.support[1].shape[0] // 2
        first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], task.support) for s in _halves(half))

        def objective(p):
            def gradient(examples):
                return jax.grad(lambda q: mean_cross_entropy(eqx.combine(q, rest), examples))(p)

            loss = mean_cross_entropy(eqx.combine(p, rest), task.support)
            if not amplified:
                return loss, loss
            return loss - amplified * rate * (steps - 1) / 4 * _inner(gradient(first), gradient(second)), loss

        direction, loss = jax.grad(objective, has_aux=True)(parameters)
        return jax.tree.map(lambda g: rate * steps * g, direction), state, loss

    return MetaGradient(start, estimate)


def _halves(half):
    return slice(0, half), slice(half, 2 * half)


def agreement(model: PyTree, one: PyTree, other: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The inner product of the gradients of the mean cross-entropy on two mini-batches, and its cosine."""
    parameters, rest = trainable(model)
    first, second = (
        jax.grad(lambda p, examples=examples: mean_cross_entropy(eqx.combine(p, rest), examples))(parameters)
        for examples in (one, other)
    )
    product = _inner(first, second)
    return product, product / jnp.sqrt(_inner(first, first) * _inner(second, second))


def _inner(one, other):
    products = jax.tree.map(lambda a, b: jnp.vdot(a, b, precision="highest"), one, other)
    return sum(jax.tree.leaves(products))
