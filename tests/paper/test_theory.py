"""Section 5 by numbers: expansions, coefficients, manifolds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reptile_eqx import mean_squared_error
from reptile_eqx.paper import manifolds, theory
from reptile_eqx.tasks import SineWaves, cycle, minibatches


@pytest.fixture
def problem():
    with theory.float64():
        model = eqx.nn.MLP(1, 1, 6, 2, activation=jnp.tanh, key=jax.random.key(0))
        phi, loss = theory.flatten(mean_squared_error, model)
        tasks = [
            minibatches(cycle, jax.random.key(i), SineWaves(points=8)(jax.random.key(i + 9)).support, 4, 2)
            for i in range(3)
        ]
        yield loss, phi, tasks


def hessian(loss, phi, batch):
    return jax.hessian(loss)(phi, batch)


def batch(task, i):
    return jax.tree.map(lambda leaf: leaf[i], task)


def test_hessian_products_are_the_hessians(problem):
    loss, phi, tasks = problem
    v = jnp.cos(jnp.arange(phi.size, dtype=phi.dtype))
    expected = hessian(loss, phi, batch(tasks[0], 0)) @ v
    np.testing.assert_allclose(
        theory.hessian_product(loss, phi, batch(tasks[0], 0), v), expected, rtol=1e-9, atol=1e-12
    )


def test_expansions_are_written_out_right_for_two_steps(problem):
    """Eqs. 25-27 with whole Hessians."""
    loss, phi, tasks = problem
    task, alpha = tasks[0], 0.01
    g = [jax.grad(loss)(phi, batch(task, i)) for i in range(2)]
    h = [hessian(loss, phi, batch(task, i)) for i in range(2)]
    expanded = theory.expanded_meta_gradients(loss, phi, task, alpha)
    np.testing.assert_allclose(expanded["MAML"], g[1] - alpha * h[1] @ g[0] - alpha * h[0] @ g[1], rtol=1e-9)
    np.testing.assert_allclose(expanded["FOMAML"], g[1] - alpha * h[1] @ g[0], rtol=1e-9)
    np.testing.assert_allclose(expanded["Reptile"], g[0] + g[1] - alpha * h[1] @ g[0], rtol=1e-9)


@pytest.mark.parametrize("k", [2, 5])
def test_errors_of_the_expansions_fall_as_alpha_squared(problem, k):
    loss, phi, tasks = problem
    batches = jax.tree.map(lambda leaf: jnp.tile(leaf, (4,) + (1,) * (leaf.ndim - 1))[:k], tasks[0])
    alphas = np.geomspace(1e-4, 1e-3, 4)

    @jax.jit
    def errors(alpha):
        exact, expanded = (
            f(loss, phi, batches, alpha) for f in (theory.meta_gradients, theory.expanded_meta_gradients)
        )
        steps = theory.inner_gradients(loss, phi, batches, alpha) - theory.expanded_gradients(loss, phi, batches, alpha)
        return {n: jnp.linalg.norm(exact[n] - expanded[n]) for n in exact} | {"g_i": jnp.linalg.norm(steps)}

    measured = [errors(alpha) for alpha in alphas]
    for name in measured[0]:
        assert abs(theory.fitted_slope(alphas, [float(m[name]) for m in measured]) - 2) < 0.02, name


def test_maml_here_is_the_packages(problem):
    import optax

    from reptile_eqx import Task, maml

    loss, phi, tasks = problem
    model = eqx.nn.MLP(1, 1, 6, 2, activation=jnp.tanh, key=jax.random.key(0))
    x, y = tasks[0]
    task = Task((x[0], y[0]), (x[1], y[1]))
    g = maml(mean_squared_error, optax.sgd(0.05), steps=2, batch_size=4)
    ours, _, _ = g.estimate(model, g.start(model), task, jax.random.key(0))
    flat, _ = jax.flatten_util.ravel_pytree(eqx.filter(ours, eqx.is_inexact_array))
    np.testing.assert_allclose(theory.meta_gradients(loss, phi, tasks[0], 0.05)["MAML"], flat, rtol=1e-6, atol=1e-9)


def test_the_forms_of_avg_grad_inner_agree_and_are_the_expectation(problem):
    """Eqs. 29-32: batches are drawn independently, so E[H₂g₁] = E_τ[mean H · mean g]."""
    loss, phi, tasks = problem
    terms = theory.average_terms(loss, phi, tasks)
    for form in ("eq. 30", "eq. 31", "eq. 32"):
        np.testing.assert_allclose(terms[form], terms["eq. 29"], rtol=1e-8, atol=1e-11)
    by_hand = []
    for task in tasks:
        g = np.mean([jax.grad(loss)(phi, batch(task, i)) for i in range(2)], 0)
        by_hand.append(np.mean([hessian(loss, phi, batch(task, i)) for i in range(2)], 0) @ g)
    np.testing.assert_allclose(terms["eq. 29"], np.mean(by_hand, 0), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_coefficients_recovered_from_meta_gradients_are_the_predicted(problem, k):
    """Eqs. 33-35, 37, 39, 41, within a percent."""
    loss, phi, tasks = problem
    recovered = theory.recovered_coefficients(loss, phi, tasks, k, 1e-5, theory.average_terms(loss, phi, tasks))
    for name, predicted in theory.predicted_coefficients(k).items():
        np.testing.assert_allclose(recovered[name], predicted, rtol=0.01, err_msg=name)


def test_errors_of_coefficients_over_many_step_sizes_are_those_of_each(problem):
    loss, phi, tasks = problem
    alphas = np.array([1e-4, 1e-2])
    errors = theory.coefficient_errors(problem, 3, alphas)
    terms = theory.average_terms(loss, phi, tasks)
    for i, alpha in enumerate(alphas):
        found = theory.recovered_coefficients(loss, phi, tasks, 3, alpha, terms)
        for name, (_, wanted) in theory.predicted_coefficients(3).items():
            assert errors[name][i] == pytest.approx(abs(found[name][1] / wanted - 1), rel=1e-6)
    assert all(large > 30 * small for small, large in errors.values())


def test_sequences_are_the_whole_sample_space():
    assert sorted(map(tuple, theory.sequences(2, 2))) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("manifold", manifolds.MANIFOLDS)
def test_the_gradient_of_the_squared_distance_is_twice_the_way_to_the_projection(manifold):
    """Eq. 44, by finite differences; and the projection lies on the manifold, at a right angle."""
    with theory.float64():
        phi = jnp.array([1.3, 0.4])
        nearest = manifolds.project(manifold, phi)
        assert abs(manifold(nearest)) < 1e-12

        def squared(p):
            return float(jnp.sum(jnp.square(p - manifolds.project(manifold, p))))

        steps = 1e-5 * np.eye(2)
        numerical = [(squared(phi + h) - squared(phi - h)) / 2e-5 for h in steps]
        np.testing.assert_allclose(numerical, 2 * (phi - nearest), rtol=1e-6)
        assert manifolds.distance_gradient_error(manifold, phi) < 1e-7
        grid = jnp.linspace(-5, 5, 20001)
        curve = jnp.stack([grid, jax.vmap(lambda x: -manifold(jnp.array([x, 0.0])))(grid)], 1)
        assert jnp.linalg.norm(curve - phi, axis=1).min() >= jnp.linalg.norm(nearest - phi) - 1e-9


def test_alternating_projections_end_at_the_point_nearest_both():
    with theory.float64():
        goal = manifolds.nearest_to_both(jnp.array([0.0, 0.0]))
        iterates = manifolds.alternate(manifolds.project, jnp.array([-2.0, -0.5]), 2000)
        assert jnp.linalg.norm(iterates[-1] - goal) < 0.01
        partial = manifolds.alternate(
            lambda m, p: manifolds.partial_minimisation(m, p, 5), jnp.array([-2.0, -0.5]), 4000
        )
        assert jnp.linalg.norm(partial[-1] - goal) < 0.5
