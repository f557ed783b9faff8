"""Losses of the paper: each maps a model and a mini-batch `(x, y)` to a number."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .tasks import Examples, count_examples


def sum_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Cross-entropies *summed* over the batch, not averaged: the authors' loss, which SGD's step size is for.

    The batch is `(x, labels)`; the model maps all of `x` at once to logits of shape `(batch, way)`.
    """
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).sum()


def mean_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """`sum_cross_entropy` averaged over the batch: MAML's loss in Finn et al.'s experiments."""
    return sum_cross_entropy(model, batch) / count_examples(batch)


def mean_squared_error(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Squared error averaged over the batch `(x, y)`; the model maps one example at a time (Section 4).

    Raises `ValueError` where predictions and `y` differ in shape, which NumPy's rules would broadcast.
    """
    x, y = batch
    predictions = jax.vmap(model)(x)
    if predictions.shape != y.shape:
        raise ValueError(f"predictions have the shape {predictions.shape} and y {y.shape}: give y the predictions'")
    return jnp.mean(jnp.square(predictions - y))
