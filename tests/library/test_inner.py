"""The inner loop and its optimiser, against slow implementations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reptile_eqx import adapt, mean_squared_error, reference_adam, start_optimiser, sum_cross_entropy


def slow_adam(gradients, rate, b1, b2=0.999, eps=1e-8):
    """The authors' framework's Adam, one step after another in float64."""
    m = v = np.zeros_like(gradients[0])
    steps = []
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        steps.append(-rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps))
    return steps


@pytest.mark.parametrize("b1", [0.0, 0.9])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_adam_adds_epsilon_before_the_bias_correction(b1, size):
    gradients = size * np.random.default_rng(0).normal(size=(6, 5))
    with jax.enable_x64(True):
        optimiser, other = reference_adam(1e-3, b1=b1), optax.adam(1e-3, b1=b1)
        state, other_state = optimiser.init(jnp.zeros(5)), other.init(jnp.zeros(5))
        for g, expected in zip(gradients, slow_adam(gradients, 1e-3, b1), strict=True):
            step, state = optimiser.update(jnp.asarray(g), state)
            other_step, other_state = other.update(jnp.asarray(g), other_state)
            np.testing.assert_allclose(step, expected, rtol=1e-10)
            if size < 1e-6:
                assert np.abs(other_step / expected - 1).max() > 0.1, "optax's place for ε would not do"
    assert state.count == 6


def linear(seed=0):
    return eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(seed))


def batches(steps, seed=1):
    x = jax.random.normal(jax.random.key(seed), (steps, 3, 2))
    return x, x.sum(-1, keepdims=True) ** 2


def leaves(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def test_adam_state_rolls_from_call_to_call():
    model, optimiser, (x, y) = linear(), reference_adam(0.01), batches(6)
    fresh = start_optimiser(optimiser, model)
    whole, end, losses, _ = adapt(mean_squared_error, optimiser, model, fresh, (x, y))
    half, middle, *_ = adapt(mean_squared_error, optimiser, model, fresh, (x[:3], y[:3]))
    continued, end_again, *_ = adapt(mean_squared_error, optimiser, half, middle, (x[3:], y[3:]))
    reset, _, *_ = adapt(mean_squared_error, optimiser, half, fresh, (x[3:], y[3:]))
    for a, b, c in zip(leaves(whole), leaves(continued), leaves(reset), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert jnp.abs(a - c).max() > 1e-4
    assert end.count == end_again.count == 6
    assert losses.shape == (6,)


def test_sgd_steps_are_the_hand_made_ones_and_keep_the_rest_of_the_model():
    model, (x, y) = linear(), batches(4)
    optimiser = optax.sgd(0.1)
    adapted, _, losses, _ = adapt(mean_squared_error, optimiser, model, start_optimiser(optimiser, model), (x, y))
    by_hand = model
    for i in range(4):
        value, gradient = eqx.filter_value_and_grad(mean_squared_error)(by_hand, (x[i], y[i]))
        np.testing.assert_allclose(losses[i], value, rtol=1e-5)
        by_hand = eqx.apply_updates(by_hand, jax.tree.map(lambda g: -0.1 * g, gradient))
    for a, b in zip(leaves(adapted), leaves(by_hand), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert adapted.activation is model.activation


def test_cross_entropy_is_summed_and_squared_error_averaged():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    labels = jnp.array([0, 2, 1, 1])
    expected = -sum(np.log(np.exp(row) / np.exp(row).sum())[label] for row, label in zip(logits, labels, strict=True))
    np.testing.assert_allclose(sum_cross_entropy(lambda x: x, (logits, labels)), expected, rtol=1e-5)
    x = jnp.arange(4.0)[:, None]
    np.testing.assert_allclose(mean_squared_error(lambda v: 2 * v, (x, x)), np.mean(np.arange(4.0) ** 2))
    with pytest.raises(ValueError, match=r"predictions have the shape \(4, 1\) and y \(4,\)"):
        mean_squared_error(lambda v: 2 * v, (x, x[:, 0]))


@pytest.mark.parametrize("x64", [False, True])
def test_precision_is_the_callers(x64):
    with jax.enable_x64(x64):
        model, optimiser = linear(), reference_adam(0.01)
        adapted, state, *_ = adapt(mean_squared_error, optimiser, model, start_optimiser(optimiser, model), batches(2))
        expected = jnp.float64 if x64 else jnp.float32
        assert {leaf.dtype for leaf in leaves(adapted) + leaves(state)} == {jnp.dtype(expected)}
