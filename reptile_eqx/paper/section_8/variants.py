"""Deeper networks and regularisers: Reptile as in Section 6.1, with one thing changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree, UInt32

from ...datasets.common import ImageClasses
from ...evaluation import mean_and_interval
from ...few_shot import FewShot
from ...inner import Loss, adapt, trainable
from ...meta import reptile
from ...nn import ConvNetwork
from ...nn.networks import ConvBlock
from ...runs.configuration import Measurement, Numbers
from ...tasks import SCHEDULES, Task, cycle, minibatches
from ...training import Learner, MetaGradient
from ..experiments import FewShotClassification

SPLITS = ("training", "validation", "evaluation")
QUERIES = 5
"""Drawings of each class that accuracy is measured on."""


class DeepNetwork(ConvNetwork):
    """The paper's four blocks with more of them after the third, which keep its resolution of 4×4, and dropout.

    With `residual` each of these adds its input to its output. Dropout follows every block.
    """

    deeper: tuple[ConvBlock, ...]
    residual: bool = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        ways: int,
        *,
        blocks: int,
        filters: int = 64,
        residual: bool = False,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        """`blocks` in all, four or more; the first four are `OmniglotNetwork`'s, from the same key."""
        super().__init__(ways, (28, 28, 1), filters=filters, key=key)
        keys = jax.random.split(jax.random.fold_in(key, 1), blocks - 4)
        self.deeper = tuple(ConvBlock(filters, filters, stride=1, key=k) for k in keys)
        self.residual, self.dropout = residual, dropout

    def __call__(
        self, x: Float[Array, "batch 28 28 1"], keys: Key[Array, " batch"] | UInt32[Array, "batch words"] | None = None
    ) -> Float[Array, "batch way"]:
        """Logits of a batch of drawings. With `keys`, one for each, units are dropped; without, none are."""
        x = x.astype(jnp.promote_types(self.head.dtype, jnp.float32))
        for i, block in enumerate((*self.blocks[:3], *self.deeper, *self.blocks[3:])):
            x = block(x) + x if self.residual and block.stride == 1 else block(x)
            if keys is not None:
                x = _dropped(x, keys, i, self.dropout)
        return x.reshape(x.shape[0], -1) @ self.head + self.head_bias


def _dropped(x, keys, block, share):
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, block), 1 - share, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - share), 0)


