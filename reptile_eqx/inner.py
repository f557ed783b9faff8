"""The inner loop U^k: adapt a model to a task. Everything else in the paper is what is done with its k updates."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

Loss = Callable[[PyTree, PyTree], Float[Array, ""]]
"""A model and a mini-batch of examples (`tasks.Examples`) to a number."""


class Adapted(NamedTuple):
    """What the inner loop leaves: the adapted model φ̃, the optimiser's state after it, each step's loss before that
    step, shape `(steps,)`, and the weighted sum of its updates where weights were given."""

    model: PyTree
    state: PyTree
    losses: Float[Array, " steps"]
    update: PyTree | None


def adapt(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    model: PyTree,
    state: PyTree,
    batches: PyTree,
    *,
    weights: Float[Array, " steps"] | None = None,
    checkpoint: bool = False,
) -> Adapted:
    """Take one optimiser step per mini-batch: φ_{i+1} = φ_i - u_i (Algorithm 1; eq. 10 with SGD).

    **Arguments:**

    - `loss`: maps a model and a batch to a scalar.
    - `optimiser`: any optax transformation.
    - `model`: any pytree; its floating-point arrays are trained.
    - `state`: the optimiser's state to start from (`start_optimiser`); rolling state is carried by the caller.
    - `batches`: examples with leading axes `(steps, batch)`, as `tasks.minibatches` makes them.
    - `weights`: w_i, to have Σ w_i u_i as well.
    - `checkpoint`: when differentiated, keep only each step's parameters and recompute the rest.

    **Returns:** an `Adapted`. Raises `ValueError` for a model without floating-point arrays.
    """
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    _check_trainable(parameters)

    def step(carry, batch_and_weight):
        batch, weight = batch_and_weight
        parameters, state, total = carry
        value, gradient = jax.value_and_grad(lambda p: loss(eqx.combine(p, rest), batch))(parameters)
        updates, state = optimiser.update(gradient, state, parameters)
        if weight is not None:
            # optax adds its updates, so u_i is their negative.
            total = jax.tree.map(lambda t, u: t - weight.astype(u.dtype) * u, total, updates)
        return (optax.apply_updates(parameters, updates), state, total), value

    total = None if weights is None else jax.tree.map(jnp.zeros_like, parameters)
    one_step = jax.checkpoint(step) if checkpoint else step
    (parameters, state, total), losses = jax.lax.scan(one_step, (parameters, state, total), (batches, weights))
    return Adapted(eqx.combine(parameters, rest), state, losses, total)


def start_optimiser(optimiser: optax.GradientTransformation, model: PyTree) -> PyTree:
    """The optimiser's fresh state for a model's trainable arrays; raises `ValueError` where it has none."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    _check_trainable(parameters)
    return optimiser.init(parameters)


def _check_trainable(parameters):
    if not jax.tree.leaves(parameters):
        raise ValueError(
            "the model has no floating-point arrays to train. jax.vmap(model) and other plain functions hide a model's "
            "arrays: map over the batch in the loss or in the model's own __call__, or use eqx.filter_vmap"
        )
