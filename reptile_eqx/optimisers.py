"""Optimisers of the inner and the outer loop, and how the parallel order merges the states of the inner one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

Number = float | Float[Array | np.ndarray, ""]
_B2 = 0.999  # Adam's β₂ throughout the paper


def annealed_sgd(step_size: Number, iterations: int) -> optax.GradientTransformation:
    """φ ← φ - ε_t·g with ε_t = ε₀·(1 - t/T): the outer loop of every experiment in the paper (Appendix A).

    With `reptile`'s φ - φ̃ as g this is φ ← φ + ε_t(φ̃ - φ). After T = `iterations` nothing moves any more.
    """
    return optax.sgd(lambda t: step_size * jnp.maximum(0, 1 - t / iterations))


class RollingAdamState(NamedTuple):
    """Steps taken so far, and the moving averages of the gradient (`None` where β₁ = 0) and of its square."""

    count: Int[Array, ""]
    mean: PyTree
    square: PyTree


def reference_adam(
    learning_rate: Number, b1: float = 0.0, b2: float = _B2, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam as the authors ran it: β₁ = 0, and ε added to √v *before* the bias correction.

    The step is α·√(1-β₂ᵗ)/(1-β₁ᵗ)·m / (√v + ε). `optax.adam` adds ε after the correction, which differs in
    the first steps and for tiny gradients.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RollingAdamState(jnp.zeros((), jnp.int32), zeros if b1 else None, zeros)

    def update(updates, state, params=None):
        del params
        gradient = updates
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


def merge_average(before: PyTree, after: PyTree) -> PyTree:
    """A `Learner.merge` for any inner optimiser: the mean over tasks of floating-point leaves; others, such as step
    counts, as every task left them.

    The optimiser then takes a meta-batch of n tasks for k steps, not n·k, and forgets as slowly.
    """
    del before
    return jax.tree.map(lambda leaf: leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0], after)


def merge_adam(b2: float = _B2, b1: float = 0.0) -> Callable[[RollingAdamState, RollingAdamState], RollingAdamState]:
    """A `Learner.merge` for `reference_adam`: the state that n tasks of k steps would leave in exact order, had each
    seen the gradients that it saw in parallel, averaged over the orders they could have come in.

    Of k steps a task leaves v_i = β₂ᵏ·v + c_i. In exact order c_i decays through the steps of the tasks after it, by
    β₂^(jk) for j of them; averaged over orders, that makes β₂^(nk)·v + r·(mean of c_i) = r·(mean of v_i) + (1-r)·v,
    where r = Σ_j β₂^(jk) over j = 0 … n-1. The same holds for the first moment, and with β = 1 for the step count,
    which goes up by n·k.
    """

    def merge(before, after):
        tasks, steps = after.count.shape[0], after.count[0] - before.count

        def moment(decay, least):
            r = jnp.sum(decay ** (steps * jnp.arange(tasks)).astype(jnp.result_type(float)))

            def merged(old, new):
                # Rounding must not leave a square below zero.
                return jnp.maximum(r * new.mean(0) + (1 - r) * old, least).astype(old.dtype)

            return merged

        return RollingAdamState(
            before.count + tasks * steps,
            jax.tree.map(moment(b1, -jnp.inf), before.mean, after.mean),
            jax.tree.map(moment(b2, 0.0), before.square, after.square),
        )

    return merge
