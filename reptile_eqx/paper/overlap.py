"""Section 6.3's explanation of Figure 4: what a gradient still says on images that the inner loop has seen."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from ..inner import Loss, adapt, loss_of, start_optimiser, trainable
from ..tasks import Task, cycle, minibatches


class Left(NamedTuple):
    """Of a mini-batch after the inner loop, for each task: how long its gradient still is, as a share of what it was
    before, and what a step along it takes off the query's loss."""

    length: Float[Array, " task"]
    gain: Float[Array, " task"]


@eqx.filter_jit
def what_is_left(
    loss: Loss,
    model: PyTree,
    tasks: Callable[[PRNGKeyArray], Task],
    keys: Key[Array, " task"],
    step_size: float = 3e-3,
    batch_size: int = 25,
    steps: int = 2,
) -> dict[str, Left]:
    """What is left of a gradient after the inner loop: on a batch that was seen, and on one that was not.

    **Arguments:**

    - `loss`, `model`, `tasks`: of a support of at least `(steps + 1) * batch_size` examples, and with a query.
    - `keys`: one for each task.
    - `step_size`, `batch_size`, `steps`: the inner loop goes through `steps` mini-batches of the support that do not
      overlap, by SGD as in Table 6. A further one is kept.

    Raises `ValueError` for a support that is too small for that.

    **Returns:** for the batch "seen first", the one "seen last", and the one "not seen", what is `Left`.
    """
    optimiser = optax.sgd(step_size)

    def of_task(key):
        task_key, batch_key = jax.random.split(key)
        task = tasks(task_key)
        if (size := len(jax.tree.leaves(task.support)[0])) < (steps + 1) * batch_size:
            raise ValueError(f"{steps + 1} batches of {batch_size} that do not overlap take more than {size} examples")
        batches = minibatches(cycle, batch_key, task.support, batch_size, steps + 1)

        def after(model, part):
            some = jax.tree.map(lambda leaf: leaf[part], batches)
            return adapt(loss, optimiser, model, start_optimiser(optimiser, model), some).model

        def left(place):
            batch = jax.tree.map(lambda leaf: leaf[place], batches)
            share = _length(loss, adapted, batch) / _length(loss, model, batch)
            stepped = after(adapted, slice(place, place + 1))
            return Left(share, loss_of(loss, adapted, task.query) - loss_of(loss, stepped, task.query))

        adapted = after(model, slice(0, steps))
        return {"seen first": left(0), "seen last": left(steps - 1), "not seen": left(steps)}

    return jax.lax.map(of_task, keys)


def _length(loss, model, examples):
    parameters, rest = trainable(model)
    gradient = jax.grad(lambda p: loss_of(loss, eqx.combine(p, rest), examples))(parameters)
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
