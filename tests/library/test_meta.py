"""Reptile and the outer loop: the paper's equalities, and a slow implementation of the exact order."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reptile_eqx import (
    Learner,
    SineWaves,
    Task,
    adapt,
    annealed_sgd,
    cycle,
    fomaml,
    gradient_combination,
    joint_training,
    maml,
    mean_squared_error,
    merge_adam,
    merge_average,
    minibatches,
    reference_adam,
    replacement,
    reptile,
    start,
    sum_cross_entropy,
    train,
)
from reptile_eqx.training import exact_order, outer_iteration, parallel_order

TASKS = SineWaves(points=10)


def network(key):
    return eqx.nn.MLP(1, 1, 8, 1, activation=jnp.tanh, key=key)


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]


def assert_close(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def test_one_step_of_reptile_is_a_gradient_of_the_expected_loss():
    """Eqs. 6-7: with k = 1, E[φ - U(φ)]/α = ∇ E[L_τ], to float64 rounding."""
    with jax.enable_x64(True):
        model, tasks = network(jax.random.key(0)), [TASKS(jax.random.key(i)) for i in range(5)]
        gradient = reptile(mean_squared_error, optax.sgd(0.03), steps=1, batch_size=10)
        state = gradient.start(model)
        estimates = [leaves(gradient.estimate(model, state, task, jax.random.key(1))[0]) for task in tasks]
        expected = eqx.filter_grad(lambda m: sum(mean_squared_error(m, task.support) for task in tasks) / len(tasks))(
            model
        )
        assert_close(
            [np.mean(g, 0) / 0.03 for g in zip(*estimates, strict=True)], leaves(expected), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_reptile_is_the_sum_of_the_inner_gradients(k):
    """Eq. 40, left half: (φ_1 - φ_{k+1})/α = Σ g_i under SGD."""
    with jax.enable_x64(True):
        model, task, key = network(jax.random.key(0)), TASKS(jax.random.key(1)), jax.random.key(2)
        gradient = reptile(mean_squared_error, optax.sgd(0.1), steps=k, batch_size=4)
        estimate, _, _ = gradient.estimate(model, gradient.start(model), task, key)
        x, y = minibatches(cycle, key, task.support, 4, k)
        total, at = None, model
        for i in range(k):
            g = eqx.filter_grad(mean_squared_error)(at, (x[i], y[i]))
            at = eqx.apply_updates(at, jax.tree.map(lambda leaf: -0.1 * leaf, g))
            total = leaves(g) if total is None else [a + b for a, b in zip(total, leaves(g), strict=True)]
        assert_close([leaf / 0.1 for leaf in leaves(estimate)], total, rtol=1e-8, atol=1e-10)


def test_joint_training_is_reptile_with_one_step():
    model, task, key = network(jax.random.key(0)), TASKS(jax.random.key(1)), jax.random.key(2)
    one = reptile(mean_squared_error, optax.sgd(0.1), steps=1, batch_size=6)
    joint = joint_training(mean_squared_error, optax.sgd(0.1), batch_size=6)
    a, b = (leaves(g.estimate(model, g.start(model), task, key)[0]) for g in (one, joint))
    assert_close(a, b, rtol=0)


@pytest.mark.parametrize("wrong", [dict(steps=0, batch_size=5), dict(steps=5, batch_size=0)])
def test_an_empty_inner_loop_is_an_error(wrong):
    with pytest.raises(ValueError, match="is 0; expected a whole number, 1 or more"):
        reptile(mean_squared_error, optax.sgd(0.1), **wrong)


def slowly(learner, key, iterations, reset_adam=False, k=3, batch_size=4, rate=0.01, epsilon=0.5):
    """Batched Reptile in plain Python and numpy: rolling Adam from task to task, never reset, never averaged."""
    state = start(learner, key)
    phi, unflatten = jax.flatten_util.ravel_pytree(eqx.filter(state.model, eqx.is_inexact_array))
    phi, still = np.asarray(phi, np.float64), eqx.filter(state.model, eqx.is_inexact_array, inverse=True)
    v, count = np.zeros_like(phi), 0
    for t in range(iterations):
        adapted = []
        for task_key in jax.random.split(jax.random.fold_in(state.key, t), learner.meta_batch_size):
            sample_key, batch_key = jax.random.split(task_key)
            x, y = minibatches(cycle, batch_key, learner.tasks(sample_key).support, batch_size, k)
            w = phi.copy()
            if reset_adam:
                v, count = np.zeros_like(phi), 0
            for i in range(k):
                model = eqx.combine(unflatten(jnp.asarray(w, phi.dtype)), still)
                g = eqx.filter_grad(mean_squared_error)(model, (x[i], y[i]))
                g = np.asarray(jax.flatten_util.ravel_pytree(g)[0])
                count += 1
                v = 0.999 * v + 0.001 * g**2
                w = w - rate * np.sqrt(1 - 0.999**count) * g / (np.sqrt(v) + 1e-8)
            adapted.append(w)
        phi = phi + epsilon * (1 - t / iterations) * (np.mean(adapted, 0) - phi)
    return phi, count


@pytest.mark.parametrize("meta_batch_size", [1, 3])
def test_the_outer_loop_is_the_authors_exact_order(meta_batch_size):
    with jax.enable_x64(True):
        gradient = reptile(mean_squared_error, reference_adam(0.01), steps=3, batch_size=4)
        learner = Learner(network, TASKS, gradient, annealed_sgd(0.5, 4), meta_batch_size)
        key = jax.random.key(3)
        state, _ = train(learner, start(learner, key), 4)
        fast = np.concatenate([leaf.ravel() for leaf in leaves(state.model)])
        slow, count = slowly(learner, key, 4)
        np.testing.assert_allclose(fast, slow, rtol=1e-7, atol=1e-9)
        assert state.inner.count == count == 4 * 3 * meta_batch_size
        reset, _ = slowly(learner, key, 4, reset_adam=True)
        assert np.abs(reset - slow).max() > 1e-3, "resetting Adam's state would show"


def test_the_outer_step_size_anneals_linearly_to_zero():
    outer = annealed_sgd(0.8, 4)
    state = outer.init(jnp.zeros(()))
    steps = []
    for _ in range(7):
        update, state = outer.update(jnp.ones(()), state)
        steps.append(float(update))
    np.testing.assert_allclose(steps, [-0.8, -0.6, -0.4, -0.2, 0.0, 0.0, 0.0], atol=1e-7)


def test_what_would_train_nothing_is_an_error():
    gradient = reptile(mean_squared_error, reference_adam(0.01), steps=2, batch_size=5)
    for model, tasks, message in (
        (network, 0, "`meta_batch_size` is 0; expected a whole number, 1 or more"),
        (lambda key: jax.vmap(network(key)), 1, "no floating-point arrays to train. jax.vmap"),
    ):
        with pytest.raises(ValueError, match=message):
            start(Learner(model, TASKS, gradient, annealed_sgd(0.5, 7), tasks), jax.random.key(0))
    with pytest.raises(ValueError, match="no floating-point arrays to train"):
        adapt(mean_squared_error, optax.sgd(0.1), jnp.sin, optax.EmptyState(), jnp.zeros((1, 1)))


def test_splitting_a_training_changes_nothing():
    gradient = reptile(mean_squared_error, reference_adam(0.01), steps=2, batch_size=5)
    learner = Learner(network, TASKS, gradient, annealed_sgd(0.5, 7), 2)
    compiled = eqx.filter_jit(train)
    begun = start(learner, jax.random.key(0))
    whole, _ = compiled(learner, begun, jnp.int32(7))
    part, _ = compiled(learner, begun, jnp.int32(3))
    rest, _ = compiled(learner, part, jnp.int32(4))
    assert_close(leaves(whole.model), leaves(rest.model), rtol=0)
    assert rest.iteration == 7


def test_what_a_user_brings_plugs_in_without_subclassing():
    def tasks(key):
        x = jax.random.normal(key, (8, 2))
        return Task(support={"x": x, "y": x @ jnp.array([1.0, -1.0])})

    def loss(model, batch):
        return jnp.abs(jax.vmap(model)(batch["x"])[:, 0] - batch["y"]).mean()

    gradient = reptile(loss, optax.adamw(1e-2), steps=2, batch_size=4)
    learner = Learner(lambda key: eqx.nn.MLP(2, 1, 8, 1, key=key), tasks, gradient, optax.adam(1e-2), 2)
    first = start(learner, jax.random.key(0))
    state, mean_loss = eqx.filter_jit(train)(learner, first, 5)
    assert np.isfinite(mean_loss)
    assert all(np.abs(d).max() > 0 for d in minus(leaves(state.model), leaves(first.model)))


def test_a_meta_batch_is_the_mean_over_its_tasks():
    """Eq. 5, with SGD inside, where tasks do not depend on one another's order."""
    with jax.enable_x64(True):
        gradient = reptile(mean_squared_error, optax.sgd(0.05), steps=2, batch_size=5)
        learner = Learner(network, TASKS, gradient, optax.sgd(1.0), 3)
        begun = start(learner, jax.random.key(0))
        after, _ = outer_iteration(learner, begun)
        adapted = []
        for key in jax.random.split(jax.random.fold_in(begun.key, 0), 3):
            task_key, batch_key = jax.random.split(key)
            g, _, _ = gradient.estimate(begun.model, begun.inner, TASKS(task_key), batch_key)
            adapted.append(minus(leaves(begun.model), leaves(g)))
        assert_close(leaves(after.model), [np.mean(w, 0) for w in zip(*adapted, strict=True)], rtol=1e-9, atol=1e-12)


