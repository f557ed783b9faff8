"""Meta-gradients: what an algorithm does with the k updates that the inner loop makes on a task.

A meta-gradient is a pair of pure functions, like an optax transformation: `start(model)` gives the inner
optimiser's state, `estimate(model, state, task, key)` the direction for the outer optimiser on one task.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .inner import Loss, adapt, start_optimiser
from .tasks import Task, cycle, minibatches


class MetaGradient(NamedTuple):
    """`start(model) -> state` and `estimate(model, state, task, key) -> gradient, state, loss`.

    `gradient` has the structure of the model's trainable arrays; `state` is the inner optimiser's, which rolls
    on from task to task; `loss` is the mean of the inner steps' losses.
    """

    start: Callable[[PyTree], PyTree]
    estimate: Callable[[PyTree, PyTree, Task, PRNGKeyArray], tuple[PyTree, PyTree, Float[Array, ""]]]


def reptile(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable = cycle,
    step_size: float | None = None,
) -> MetaGradient:
    """Reptile's meta-gradient φ - φ̃, with φ̃ = U^k(φ) (Algorithm 1).

    **Arguments:**

    - `loss`: maps a model and a batch to a scalar.
    - `optimiser`: the inner loop's optax transformation.
    - `steps`: k. With k = 1 and SGD this is joint training on the expected loss (eqs. 6-7).
    - `batch_size`: examples in each inner mini-batch.
    - `schedule`: how mini-batches are cut from the task's support: `tasks.cycle` or `tasks.replacement`.
    - `step_size`: α, to have (φ - φ̃)/α, the definition natural for SGD (Sections 3 and 5.1).

    **Returns:** a `MetaGradient`; raises `ValueError` for fewer than one step or one example a batch.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"the inner loop needs at least 1 step and 1 example a batch, not {steps} and {batch_size}")
    scale = 1.0 if step_size is None else 1.0 / step_size

    def estimate(model, state, task, key):
        batches = minibatches(schedule, key, task.support, batch_size, steps)
        adapted, state, losses = adapt(loss, optimiser, model, state, batches)
        before, after = (eqx.filter(m, eqx.is_inexact_array) for m in (model, adapted))
        return jax.tree.map(lambda a, b: scale * (a - b), before, after), state, losses.mean()

    return MetaGradient(lambda model: start_optimiser(optimiser, model), estimate)


def joint_training(
    loss: Loss, optimiser: optax.GradientTransformation, *, batch_size: int, schedule: Callable = cycle
) -> MetaGradient:
    """Training on the expected loss over tasks, E[L_τ]: Reptile with a single inner step (eqs. 6-7)."""
    return reptile(loss, optimiser, steps=1, batch_size=batch_size, schedule=schedule)
