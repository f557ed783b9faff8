"""Losses of the paper: each maps a model and a mini-batch `(x, y)` to a number.

A batch of a padded task is `(x, y, mask)` (`tasks.pad`): padding counts for nothing, and a batch of nothing else has
the loss 0.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .tasks import Examples


def sum_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Cross-entropies *summed* over the batch, not averaged: the authors' loss, which SGD's step size is for.

    The batch is `(x, labels)`; the model maps all of `x` at once to logits of shape `(batch, way)`. Raises `ValueError`
    for labels that the logits do not have; inside a compiled program such labels make the loss NaN.
    """
    return _summed(_cross_entropies(model, batch), batch)


def mean_cross_entropy(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """`sum_cross_entropy` averaged over the batch: MAML's loss in Finn et al.'s experiments."""
    return sum_cross_entropy(model, batch) / _count(batch)


def mean_squared_error(model: PyTree, batch: Examples) -> Float[Array, ""]:
    """Squared error averaged over the batch `(x, y)`; the model maps one example at a time (Section 4).

    Raises `ValueError` where predictions and `y` differ in shape, which NumPy's rules would broadcast.
    """
    x, y = batch[:2]
    predictions = jax.vmap(model)(x)
    if predictions.shape != y.shape:
        raise ValueError(f"predictions have the shape {predictions.shape} and y {y.shape}: give y the predictions'")
    errors = jnp.square(predictions - y)
    if len(batch) == 2:
        return jnp.mean(errors)
    return _summed(errors.reshape(len(errors), -1).mean(1), batch) / _count(batch)


def check_labels(labels: Any, ways: int) -> None:
    """Raise `ValueError` for labels that are not 0 … `ways` - 1, as far as they have values yet."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are integers, 0 for the first class; given {labels.dtype}")
    if isinstance(labels, jax.core.Tracer) or not labels.size:
        return
    if labels.min() < 0 or labels.max() >= ways:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, and the network has {ways} outputs, for 0 to "
            f"{ways - 1}: give it a head for more classes (`Initialisation.for_ways`), or the tasks fewer"
        )


def _cross_entropies(model, batch):
    x, labels = batch[:2]
    logits = model(x)
    if logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"logits have the shape {logits.shape} and labels {labels.shape}; expected (batch, way) and (batch,): a "
            "model that maps one example at a time needs jax.vmap inside its __call__"
        )
    check_labels(labels, logits.shape[1])
    # optax makes a label beyond the logits NaN, and takes one below 0 for one from the end.
    labels = jnp.where(labels < 0, logits.shape[1], labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _summed(losses, batch):
    # Not a product: an infinite loss of padding, times 0, would be NaN.
    return losses.sum() if len(batch) == 2 else jnp.where(batch[2], losses, 0).sum()


def _count(batch):
    return len(batch[1]) if len(batch) == 2 else jnp.maximum(batch[2].sum(), 1)