def in_both_orders(optimiser, meta_batch_size, merge, tasks=TASKS):
    """Three outer iterations in exact and in parallel order, from one start."""
    gradient = reptile(mean_squared_error, optimiser, steps=3, batch_size=4)
    learner = Learner(network, tasks, gradient, annealed_sgd(0.5, 6), meta_batch_size)
    begun = start(learner, jax.random.key(3))
    return [eqx.filter_jit(train)(one, begun, 3) for one in (learner, learner._replace(merge=merge))]


def test_with_sgd_inside_the_order_of_tasks_is_immaterial():
    with jax.enable_x64(True):
        (exact, loss), (parallel, same_loss) = in_both_orders(optax.sgd(0.05), 4, merge_average)
        assert_close(leaves(exact.model), leaves(parallel.model), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss, same_loss, rtol=1e-12)


@pytest.mark.parametrize(
    ("optimiser", "merge"),
    [
        (reference_adam(0.01), merge_adam(0.999)),
        (reference_adam(0.01, b1=0.9), merge_adam(0.999, b1=0.9)),
        (optax.adam(0.01), merge_average),
    ],
)
def test_a_meta_batch_of_one_task_has_one_order(optimiser, merge):
    with jax.enable_x64(True):
        exact, parallel = in_both_orders(optimiser, 1, merge)
        assert_close(leaves(exact), leaves(parallel), rtol=1e-9, atol=1e-14)
        assert all(count == 9 for count in jax.tree.leaves(parallel[0].inner) if count.ndim == 0)


