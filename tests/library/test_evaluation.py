"""Few-shot evaluation against a slow implementation; nothing leaks from task to task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reptile_eqx import (
    FewShot,
    adapt,
    adaptation,
    few_shot_accuracy,
    mean_squared_error,
    reference_adam,
    start_optimiser,
    sum_cross_entropy,
)
from reptile_eqx.evaluation import mean_and_interval
from reptile_eqx.nn import OmniglotNetwork, sine_network
from reptile_eqx.tasks import SineWaves, cycle, minibatches

OPTIMISER = reference_adam(3e-3)
SETTINGS = dict(steps=4, batch_size=5)


@pytest.fixture(scope="module")
def trained():
    """A network and an Adam state that have seen something."""
    model = OmniglotNetwork(3, key=jax.random.key(0))
    tasks = distribution()
    batches = minibatches(cycle, jax.random.key(1), tasks(jax.random.key(2)).support, 5, 8)
    model, state, *_ = one_step(model, start_optimiser(OPTIMISER, model), batches)
    return model, state


def distribution():
    images = jax.random.randint(jax.random.key(5), (6, 1, 28, 28, 1), 0, 256)
    noise = jax.random.randint(jax.random.key(6), (6, 7, 28, 28, 1), -60, 60)
    images = jnp.clip(images + noise, 0, 255).astype(jnp.uint8)
    return FewShot(images, jnp.arange(6), ways=3, shots=3, queries=1)


@jax.jit
def accuracy(arrays, task, key):
    model, state = arrays
    return few_shot_accuracy(sum_cross_entropy, OPTIMISER, model, state, task, key, **SETTINGS)


logits = jax.jit(lambda model, x: model(x))
one_step = jax.jit(lambda model, state, batch: adapt(sum_cross_entropy, OPTIMISER, model, state, batch))


def slowly(model, state, task, key):
    batches = minibatches(cycle, key, task.support, 5, 4)
    for i in range(4):
        model, state, *_ = one_step(model, state, jax.tree.map(lambda leaf: leaf[i : i + 1], batches))
    x, labels = task.query
    transductive = [int(row.argmax()) for row in logits(model, x)]
    alone = [int(logits(model, jnp.concatenate([task.support[0], x[i : i + 1]]))[-1].argmax()) for i in range(3)]
    return [
        np.mean([guess == label for guess, label in zip(g, labels.tolist(), strict=True)])
        for g in (alone, transductive)
    ]


def test_accuracy_is_the_slow_implementations_and_the_order_of_tasks_is_nothing_to_it(trained):
    keys = [jax.random.key(i) for i in range(6)]
    tasks = [distribution()(key) for key in keys]
    forward = [accuracy(trained, task, key) for task, key in zip(tasks, keys, strict=True)]
    backward = [accuracy(trained, task, key) for task, key in zip(tasks[::-1], keys[::-1], strict=True)][::-1]
    assert forward == backward
    expected = [slowly(*trained, task, key) for task, key in zip(tasks, keys, strict=True)]
    np.testing.assert_allclose(np.array(forward), np.array(expected), atol=1e-6)
    assert 0 < np.mean(expected) <= 1


def test_adaptation_starts_from_the_trained_adam_state_and_leaves_it_alone(trained):
    """With a fresh state the first Adam step is ±α in every weight; the trained one gives another model."""
    model, state = trained
    before = jax.tree.map(np.array, state)
    task = distribution()(jax.random.key(9))
    batches = minibatches(cycle, jax.random.key(9), task.support, 5, 4)
    from_trained, _, *_ = adapt(sum_cross_entropy, OPTIMISER, model, state, batches)
    from_fresh, _, *_ = adapt(sum_cross_entropy, OPTIMISER, model, start_optimiser(OPTIMISER, model), batches)
    assert jnp.abs(from_trained.head - from_fresh.head).max() > 1e-4
    accuracy(trained, task, jax.random.key(9))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True))
    assert state.count == 8


def test_transduction_shares_the_batch_and_alone_does_not(trained):
    """Alone, an image's batch is the support and itself; transductively, it is all held-out images."""
    model, _ = trained
    seen = []

    def spy(trained, x):
        seen.append(x.shape[0])
        return model(x)

    task = distribution()(jax.random.key(9))
    model_as_spy = jax.tree_util.Partial(spy, jnp.zeros(()))
    still = optax.sgd(0.0)
    state = start_optimiser(still, model_as_spy)
    few_shot_accuracy(lambda m, b: jnp.zeros(()), still, model_as_spy, state, task, jax.random.key(0), **SETTINGS)
    assert seen == [10, 3], "the support's nine and one held-out image; then the three held-out ones together"


def test_accuracy_on_tasks_without_a_query_is_an_error():
    task, still = distribution()(jax.random.key(9))._replace(query=None), optax.sgd(0.0)
    with pytest.raises(ValueError, match="this one has none: give `FewShot` `queries=1`"):
        few_shot_accuracy(lambda m, b: jnp.zeros(()), still, None, None, task, jax.random.key(0), **SETTINGS)


def test_adaptation_watches_the_model_before_and_after_every_step():
    task, model = SineWaves(points=10)(jax.random.key(0)), sine_network(jax.random.key(1))
    watched = adaptation(
        mean_squared_error, optax.sgd(0.02), model, task, 3, lambda m: mean_squared_error(m, task.query)
    )
    optimiser, by_hand = optax.sgd(0.02), [mean_squared_error(model, task.query)]
    state = start_optimiser(optimiser, model)
    for _ in range(3):
        everything = jax.tree.map(lambda leaf: leaf[None], task.support)
        model, state, *_ = adapt(mean_squared_error, optimiser, model, state, everything)
        by_hand.append(mean_squared_error(model, task.query))
    np.testing.assert_allclose(watched, by_hand, rtol=1e-4)


def test_the_interval_is_the_usual_one():
    values = np.random.default_rng(0).normal(3, 2, (400, 2))
    summary = mean_and_interval(values)
    np.testing.assert_allclose(summary["mean"], values.mean(0))
    np.testing.assert_allclose(summary["ci95"], 1.96 * values.std(0, ddof=1) / 20)
    assert summary["tasks"] == 400
