"""Few-shot evaluation: adapt to an unseen task, then judge the adapted model. Nothing leaks to the next task."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .inner import Loss, adapt, start_optimiser
from .losses import check_labels
from .tasks import Task, cycle, minibatches


class Accuracy(NamedTuple):
    """Share of a task's held-out images that the adapted model gets right, between 0 and 1."""

    alone: Float[Array, ""]
    transductive: Float[Array, ""]


def few_shot_accuracy(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    model: PyTree,
    state: PyTree,
    task: Task,
    key: PRNGKeyArray,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable = cycle,
) -> Accuracy:
    """Adapt to a classification task's support and classify its query, both ways of Section 6.1.

    *Transductive*: all held-out images share one batch, and through batch norm one another's statistics.
    *Non-transductive* (`alone`): each is classified in a batch of the whole support and itself.

    **Arguments:**

    - `loss`, `optimiser`: the inner loop's.
    - `model`: maps a batch of images to logits.
    - `state`: the inner optimiser's state at the end of training, which adaptation starts from. The function is
      pure, so the caller's state is as it was afterwards.
    - `task`: pairs `(x, labels)` as support and query.
    - `steps`, `batch_size`, `schedule`: of the adaptation (Tables 3 and 4: "Eval. inner …").

    Raises `ValueError` for a task without a query, and for labels that the model has no output for; inside a compiled
    program these make the accuracy NaN.
    """
    if task.query is None:
        raise ValueError("accuracy is measured on a task's query, and this one has none: give `FewShot` `queries=1`")
    if len(task.query) != 2 or len(task.support) != 2:
        raise ValueError(
            "accuracy is measured on pairs (x, labels), and this task has more, such as the mask of a padded one: "
            "padding would share the batch norm of the real examples"
        )
    x, labels = task.query
    batches = minibatches(schedule, key, task.support, batch_size, steps)
    model = adapt(loss, optimiser, model, state, batches).model
    alone, together = classify_alone(model, task.support[0], x), model(x)
    every, ways = jnp.concatenate([task.support[1], labels]), together.shape[-1]
    check_labels(every, ways)
    known = ((every >= 0) & (every < ways)).all()

    def share(logits):
        right = (logits.argmax(-1) == labels).mean(dtype=jnp.result_type(float))
        return jnp.where(known, right, jnp.nan)

    return Accuracy(share(alone), share(together))


def classify_alone(model: PyTree, support: Array, x: Array) -> Float[Array, "example way"]:
    """Logits of each of `x` in a batch of the whole `support` and itself (Section 6.1's non-transductive setting)."""
    return jax.vmap(lambda one: model(jnp.concatenate([support, one[None]]))[-1])(x)


class _Measure(eqx.Module):
    """How to adapt to tasks drawn from a distribution, of which something is then measured."""

    tasks: Callable[[PRNGKeyArray], Task]
    loss: Loss = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    schedule: Callable = eqx.field(static=True, default=cycle)


class QueryAccuracy(_Measure):
    """`few_shot_accuracy` on tasks drawn from a distribution, as `fit` measures: `measure(model, inner, key)`.

    - `tasks`: makes a task with a query from a key, such as `FewShot(…, queries=1)`.
    - `loss`, `optimiser`, `steps`, `batch_size`, `schedule`: of the adaptation.
    """

    def __call__(self, model: PyTree, inner: PyTree, key: PRNGKeyArray) -> Accuracy:
        """Accuracy on one task."""
        task_key, batch_key = jax.random.split(key)
        settings: dict[str, Any] = dict(steps=self.steps, batch_size=self.batch_size, schedule=self.schedule)
        return few_shot_accuracy(self.loss, self.optimiser, model, inner, self.tasks(task_key), batch_key, **settings)


class QueryLoss(_Measure):
    """The loss on a task's query before and after adaptation; fields are `QueryAccuracy`'s."""

    def __call__(self, model: PyTree, inner: PyTree, key: PRNGKeyArray) -> dict[str, Float[Array, ""]]:
        """`before` and `after` of one task."""
        task_key, batch_key = jax.random.split(key)
        task = self.tasks(task_key)
        if task.query is None:
            raise ValueError("the loss is measured on a task's query, and these have none: set examples aside for it")
        batches = minibatches(self.schedule, batch_key, task.support, self.batch_size, self.steps)
        adapted = adapt(self.loss, self.optimiser, model, inner, batches).model
        return {"before": self.loss(model, task.query), "after": self.loss(adapted, task.query)}


def adaptation(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    model: PyTree,
    task: Task,
    steps: int,
    watch: Callable,
    state: PyTree = None,
) -> PyTree[Array]:
    """What `watch(model)` gives before and after each of `steps` full-batch steps on the task's support.

    Returns `watch`'s pytree with a leading axis of `steps + 1`. The optimiser starts from `state`, or fresh.
    """
    everything = jax.tree.map(lambda leaf: leaf[None], task.support)

    def step(carry, _):
        model, state = eqx.combine(carry, still)
        seen = watch(model)
        model, state, *_ = adapt(loss, optimiser, model, state, everything)
        return eqx.filter((model, state), eqx.is_array), seen

    state = start_optimiser(optimiser, model) if state is None else state
    moving, still = eqx.partition((model, state), eqx.is_array)
    return jax.lax.scan(step, moving, None, length=steps + 1)[1]


def mean_and_interval(values: Array | np.ndarray) -> dict[str, Any]:
    """Mean over the first axis, of tasks, and half the width of its 95 % interval, as numbers or lists for JSON.

    Keys are `mean`, `ci95` (NaN for a single task) and `tasks`, how many there were.
    """
    values = np.asarray(values, np.float64)
    count = values.shape[0]
    spread = values.std(0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
    return {"mean": values.mean(0).tolist(), "ci95": (1.96 * spread / count**0.5).tolist(), "tasks": count}