def test_permuting_tasks_does_nothing_in_parallel_order_alone():
    with jax.enable_x64(True):
        gradient = reptile(mean_squared_error, reference_adam(0.01, b1=0.5), steps=3, batch_size=4)
        learner = Learner(network, TASKS, gradient, optax.sgd(1.0), 4, merge_adam(0.999, b1=0.5))
        begun = start(learner, jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), 4)

        def largest_change(order):
            (gradient, inner, _), (other, permuted, _) = order(learner, begun, keys), order(learner, begun, keys[::-1])
            assert inner.count == permuted.count == 12
            return max(
                np.abs(a - b).max() for a, b in zip(leaves((gradient, inner)), leaves((other, permuted)), strict=True)
            )

        assert largest_change(functools.partial(parallel_order, merge=learner.merge)) < 1e-14
        assert largest_change(exact_order) > 1e-6


def test_one_batch_of_tasks_is_the_tasks_one_by_one(monkeypatch):
    """A GPU takes the tasks of parallel order in one batch, a core one by one."""
    with jax.enable_x64(True):
        gradient = reptile(mean_squared_error, reference_adam(0.01), steps=3, batch_size=4)
        learner = Learner(network, TASKS, gradient, optax.sgd(1.0), 3, merge_adam(0.999))
        begun = start(learner, jax.random.key(0))
        one_by_one, loss = outer_iteration(learner, begun)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        batched, same_loss = outer_iteration(learner, begun)
        assert_close(leaves(one_by_one), leaves(batched), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(loss, same_loss, rtol=1e-12)


@pytest.mark.parametrize("b1", [0.0, 0.8])
def test_merged_adam_is_the_mean_over_all_orders_of_the_tasks(b1):
    """Against reference_adam itself, run through every order, with gradients that do not depend on what came before."""
    with jax.enable_x64(True):
        adam, steps, b2 = reference_adam(1e-3, b1=b1, b2=0.9), 2, 0.9
        gradients = jax.random.normal(jax.random.key(0), (3, steps, 5)) * jnp.array([0.1, 1.0, 5.0])[:, None, None]
        _, before = adam.update(jnp.ones(5), adam.init(jnp.zeros(5)))

        def run_through(state, tasks):
            for gradient in np.concatenate(tasks):
                _, state = adam.update(jnp.asarray(gradient), state)
            return state

        after = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[run_through(before, [g]) for g in gradients])
        merged = merge_adam(b2, b1)(before, after)
        orders = [run_through(before, order) for order in itertools.permutations(np.asarray(gradients))]
        expected = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *orders)
        assert merged.count == expected.count == 1 + 3 * steps
        assert_close(jax.tree.leaves(merged), jax.tree.leaves(expected), rtol=1e-12)


