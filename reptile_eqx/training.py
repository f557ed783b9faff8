"""The outer loop: one pure function of a key per seed, and seeds side by side on every device there is."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .meta import MetaGradient
from .tasks import Task


class Learner(NamedTuple):
    """All that meta-training needs to know.

    - `model`: makes a fresh model from a key.
    - `tasks`: the task distribution, any function from a key to a `Task`.
    - `gradient`: the algorithm, such as `reptile(…)`.
    - `outer`: any optax transformation, given the mean meta-gradient, such as `annealed_sgd(1.0, iterations)`.
    - `meta_batch_size`: tasks per outer iteration (n in eq. 5; 1 is the serial Algorithm 1).
    """

    model: Callable[[PRNGKeyArray], PyTree]
    tasks: Callable[[PRNGKeyArray], Task]
    gradient: MetaGradient
    outer: optax.GradientTransformation
    meta_batch_size: int = 1


class State(NamedTuple):
    """Where one seed's training stands: everything that the rest of it depends on."""

    model: PyTree
    inner: PyTree
    outer: PyTree
    iteration: Int[Array, ""]
    key: PRNGKeyArray


def annealed_sgd(step_size: float | Float[Array, ""], iterations: int) -> optax.GradientTransformation:
    """φ ← φ - ε_t·g with ε_t = ε₀·(1 - t/T): the outer loop of every experiment in the paper (Appendix A).

    With `reptile`'s φ - φ̃ as g this is φ ← φ + ε_t(φ̃ - φ).
    """
    return optax.sgd(lambda t: step_size * (1 - t / iterations))


def start(learner: Learner, key: PRNGKeyArray) -> State:
    """The state before the first outer iteration; all that follows depends on `key` alone."""
    model_key, training_key = jax.random.split(key)
    model = learner.model(model_key)
    outer = learner.outer.init(eqx.filter(model, eqx.is_inexact_array))
    return State(model, learner.gradient.start(model), outer, jnp.zeros((), jnp.int32), training_key)


def outer_iteration(learner: Learner, state: State) -> tuple[State, Float[Array, ""]]:
    """One outer iteration (eq. 5). Returns the next state and the mean loss of its inner steps.

    The tasks of a meta-batch run one after another: each starts from the same φ, but from the inner optimiser's
    state that the task before left, which is never reset (Section 6.1).
    """
    parameters = eqx.filter(state.model, eqx.is_inexact_array)

    def one_task(carry, key):
        inner, total = carry
        task_key, batch_key = jax.random.split(key)
        gradient, inner, loss = learner.gradient.estimate(state.model, inner, learner.tasks(task_key), batch_key)
        return (inner, jax.tree.map(jnp.add, total, gradient)), loss

    keys = jax.random.split(jax.random.fold_in(state.key, state.iteration), learner.meta_batch_size)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    (inner, total), losses = jax.lax.scan(one_task, (state.inner, zeros), keys)
    mean = jax.tree.map(lambda g: g / learner.meta_batch_size, total)
    updates, outer = learner.outer.update(mean, state.outer, parameters)
    model = eqx.apply_updates(state.model, updates)
    return State(model, inner, outer, state.iteration + 1, state.key), losses.mean()


def train(learner: Learner, state: State, iterations: int | Int[Array, ""]) -> tuple[State, Float[Array, ""]]:
    """`iterations` outer iterations in one compiled loop. Returns the state and their mean inner loss.

    Splitting a training into several calls changes nothing in its result.
    """
    moving, still = eqx.partition(state, eqx.is_array)

    def body(_, carry):
        moving, total = carry
        state, loss = outer_iteration(learner, eqx.combine(moving, still))
        return eqx.filter(state, eqx.is_array), total + loss

    dtype = jnp.result_type(float)
    moving, total = jax.lax.fori_loop(0, iterations, body, (moving, jnp.zeros((), dtype)))
    return eqx.combine(moving, still), total / iterations