@dataclass(frozen=True)
class Variant(FewShotClassification):
    """Reptile on Omniglot with another network, or held back from fitting its training characters too well.

    - `blocks`, `residual`, `filters`: the network's (`DeepNetwork`).
    - `dropout`: the share of units left out in the inner loop's steps while training; none in evaluation.
    - `weight_decay`: λ of the inner steps θ ← θ - α·(Adam's direction + λ·θ), also in evaluation.
    - `label_smoothing`: the share of a label that is spread over all classes, also in evaluation.
    - `pull`: μ of ½·μ·|θ - φ|², which the inner loop's loss has beside cross-entropies, also in evaluation.

    Accuracy is measured on the characters of `eval_splits`, to train on, to choose by, or to evaluate on (`SPLITS`),
    none of them turned: transductive, on `QUERIES` drawings of each.
    """

    numbers: ClassVar[tuple[str, ...]] = (*FewShotClassification.numbers, "weight_decay", "label_smoothing", "pull")
    measured: ClassVar[tuple[str, ...]] = (*FewShotClassification.measured, "eval_splits")

    blocks: int = 4
    residual: bool = False
    filters: int = 64
    dropout: float | int = 0.0
    weight_decay: float | int = 0.0
    label_smoothing: float | int = 0.0
    pull: float | int = 0.0
    eval_splits: tuple[str, ...] | list[str] = SPLITS

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "eval_splits", tuple(self.eval_splits))
        for field, given, holds, expected in (
            ("algorithm", self.algorithm, self.algorithm == "reptile", "reptile"),
            ("blocks", self.blocks, self.blocks >= 4, "4 or more"),
            ("filters", self.filters, self.filters >= 1, "1 or more"),
            ("dropout", self.dropout, self.dropout < 1, "less than 1"),
            ("label_smoothing", self.label_smoothing, self.label_smoothing < 1, "less than 1"),
            ("eval_splits", self.eval_splits, set(self.eval_splits) <= set(SPLITS), f"some of {', '.join(SPLITS)}"),
        ):
            if not holds:
                raise ValueError(f"`{field}` is {given!r}; expected {expected}")

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"open-{super().name}"

    def learner(self, data: Any, numbers: Numbers) -> Learner:
        """The training that this configuration describes, on a dataset."""
        plain = super().learner(data, numbers)
        settings: dict[str, Any] = dict(steps=self.inner_iterations, batch_size=self.inner_batch_size)
        optimiser, schedule = self._optimiser(numbers), SCHEDULES[self.schedule]

        def towards(loss):
            return reptile(loss, optimiser, schedule=schedule, **settings)

        def estimate(model, state, task, key):
            return towards(self._loss(model, numbers)).estimate(model, state, task, key)

        def start(model):
            return towards(self._loss(model, numbers)).start(model)

        return plain._replace(
            model=lambda key: DeepNetwork(
                self.ways,
                blocks=self.blocks,
                filters=self.filters,
                residual=self.residual,
                dropout=self.dropout,
                key=key,
            ),
            tasks=_WithKeys(plain.tasks) if self.dropout else plain.tasks,
            gradient=MetaGradient(start, estimate),
        )

    def _optimiser(self, numbers: Numbers) -> optax.GradientTransformation:
        rate = numbers["learning_rate"]
        # optax adds what it decays by to the updates, and these have their sign already.
        decay = optax.add_decayed_weights(-rate * numbers["weight_decay"])
        return optax.chain(self.inner_optimiser(rate), decay)

    def _loss(self, start: PyTree, numbers: Numbers) -> Loss:
        """The inner loop's loss, which knows where it started."""
        before, _ = trainable(start)

        def loss(model, batch):
            logits = model(batch[0], *batch[2:])
            labels = optax.smooth_labels(jax.nn.one_hot(batch[1], self.ways), numbers["label_smoothing"])
            away = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), trainable(model)[0], before)
            entropies = optax.softmax_cross_entropy(logits, labels).sum()
            return entropies + numbers["pull"] / 2 * sum(jax.tree.leaves(away))

        return loss

    def measurements(self, data: ImageClasses, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """Accuracy at each of `eval_splits` and of `eval_shots`."""
        optimiser = self._optimiser(numbers)

        def at(split, classes, shots, batch_size):
            tasks = FewShot(data.images, classes, self.ways, shots, QUERIES)

            def accuracy(state, key):
                task_key, batch_key = jax.random.split(key)
                task, loss = tasks(task_key), self._loss(state.model, numbers)
                batches = minibatches(cycle, batch_key, task.support, batch_size, self.eval_inner_iterations)
                adapted = adapt(loss, optimiser, state.model, state.inner, batches).model
                return jnp.mean(adapted(task.query[0]).argmax(1) == task.query[1])

            count = self.eval_tasks if final else self.curve_tasks
            return Measurement(f"{split} {shots}-shot", count, accuracy, mean_and_interval)

        classes = dict(zip(SPLITS, self.classes(data, numbers), strict=True))
        sizes = list(zip(self.eval_shots, self.eval_batch_sizes, strict=True))
        return tuple(at(split, classes[split], *size) for split in self.eval_splits for size in sizes)


class _WithKeys(eqx.Module):
    """Tasks whose support examples have a key each."""

    tasks: Callable[[PRNGKeyArray], Task]

    def __call__(self, key: PRNGKeyArray) -> Task:
        task = self.tasks(key)
        x, y = task.support
        return Task((x, y, jax.random.split(jax.random.fold_in(key, 1), len(y))), task.query)
