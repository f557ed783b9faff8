"""The inner loop U^k: adapt a model to a task. Everything else in the paper is what is done with its k updates."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from .tasks import Examples

Loss = Callable[[PyTree, Examples], Float[Array, ""]]


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
    batches: Examples,
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
    step = jax.checkpoint(step) if checkpoint else step
    (parameters, state, total), losses = jax.lax.scan(step, (parameters, state, total), (batches, weights))
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


class RollingAdamState(NamedTuple):
    """Steps taken so far, and the moving averages of the gradient (`None` where β₁ = 0) and of its square."""

    count: Int[Array, ""]
    mean: PyTree
    square: PyTree


def reference_adam(
    learning_rate: float | Float[Array, ""], b1: float = 0.0, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam as the authors ran it: β₁ = 0, and ε added to √v *before* the bias correction.

    The step is α·√(1-β₂ᵗ)/(1-β₁ᵗ)·m / (√v + ε). `optax.adam` adds ε after the correction, which differs in
    the first steps and for tiny gradients.
    """

    def init(parameters):
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return RollingAdamState(jnp.zeros((), jnp.int32), zeros if b1 else None, zeros)

    def update(gradient, state, parameters=None):
        del parameters
        count = state.count + 1
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.square, gradient)
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradient) if b1 else None
        t = count.astype(jnp.result_type(float))
        rate = learning_rate * jnp.sqrt(1 - b2**t) / (1 - b1**t if b1 else 1.0)
        updates = jax.tree.map(
            lambda m, v: (-rate * m / (_sqrt(v) + eps)).astype(m.dtype), mean if b1 else gradient, square
        )
        return updates, RollingAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def _sqrt(v):
    """√v whose derivative at 0 is 0 rather than infinite, for MAML through Adam where a gradient vanishes."""
    return jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)


def sum_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Cross-entropies *summed* over the batch, not averaged: the authors' loss, which SGD's step size is for.

    The batch is `(x, labels)`; the model maps all of `x` at once to logits of shape `(batch, way)`.
    """
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).sum()


def mean_squared_error(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Squared error averaged over the batch `(x, y)`; the model maps one example at a time (Section 4).

    Raises `ValueError` where predictions and `y` differ in shape, which NumPy's rules would broadcast.
    """
    x, y = batch
    predictions = jax.vmap(model)(x)
    if predictions.shape != y.shape:
        raise ValueError(f"predictions have the shape {predictions.shape} and y {y.shape}: give y the predictions'")
    return jnp.mean(jnp.square(predictions - y))