def test_a_parameter_without_gradients_keeps_a_second_moment_that_has_a_root():
    adam = reference_adam(1e-3, b2=0.5)
    before = adam.init(jnp.zeros(3))._replace(square=jnp.array([0.0, 1e-30, 7.0]))
    state = before
    for _ in range(20):
        _, state = adam.update(jnp.zeros(3), state)
    merged = merge_adam(0.5)(before, jax.tree.map(lambda leaf: jnp.stack([leaf] * 9), state))
    assert (merged.square >= 0).all()
    assert merged.count == 180


def test_averaged_states_keep_what_is_no_number_to_average():
    before = optax.adam(0.1).init(jnp.zeros(2))
    states = [optax.adam(0.1).update(jnp.full(2, g), before)[1] for g in (1.0, 3.0)]
    merged = merge_average(before, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    assert merged[0].count == 1 and merged[0].count.dtype == before[0].count.dtype
    np.testing.assert_allclose(merged[0].mu, 0.2, rtol=1e-6)


def with_query(key):
    """Tasks of ten points, four of them set aside."""
    x, y = TASKS(key).support
    return Task((x[:6], y[:6]), (x[6:], y[6:]))


def estimate(gradient, model, task, key):
    return leaves(gradient.estimate(model, gradient.start(model), task, key)[0])


@pytest.mark.parametrize("schedule", [cycle, replacement])
@pytest.mark.parametrize("separate_tail", [False, True])
def test_reptile_fomaml_and_joint_training_are_three_weight_vectors(schedule, separate_tail):
    model, task, key = network(jax.random.key(0)), with_query(jax.random.key(1)), jax.random.key(2)
    settings = dict(batch_size=4, schedule=schedule)

    def combined(weights, tail=False):
        g = gradient_combination(mean_squared_error, optax.sgd(0.1), weights, separate_tail=tail, **settings)
        return estimate(g, model, task, key)

    def by(algorithm, **more):
        return estimate(algorithm(mean_squared_error, optax.sgd(0.1), **settings, **more), model, task, key)

    assert_close(by(reptile, steps=3), combined(jnp.array([1.0, 1.0, 1.0])), rtol=1e-4, atol=1e-6)
    assert_close(by(joint_training), combined((1.0,)), rtol=0)
    one_of_three = combined((1.0, 0.0, 0.0))
    if schedule is cycle:
        assert_close(one_of_three, combined((1.0,)), rtol=1e-5, atol=1e-7)
    fo = by(fomaml, steps=3, separate_tail=separate_tail)
    assert_close(fo, combined((0.0, 0.0, 1.0), separate_tail), rtol=0)
    total = [sum(u) for u in zip(*(combined(tuple(np.eye(3)[i]), separate_tail) for i in range(3)), strict=True)]
    assert_close(total, combined((1.0, 1.0, 1.0), separate_tail), rtol=1e-4, atol=1e-6)
    mixed = minus(combined((3.0, 0.0, 0.0), separate_tail), combined((0.0, 0.0, 2.0), separate_tail))
    assert_close(mixed, combined((3.0, 0.0, -2.0), separate_tail), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separate_tail", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_fomaml_is_the_gradient_at_the_last_iterate_on_the_last_batch(k, separate_tail):
    """Eq. 38; the separate tail is the whole query, the shared one the k-th batch of the support."""
    with jax.enable_x64(True):
        model, task, key = network(jax.random.key(0)), with_query(jax.random.key(1)), jax.random.key(2)
        g = fomaml(
            mean_squared_error, optax.sgd(0.1), steps=k, batch_size=2, separate_tail=separate_tail, gradients=True
        )
        at, (before, last) = model, hand_cut(task, key, k, 2, separate_tail)
        for batch in before:
            gradient = eqx.filter_grad(mean_squared_error)(at, batch)
            at = eqx.apply_updates(at, jax.tree.map(lambda leaf: -0.1 * leaf, gradient))
        expected = leaves(eqx.filter_grad(mean_squared_error)(at, last))
        assert_close(estimate(g, model, task, key), expected, rtol=1e-8, atol=1e-10)


def hand_cut(task, key, k, batch_size, separate_tail):
    """The batches before the last, and the last."""
    if separate_tail:
        x, y = minibatches(cycle, key, task.support, batch_size, k - 1) if k > 1 else ((), ())
        return list(zip(x, y, strict=True)), task.query
    x, y = minibatches(cycle, key, task.support, batch_size, k)
    return list(zip(x[:-1], y[:-1], strict=True)), (x[-1], y[-1])


def unrolled(model, before, last, stop=lambda g: g, alpha=0.1):
    """MAML's loss as a function of φ, with the inner loop written out."""

    def judged(parameters):
        at = parameters
        for batch in before:
            gradient = stop(jax.grad(lambda p: mean_squared_error(eqx.combine(p, still), batch))(at))
            at = jax.tree.map(lambda p, g: p - alpha * g, at, gradient)
        return mean_squared_error(eqx.combine(at, still), last)

    parameters, still = eqx.partition(model, eqx.is_inexact_array)
    return judged, parameters


@pytest.mark.parametrize("separate_tail", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_maml_is_the_unrolled_loops_gradient_and_finite_differences(k, separate_tail):
    """Eqs. 17-21, to float64 rounding; and FOMAML is the same with the inner gradients held constant."""
    with jax.enable_x64(True):
        model, task, key = network(jax.random.key(0)), with_query(jax.random.key(1)), jax.random.key(2)
        settings = dict(steps=k, batch_size=2, separate_tail=separate_tail)
        g = estimate(maml(mean_squared_error, optax.sgd(0.1), **settings), model, task, key)
        judged, parameters = unrolled(model, *hand_cut(task, key, k, 2, separate_tail))
        assert_close(g, jax.tree.leaves(jax.grad(judged)(parameters)), rtol=1e-9, atol=1e-12)
        direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), parameters)
        ahead, behind = (jax.tree.map(lambda p, d: p + h * d, parameters, direction) for h in (1e-6, -1e-6))
        slope = (judged(ahead) - judged(behind)) / 2e-6
        along = sum((a * b).sum() for a, b in zip(g, jax.tree.leaves(direction), strict=True))
        np.testing.assert_allclose(along, slope, rtol=1e-6)
        first_order, parameters = unrolled(
            model, *hand_cut(task, key, k, 2, separate_tail), stop=lambda u: jax.tree.map(jax.lax.stop_gradient, u)
        )
        fo = estimate(fomaml(mean_squared_error, optax.sgd(0.1), gradients=True, **settings), model, task, key)
        assert_close(fo, jax.tree.leaves(jax.grad(first_order)(parameters)), rtol=1e-8, atol=1e-11)
        if k > 1:
            assert max(np.abs(a - b).max() for a, b in zip(fo, g, strict=True)) > 1e-3


def test_maml_through_the_convolutions_and_through_adam_is_finite():
    from reptile_eqx.nn import OmniglotNetwork

    x = jax.random.uniform(jax.random.key(0), (6, 28, 28, 1))
    task = Task((x[:4], jnp.array([0, 0, 1, 1])), (x[4:], jnp.array([0, 1])))
    model = OmniglotNetwork(2, key=jax.random.key(1))
    g = maml(sum_cross_entropy, reference_adam(1e-3), steps=3, batch_size=4)
    gradient, _, value = jax.jit(g.estimate)(model, g.start(model), task, jax.random.key(2))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in leaves(gradient))
    assert jnp.abs(gradient.blocks[0].kernel).max() > 0


