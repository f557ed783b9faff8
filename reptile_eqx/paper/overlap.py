"""Section 6.3's explanation of Figure 4: what a gradient still says on images that the inner loop has seen."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..inner import Loss, adapt, loss_of, start_optimiser, trainable
from ..tasks import Task, cycle, minibatches


@eqx.filter_jit
def gradients_left(
    loss: Loss,
    model: PyTree,
    tasks: Callable[[PRNGKeyArray], Task],
    keys: PRNGKeyArray,
    step_size: float = 3e-3,
    batch_size: int = 25,
    steps: int = 4,
) -> dict[str, Float[Array, " task"]]:
    """How long the gradient still is after the inner loop, as a share of what it was before, for each of some tasks.

    Of a task's support the inner loop goes through `steps` mini-batches that do not overlap, by SGD as in Table 6. The
    gradient is that on the batch seen first, on the one seen last, and on the query, which was not seen.
    """
    optimiser = optax.sgd(step_size)

    def of_task(key):
        task_key, batch_key = jax.random.split(key)
        task = tasks(task_key)
        batches = minibatches(cycle, batch_key, task.support, batch_size, steps)
        adapted = adapt(loss, optimiser, model, start_optimiser(optimiser, model), batches).model
        first, last = (jax.tree.map(lambda leaf, i=i: leaf[i], batches) for i in (0, -1))
        sets = {"seen first": first, "seen last": last, "not seen": task.query}
        return {name: _length(loss, adapted, some) / _length(loss, model, some) for name, some in sets.items()}

    return jax.lax.map(of_task, keys)


def _length(loss, model, examples):
    parameters, rest = trainable(model)
    gradient = jax.grad(lambda p: loss_of(loss, eqx.combine(p, rest), examples))(parameters)
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
