"""The inner loop U^k: adapt a model to a task. Everything else in the paper is what is done with its k updates."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

Loss = Callable[[PyTree, PyTree], Float[Array, ""]]
"""A model and a mini-batch of examples (`tasks.Examples`) to a number."""


class Frozen(eqx.Module):
    """A part of a model that nothing trains, neither the inner loop nor the outer: pretrained layers, say.

    Its arrays are no parameters: they have no gradients, no updates and no optimiser's state. It is called as the part
    is called, so freeze the layers of a tuple one by one. `optimisers.only` freezes a part in the inner loop alone.
    """

    part: PyTree

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the part returns."""
        return self.part(*arguments, **named)


def trainable(model: PyTree) -> tuple[PyTree, PyTree]:
    """A model's parameters and the rest of it; `eqx.combine(parameters, rest)` is the model again.

    Parameters are floating-point arrays outside of `Frozen` parts.
    """
    return eqx.partition(model, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, Frozen))


class Adapted(NamedTuple):
    """What the inner loop leaves: the adapted model φ̃, the optimiser's state after it, each step's loss before that
    step, shape `(steps,)`, and the weighted sum of its updates or gradients where weights were given."""

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
    gradients: bool = False,
    checkpoint: bool = False,
) -> Adapted:
    """Take one optimiser step per mini-batch: φ_{i+1} = φ_i - u_i (Algorithm 1; eq. 10 with SGD).

    **Arguments:**

    - `loss`: maps a model and a batch to a scalar. A batch is a mini-batch of whatever pytree the task's examples are,
      so what a layer needs beside its input, such as dropout's keys, is an array of the examples.
    - `optimiser`: any optax transformation.
    - `model`: any pytree; its floating-point arrays outside of `Frozen` parts are trained.
    - `state`: the optimiser's state to start from (`start_optimiser`); rolling state is carried by the caller.
    - `batches`: examples with leading axes `(steps, batch)`, as `tasks.minibatches` makes them.
    - `weights`: w_i, to have Σ w_i u_i as well or, with `gradients`, Σ w_i g_i.
    - `checkpoint`: when differentiated, keep only each step's parameters and recompute the rest.

    **Returns:** an `Adapted`. Raises `ValueError` for a model that has nothing to train, `TypeError` for a loss that is
    not one number.
    """
    parameters, rest = trainable(model)
    _check_trainable(parameters)
    own = eqx.filter_eval_shape(optimiser.init, parameters)
    if jax.tree.structure(state) != jax.tree.structure(own):
        raise ValueError(
            "the state is another optimiser's, or another model's: start from `start_optimiser(optimiser, model)`, or "
            "adapt with the optimiser that the state comes from"
        )

    def step(carry, batch_and_weight):
        batch, weight = batch_and_weight
        parameters, state, total = carry
        value, gradient = jax.value_and_grad(lambda p: loss_of(loss, eqx.combine(p, rest), batch))(parameters)
        updates, state = optimiser.update(gradient, state, parameters)
        if weight is not None:
            # optax adds its updates, so u_i is their negative.
            sign, some = (-1, gradient) if gradients else (1, updates)
            total = jax.tree.map(lambda t, u: t - sign * weight.astype(u.dtype) * u, total, some)
        return (optax.apply_updates(parameters, updates), state, total), value

    total = None if weights is None else jax.tree.map(jnp.zeros_like, parameters)
    one_step = jax.checkpoint(step) if checkpoint else step
    (parameters, state, total), losses = jax.lax.scan(one_step, (parameters, state, total), (batches, weights))
    return Adapted(eqx.combine(parameters, rest), state, losses, total)


def loss_of(loss: Loss, model: PyTree, batch: PyTree) -> Float[Array, ""]:
    """`loss(model, batch)`; raises `TypeError` where that is not one floating-point number."""
    if not (getattr(loss, "__module__", None) or "").startswith(f"{__package__}."):
        _check_broadcast(loss, model, batch)
    try:
        value = loss(model, batch)
    except RuntimeError as error:
        if _layers(model, eqx.nn.Dropout):
            error.add_note(
                "A loss gets a model and a batch. For dropout, make a key for each example part of the task: "
                "`Task((x, y, jax.random.split(key, len(x))))`, and take it from the batch."
            )
        raise
    if not eqx.is_inexact_array(value) or value.shape != ():
        what = f"an array of shape {value.shape}, {value.dtype}" if eqx.is_array(value) else f"a {type(value).__name__}"
        raise TypeError(
            f"a loss returns one floating-point number; given {what}: take the mean or the sum over the batch, and "
            "leave out what it returns beside it"
        )
    return value


def start_optimiser(optimiser: optax.GradientTransformation, model: PyTree) -> PyTree:
    """The optimiser's fresh state for a model's parameters.

    Raises `ValueError` where it has none or keeps running statistics, `TypeError` where the optimiser does not take
    them.
    """
    parameters, _ = trainable(model)
    _check_trainable(parameters)
    if _layers(model, eqx.nn.StateIndex):
        raise ValueError(
            "the model keeps state from call to call (eqx.nn.StateIndex, as in eqx.nn.BatchNorm), and no task hands "
            "that on to the next: use a norm of the batch (`rx.nn`), eqx.nn.GroupNorm or eqx.nn.LayerNorm"
        )
    try:
        return optimiser.init(parameters)
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            f"the optimiser does not take the model's parameters ({error}). If it is optax.partition or optax.masked "
            "with a tree of labels that is a Module: optax calls whatever can be called, so give it `lambda _: "
            "labels`, or take rx.only(optimiser, lambda model: model.head). If it is rx.only: its function names a "
            "part of the model"
        ) from error


def _check_broadcast(loss, model, batch):
    """Warn of a loss that compares every prediction of a batch with every target, as (n, 1) and (n,) broadcast."""

    def differences(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("sub", "mul"):
                one, other = (variable.aval.shape for variable in equation.invars)
                yield len(one) == 2 and min(one) == 1 < max(one) and one == other[::-1]
            for inner in equation.params.values():
                if hasattr(inner, "jaxpr"):
                    yield from differences(inner.jaxpr)

    jaxpr, *_ = eqx.filter_make_jaxpr(lambda model, batch: loss(model, batch))(model, batch)
    if any(differences(jaxpr.jaxpr)):
        warnings.warn(
            f"the loss {getattr(loss, '__name__', loss)} combines arrays of shapes (n, 1) and (1, n), all pairs of a "
            "batch: predictions and targets of shapes (n, 1) and (n,) broadcast so. Give both the same shape",
            stacklevel=2,
        )


def _layers(model, kind):
    """The model's layers of a kind."""
    return [x for x in jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]


def _check_trainable(parameters):
    if not jax.tree.leaves(parameters):
        raise ValueError(
            "the model has no floating-point arrays to train. jax.vmap(model) and other plain functions hide a model's "
            "arrays: map over the batch in the loss or in the model's own __call__, or use eqx.filter_vmap"
        )
