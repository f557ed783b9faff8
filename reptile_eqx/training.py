"""The outer loop: meta-training as one pure function of a state."""

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .checks import whole
from .hardware import hardware
from .inner import trainable
from .tasks import Task, check_tasks


class MetaGradient(NamedTuple):
    """What the outer loop asks of an algorithm (`meta` has the paper's).

    `start(model) -> state` and `estimate(model, state, task, key) -> gradient, state, loss`.

    `gradient` has the structure of the model's trainable arrays; `state` is the inner optimiser's, which rolls
    on from task to task; `loss` is the mean of the inner steps' losses.
    """

    start: Callable[[PyTree], PyTree]
    estimate: Callable[[PyTree, PyTree, Task, PRNGKeyArray], tuple[PyTree, PyTree, Float[Array, ""]]]


class Learner(NamedTuple):
    """All that meta-training needs to know.

    - `model`: makes a fresh model from a key.
    - `tasks`: the task distribution, any function from a key to a `Task`.
    - `gradient`: the algorithm, such as `reptile(…)`.
    - `outer`: any optax transformation, given the mean meta-gradient, such as `annealed_sgd(1.0, iterations)`.
    - `meta_batch_size`: tasks per outer iteration (n in eq. 5; 1 is the serial Algorithm 1).
    - `merge`: `None` for the authors' *exact* order, in which the inner optimiser's state rolls from task to task. With
      a function, such as `merge_average` or `merge_adam(0.999)`, the *parallel* order: tasks start together, and
      `merge(before, after)` makes one state of those they leave (`after`, with a leading axis of tasks).
    """

    model: Callable[[PRNGKeyArray], PyTree]
    tasks: Callable[[PRNGKeyArray], Task]
    gradient: MetaGradient
    outer: optax.GradientTransformation
    meta_batch_size: int = 1
    merge: Callable[[PyTree, PyTree], PyTree] | None = None


class State(NamedTuple):
    """Where one seed's training stands: everything that the rest of it depends on."""

    model: PyTree
    inner: PyTree
    outer: PyTree
    iteration: Int[Array, ""]
    key: PRNGKeyArray


def start(learner: Learner, key: PRNGKeyArray) -> State:
    """The state before the first outer iteration; all that follows depends on `key` alone.

    The state keeps its key as plain numbers, as `jax.random.PRNGKey` does, which can be written to a file.

    Raises `ValueError` for a meta-batch without tasks, and for a model that has nothing to train; `TypeError` where
    `tasks` cannot be compiled. Warns of tasks whose random numbers do not come from their key.
    """
    check_tasks(learner.tasks)
    if not isinstance(learner.meta_batch_size, Integral):
        whole("meta_batch_size", learner.meta_batch_size)
        raise ValueError(f"`meta_batch_size` is {learner.meta_batch_size!r}; expected an integer")
    whole("meta_batch_size", learner.meta_batch_size)
    model_key, training_key = jax.random.split(key)
    if jnp.issubdtype(training_key.dtype, jax.dtypes.prng_key) and training_key.dtype == jax.random.key(0).dtype:
        training_key = jax.random.key_data(training_key)
    model = learner.model(model_key)
    outer = learner.outer.init(trainable(model)[0])
    return State(model, learner.gradient.start(model), outer, jnp.zeros((), jnp.int32), training_key)


def outer_iteration(learner: Learner, state: State, task_axis: str | None = None) -> tuple[State, Float[Array, ""]]:
    """One outer iteration (eq. 5). Returns the next state and the mean loss of its inner steps.

    Both orders draw the same tasks. With SGD inside they are the same to rounding; with Adam, parallel order is an
    approximation, as a task no longer sees what those before it did to the second moments.

    `task_axis` names the axis of a device mesh, inside `jax.shard_map`, over which parallel order spreads the tasks.
    """
    parameters = trainable(state.model)[0]
    keys = jax.random.split(jax.random.fold_in(state.key, state.iteration), learner.meta_batch_size)
    if learner.merge is None:
        mean, inner, losses = exact_order(learner, state, keys)
    else:
        mean, inner, losses = parallel_order(learner, state, keys, learner.merge, task_axis)
    updates, outer = learner.outer.update(mean, state.outer, parameters)
    model = eqx.apply_updates(state.model, updates)
    return State(model, inner, outer, state.iteration + 1, state.key), losses.mean()