def test_memory_of_maml_does_not_grow_with_k_but_for_the_parameters():
    """Activations of a wide batch outweigh the parameters of a narrow network by far."""
    model, batch_size = eqx.nn.MLP(1, 1, 16, 4, activation=jnp.tanh, key=jax.random.key(0)), 4096
    size = sum(leaf.nbytes for leaf in leaves(model))
    x = jnp.zeros((batch_size, 1))
    still = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    def temporaries(gradient, k):
        g = gradient(mean_squared_error, optax.sgd(0.1), steps=k, batch_size=batch_size)

        def estimate(parameters, task, key):
            model = eqx.combine(parameters, still)
            return g.estimate(model, g.start(model), task, key)[0]

        arguments = (eqx.filter(model, eqx.is_inexact_array), Task((x, x), (x, x)), jax.random.key(0))
        return jax.jit(estimate).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    per_step = (temporaries(maml, 12) - temporaries(maml, 4)) / 8
    first_order = (temporaries(fomaml, 12) - temporaries(fomaml, 4)) / 8
    assert per_step - first_order < 4 * size
    assert 4 * size < 4 * 16 * batch_size, "one layer's activations would show"


@pytest.mark.parametrize("algorithm", [fomaml, maml])
def test_what_cannot_be_is_named(algorithm):
    with pytest.raises(ValueError, match="`steps` is 0; expected a whole number, 1 or more"):
        algorithm(mean_squared_error, optax.sgd(0.1), steps=0, batch_size=2)
    g = algorithm(mean_squared_error, optax.sgd(0.1), steps=2, batch_size=2)
    model = network(jax.random.key(0))
    with pytest.raises(ValueError, match="these tasks have none: set examples aside"):
        g.estimate(model, g.start(model), Task(TASKS(jax.random.key(0)).support), jax.random.key(0))
