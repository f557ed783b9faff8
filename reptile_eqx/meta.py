"""Meta-gradients: what an algorithm does with the k updates that the inner loop makes on a task.

From φ the inner loop takes k steps and gives k updates u_i = φ_i - φ_{i+1}; with SGD, u_i = α·g_i (eq. 10). The
meta-gradient is Σ w_i u_i:

| w | algorithm |
|---|---|
| (1, 0, …, 0) | joint training on the expected loss |
| (0, …, 0, 1) | first-order MAML |
| (1, 1, …, 1) | Reptile: the sum telescopes to φ - φ̃ |
| any other | the combinations of Section 6.2 |

MAML alone needs the derivative through the inner loop.

Each function here makes a `training.MetaGradient`: a pair of pure functions, like an optax transformation.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .checks import whole
from .inner import Loss, adapt, loss_of, start_optimiser, trainable
from .optimisers import check_differentiable, check_schedule
from .tasks import Examples, Task, count_examples, cycle, minibatches
from .training import MetaGradient


def gradient_combination(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    weights: Sequence[float] | Float[Array | np.ndarray, " k"],
    *,
    batch_size: int,
    schedule: Callable = cycle,
    separate_tail: bool = False,
    inner_state: str = "rolling",
    gradients: bool = False,
) -> MetaGradient:
    """Any weighted sum Σ w_i u_i of the inner loop's k updates (Section 6.2).

    The meta-gradient *is* the inner updates. So a parameter that the inner optimiser holds still, whose updates are
    zero, does not move in the outer loop either. With `gradients` it does, as in ANIL.

    **Arguments:**

    - `loss`: maps a model and a batch to a scalar.
    - `optimiser`: the inner loop's optax transformation.
    - `weights`: w, one for each of the k inner steps; plain numbers or an array.
    - `batch_size`: examples in each inner mini-batch.
    - `schedule`: how mini-batches are cut from the task's support: `tasks.cycle` or `tasks.replacement`.
    - `separate_tail`: whether the last batch is the task's whole query, set aside from the rest (Section 6.3);
      otherwise it comes from the support like the others (*shared tail*).
    - `inner_state`: "rolling", the paper's: the optimiser's state goes on from task to task, so that Adam's second
      moments are known before a task's first step. "fresh": every task starts with a new one, as momentum or a schedule
      over the inner steps wants it.
    - `gradients`: sum the steps' gradients g_i (eq. 40) instead of their updates u_i. With SGD that is Σ w_i u_i / α.

    **Returns:** a `MetaGradient`; raises `ValueError` for no weights and empty batches; when a training starts, for a
    rolling schedule that ends with the first task; and when a task comes without the query that a separate tail needs.
    """
    steps = len(weights)
    steps, batch_size = _checked(optimiser, steps, batch_size)

    def estimate(model, state, task, key):
        groups = _batches(task, schedule, key, batch_size, steps, separate_tail)
        direction, state, losses = _weighted_sum(loss, optimiser, model, state, groups, weights, gradients)
        return direction, state, losses.mean()

    return _meta_gradient(optimiser, steps, inner_state, estimate)


def reptile(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable = cycle,
    inner_state: str = "rolling",
) -> MetaGradient:
    """Reptile's meta-gradient φ - φ̃, with φ̃ = U^k(φ) and k = `steps` (Algorithm 1): all weights 1.

    The other arguments are `gradient_combination`'s.
    """
    steps, batch_size = _checked(optimiser, steps, batch_size)
    weights = (1.0,) * steps
    return gradient_combination(
        loss, optimiser, weights, batch_size=batch_size, schedule=schedule, inner_state=inner_state
    )


def fomaml(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable = cycle,
    separate_tail: bool = True,
    inner_state: str = "rolling",
    gradients: bool = False,
) -> MetaGradient:
    """First-order MAML: the last of the inner loop's k = `steps` updates, all weights 0 but the last 1 (eq. 38).

    The authors take the last step's *update*. Finn et al. take its *gradient*: `gradients=True`. The gradient also
    moves what the inner optimiser holds still. The other arguments are `gradient_combination`'s.
    """
    steps, batch_size = _checked(optimiser, steps, batch_size)
    weights = (0.0,) * (steps - 1) + (1.0,)
    return gradient_combination(
        loss,
        optimiser,
        weights,
        batch_size=batch_size,
        schedule=schedule,
        separate_tail=separate_tail,
        inner_state=inner_state,
        gradients=gradients,
    )


def joint_training(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    batch_size: int,
    schedule: Callable = cycle,
    inner_state: str = "rolling",
) -> MetaGradient:
    """Training on the expected loss over tasks, E[L_τ]: a single inner step, weights (1,) (eqs. 6-7).

    The other arguments are `gradient_combination`'s.
    """
    return gradient_combination(
        loss, optimiser, (1.0,), batch_size=batch_size, schedule=schedule, inner_state=inner_state
    )


def maml(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    schedule: Callable = cycle,
    separate_tail: bool = True,
    inner_state: str = "rolling",
) -> MetaGradient:
    """MAML: ∂L_k(φ_k)/∂φ, differentiated through the inner loop's first k - 1 steps (eqs. 3-4, 17-21).

    `steps` is k, the number of batches that a task is cut into, as in `fomaml`. The last of them only judges, so there
    are `steps - 1` inner steps. Activations of one inner step at a
    time are kept and the others recomputed, so memory does not grow with k but for the parameters. The other
    arguments are `gradient_combination`'s.

    What the inner optimiser holds still (`optimisers.only`) still learns in the outer loop. `optax.adam` inside gives
    NaN where a parameter's gradient is 0, as √v has no derivative there: take `reference_adam`, or
    `optax.adam(…, eps_root=1e-8)`. Such an optimiser is warned of when a training starts.
    """
    steps, batch_size = _checked(optimiser, steps, batch_size)

    def estimate(model, state, task, key):
        *before, last = _batches(task, schedule, key, batch_size, steps, separate_tail)
        if not separate_tail:
            before, last = [jax.tree.map(lambda leaf: leaf[:-1], last)], jax.tree.map(lambda leaf: leaf[-1:], last)
        parameters, rest = trainable(model)

        def judged(parameters):
            adapted, rolled, losses = eqx.combine(parameters, rest), state, []
            for batches in before:
                adapted, rolled, seen, _ = adapt(loss, optimiser, adapted, rolled, batches, checkpoint=True)
                losses.append(seen)
            value = loss_of(loss, adapted, jax.tree.map(lambda leaf: leaf[0], last))
            return value, (rolled, jnp.concatenate([*losses, value[None]]).mean())

        gradient, (rolled, mean) = jax.grad(judged, has_aux=True)(parameters)
        return gradient, rolled, mean

    return _meta_gradient(optimiser, max(1, steps - 1), inner_state, estimate, check_differentiable)


def _checked(optimiser, steps, batch_size):
    """The two numbers, as integers."""
    if not hasattr(optimiser, "update"):
        raise TypeError(f"`optimiser` is an optax transformation; given {optimiser!r}: the loss comes first")
    return whole("steps", steps), whole("batch_size", batch_size)


def _meta_gradient(optimiser, steps, inner_state, estimate, check=lambda optimiser, model: None):
    """A `MetaGradient` whose optimiser is looked over, as far as that can be done, when a training starts."""
    if inner_state not in ("rolling", "fresh"):
        raise ValueError(f"`inner_state` is {inner_state!r}; expected 'rolling' or 'fresh'")

    def start(model):
        state = start_optimiser(optimiser, model)
        check(optimiser, model)
        if inner_state == "rolling":
            check_schedule(optimiser, model, steps)
        return state

    def estimate_afresh(model, state, task, key):
        direction, _, loss = estimate(model, start_optimiser(optimiser, model), task, key)
        return direction, state, loss

    return MetaGradient(start, estimate if inner_state == "rolling" else estimate_afresh)


def _batches(
    task: Task, schedule: Callable, key: PRNGKeyArray, batch_size: int, steps: int, separate_tail: bool
) -> list[Examples]:
    """A task's k mini-batches in groups of one shape, each with leading axes `(steps, batch)`."""
    if not separate_tail:
        return [minibatches(schedule, key, task.support, batch_size, steps)]
    if task.query is None or count_examples(task.query) == 0:
        raise ValueError("a separate tail is a task's query, and these tasks have none: set examples aside for it")
    tail = jax.tree.map(lambda leaf: leaf[None], task.query)
    return [minibatches(schedule, key, task.support, batch_size, steps - 1), tail] if steps > 1 else [tail]


def _weighted_sum(loss, optimiser, model, state, groups, weights, gradients):
    """Σ w_i u_i over the mini-batches of all groups, or Σ w_i g_i; the optimiser's state after them; the losses."""
    parameters, _ = trainable(model)
    # Equal weights telescope to w·(φ - φ̃), which saves a pass over the parameters each step.
    telescopes = isinstance(weights, Sequence) and len(set(weights)) == 1 and not gradients
    adapted, total, losses, done = model, jax.tree.map(jnp.zeros_like, parameters), [], 0
    for batches in groups:
        count = count_examples(batches)
        own = None if telescopes else jnp.asarray(weights)[done : done + count]
        adapted, state, seen, some = adapt(loss, optimiser, adapted, state, batches, weights=own, gradients=gradients)
        total = total if telescopes else jax.tree.map(jnp.add, total, some)
        losses.append(seen)
        done += count
    if telescopes:
        after, _ = trainable(adapted)
        total = jax.tree.map(lambda a, b: weights[0] * (a - b), parameters, after)
    return total, state, jnp.concatenate(losses)