def exact_order(learner: Learner, state: State, keys: Array) -> tuple[PyTree, PyTree, Float[Array, " task"]]:
    """The exact order: each task starts from the same φ, but from the inner optimiser's state that the task before
    left, which is never reset (Section 6.1). One task for each of `keys`.

    Returns the mean meta-gradient, the inner optimiser's state after the last task, and each task's mean loss.
    """

    def one_task(carry, key):
        inner, total = carry
        gradient, inner, loss = _one_task(learner, state.model, inner, key)
        return (inner, jax.tree.map(jnp.add, total, gradient)), loss

    zeros = jax.tree.map(jnp.zeros_like, trainable(state.model)[0])
    (inner, total), losses = jax.lax.scan(one_task, (state.inner, zeros), keys)
    return jax.tree.map(lambda g: g / keys.shape[0], total), inner, losses


def parallel_order(
    learner: Learner, state: State, keys: Array, merge: Callable[[PyTree, PyTree], PyTree], task_axis: str | None = None
) -> tuple[PyTree, PyTree, Float[Array, " task"]]:
    """The parallel order: each task starts from the same φ *and* the same inner state, and `merge` makes one state of
    those they leave. Arguments and result otherwise as `exact_order` and `outer_iteration` have them.

    The result does not depend on how many devices `task_axis` has: they gather all tasks, then take the mean.
    """
    count, devices = keys.shape[0], 1 if task_axis is None else jax.lax.axis_size(task_axis)
    share = -(-count // devices)
    if devices > 1:
        keys = keys[(jax.lax.axis_index(task_axis) * share + jnp.arange(share)) % count]
    # A core does one task after another; a GPU all of its share in one batch.
    together = {} if hardware().cpu else {"batch_size": share}
    outcomes = jax.lax.map(lambda key: _one_task(learner, state.model, state.inner, key), keys, **together)
    if devices > 1:
        everyone = jax.lax.all_gather(outcomes, task_axis, tiled=True)
        outcomes = jax.tree.map(lambda leaf: leaf[:count], everyone)
    gradients, after, losses = outcomes
    return jax.tree.map(lambda g: g.mean(0), gradients), merge(state.inner, after), losses


def _one_task(learner, model, inner, key):
    task_key, batch_key = jax.random.split(key)
    return learner.gradient.estimate(model, inner, learner.tasks(task_key), batch_key)


def advance(
    learner: Learner, state: State, iterations: int | Int[Array, ""], task_axis: str | None = None
) -> tuple[State, Float[Array, ""]]:
    """What `train` does, for a caller who checks whether anything moved; `task_axis` is `outer_iteration`'s."""
    moving, still = eqx.partition(state, eqx.is_array)

    def body(_, carry):
        moving, total = carry
        state, loss = outer_iteration(learner, eqx.combine(moving, still), task_axis)
        return eqx.filter(state, eqx.is_array), total + loss

    dtype = jnp.result_type(float)
    moving, total = jax.lax.fori_loop(0, iterations, body, (moving, jnp.zeros((), dtype)))
    return eqx.combine(moving, still), total / iterations


def train(learner: Learner, state: State, iterations: int | Int[Array, ""]) -> tuple[State, Float[Array, ""]]:
    """`iterations` outer iterations in one compiled loop. Returns the state and their mean inner loss.

    Splitting a training into several calls changes nothing in its result. Warns where no parameter changed.
    """
    after, loss = advance(learner, state, iterations)
    jax.debug.callback(_tell, unmoved(state.model, after.model) & (iterations > 0))
    return after, loss


def unmoved(before: PyTree, after: PyTree) -> Bool[Array, ""]:
    """Whether two models have the same arrays, to the bit."""
    pairs = zip(*(jax.tree.leaves(eqx.filter(model, eqx.is_array)) for model in (before, after)), strict=True)
    return jnp.stack([jnp.array_equal(a, b) for a, b in pairs]).all()


NOTHING_MOVED = (
    "training changed no parameter: the outer step size is 0, as after annealed_sgd's last iteration (give it as many "
    "iterations as you train), or the meta-gradient is"
)


def _tell(nothing_moved):
    if nothing_moved:
        warnings.warn(NOTHING_MOVED, stacklevel=2)
