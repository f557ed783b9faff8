"""Section 8's reinforcement learning: policy gradients against exact ones, tasks, and what records say."""

import itertools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib import pyplot as plt

from reptile_eqx.paper.catalogue import Scale
from reptile_eqx.paper.section_8 import reinforcement_figures as shown
from reptile_eqx.paper.section_8.reinforcement import (
    ENVIRONMENTS,
    Bandit,
    Mover,
    Navigation,
    ReinforcementLearning,
    Tasks,
    play,
    surrogate,
)
from reptile_eqx.paper.section_8.reinforcement_runs import TUNED, runs, tuning, tuning_runs
from reptile_eqx.runs.records import Record, find_record

FIGURES = Path(__file__).parents[2] / "figures"


@pytest.mark.parametrize("derivative", ["first", "second"])
def test_the_surrogates_derivatives_are_in_expectation_those_of_the_expected_return(derivative):
    """Exactly: over all pairs of arms that a batch of two episodes may pull, each with its probability."""
    bandit, hidden = Bandit(arms=3, noise=0.0), jnp.array([0.7])
    policy = bandit.policy(jax.random.key(0))
    flat, unravel = ravel_pytree(eqx.filter(policy, eqx.is_array))
    still = eqx.filter(policy, eqx.is_array, inverse=True)
    direction = jax.random.normal(jax.random.key(1), flat.shape)

    def derived(loss, *arguments):
        gradient = jax.grad(lambda flat: loss(eqx.combine(unravel(flat), still), *arguments))
        return gradient(flat) if derivative == "first" else jax.jvp(gradient, (flat,), (direction,))[1]

    def lost(policy):
        means = jnp.cos(2 * jnp.pi * jnp.arange(3) / 3 - hidden[0])
        return -jax.nn.softmax(policy.network(bandit.start())) @ means

    @jax.jit
    def of_batch(keys):
        batch = jnp.broadcast_to(hidden, (2, 1)), keys
        return play(bandit, policy, batch).actions[:, 0], derived(surrogate(bandit), batch)

    keys = jax.random.split(jax.random.PRNGKey(2), (60, 2))
    pulled, derivatives = jax.vmap(of_batch)(keys)
    by_pair = dict(zip(map(tuple, pulled.tolist()), derivatives, strict=True))
    assert set(by_pair) == set(itertools.product(range(3), repeat=2))
    chances = jax.nn.softmax(policy.network(bandit.start()))
    expected = sum(chances[a] * chances[b] * found for (a, b), found in by_pair.items())
    np.testing.assert_allclose(expected, derived(lost), rtol=1e-4, atol=1e-6)


class Straight(eqx.Module):
    """Moves along the first axis as fast as it can, and asks for more."""

    def act(self, observation, key):
        return jnp.array([3.0, 0.0])


def test_the_return_of_a_known_policy_on_a_known_goal():
    episodes = jnp.array([[0.5, 0.2]]), jax.random.split(jax.random.PRNGKey(0), 1)
    played = play(Navigation(), Straight(), episodes)
    where = 0.1 * np.arange(1, 21)
    np.testing.assert_allclose(played.rewards[0], -((where - 0.5) ** 2 + 0.2**2), atol=1e-5)
    np.testing.assert_allclose(played.observations[0], np.stack([where - 0.1, 0 * where], 1), atol=1e-6)


def test_a_movers_log_probability_is_that_of_a_normal_density_but_for_a_constant():
    policy = Mover(eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0)), noise=0.3)
    seen, done = jnp.array([0.1, -0.2]), jnp.array([[0.4, 0.0], [-0.5, 0.3]])
    ours = jax.vmap(lambda action: policy.log_probability(seen, action))(done)
    theirs = jax.scipy.stats.norm.logpdf(done, policy.network(seen), 0.3).sum(1)
    np.testing.assert_allclose(ours[0] - ours[1], theirs[0] - theirs[1], rtol=1e-5)


def test_a_task_is_a_pure_function_of_its_key_and_no_two_of_its_episodes_are_alike():
    tasks = Tasks(Navigation(), support=6, query=4)
    one, again, other = tasks(jax.random.key(0)), tasks(jax.random.PRNGKey(0)), tasks(jax.random.key(1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    (goals, keys), (judged, more) = one
    np.testing.assert_array_equal(np.concatenate([goals, judged]), np.tile(goals[0], (10, 1)))
    assert len(np.unique(np.concatenate([keys, more]), axis=0)) == 10
    assert np.abs(goals).max() <= 0.5 and not np.allclose(goals[0], other.support[0][0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(environment="chess"), "`environment` is 'chess'; expected bandit or navigation"),
        (dict(algorithm="ppo"), "`algorithm` is 'ppo'; expected random or joint"),
        (dict(algorithm="joint"), "`inner_iterations` is 5; expected 1 for 'joint'"),
        (dict(algorithm="random"), "`outer_iterations` is 1000; expected 0 for 'random'"),
        (dict(inner_batch_size=1), "`inner_batch_size` is 1; expected a whole number, 2 or more"),
        (dict(eval_inner_iterations=4), "`eval_inner_iterations` is 4; expected a whole number, 5 or more"),
    ],
)
def test_what_makes_no_training_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ReinforcementLearning(**wrong)


def test_figures_and_table_are_drawn_of_the_published_records():
    matplotlib.use("Agg")
    every = runs(Scale("paper"), "navigation")
    methods = {name: [find_record(config, FIGURES) for config in every[name]] for name in every}
    for record in itertools.chain(*methods.values()):
        assert record.status == "finished"
        assert np.shape(record.results["return"]["mean"]) == (11,)
        assert np.shape(record.results["paths"]) == (3, 2, 2, 20, 2)
    assert len(shown.by_steps(methods).axes) == 2 and len(shown.paths(methods).axes) == 15
    assert list(shown.table(methods)["Method"]) == list(methods)
    plt.close("all")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_method_is_tuned_on_as_many_points_and_has_the_best_of_them(environment):
    final = runs(Scale("paper"), environment)
    for method, configs in tuning_runs(environment).items():
        assert len({(config.inner_step_size, config.outer_step_size) for config in configs}) == 15
        best = next(iter(tuning(find_record(config, FIGURES) for config in configs)))
        assert best == TUNED[environment][method], method
        assert not {c.seed for c in configs} & {c.seed for c in final[method]}


def record(returns, seed=0, status="finished", **config):
    """A made-up record."""
    results = {"return": {"mean": returns, "tasks": 3}} if status == "finished" else {}
    return Record(f"run-{seed}", "Fake", dict(seed=seed, environment="bandit") | config, status, [], results, {})


def test_the_best_point_of_a_grid_is_the_best_mean_over_seeds_that_all_ended():
    def at(step, after, **more):
        return record([9.0] * 5 + [after], inner_step_size=step, outer_step_size=1.0, **more)

    lost = at(3.0, 0.0, status="diverged")
    points = tuning([at(1.0, 0.1), at(1.0, 0.5), at(2.0, 0.2), at(2.0, 0.2), at(3.0, 0.9), lost])
    assert list(points) == [(1, 1.0), (2, 1.0)]
    assert points[1, 1.0] == pytest.approx(0.3)


def test_claims_are_judged_by_pairs_of_seeds():
    def method(gain, before=0.0, wobble=0.01):
        steps = [[before + seed, *[before + seed + gain + wobble * (-1) ** seed] * 5] for seed in range(4)]
        return [record(returns, seed) for seed, returns in enumerate(steps)]

    # Seeds differ by far more than methods do.
    verdicts = shown.claims({
        "Random initialisation": method(0.0), "Joint training": method(0.2, before=0.1), "FOMAML": method(0.5),
        "MAML": method(0.6, wobble=0.02), "Reptile": method(0.5, wobble=0.3),
    })  # fmt: skip
    assert verdicts["Joint training adapts: its return after 5 steps is above that before"].holds is True
    assert verdicts["Random initialisation adapts: its return after 5 steps is above that before"].holds is None
    assert verdicts["after 5 steps MAML's return is above that of FOMAML"].holds is True
    assert verdicts["after 1 step FOMAML's return is above that of Reptile"].holds is None
    lost = {"Joint training": [record([], status="diverged")]}
    assert (
        shown.claims({m: method(0.5) for m in shown.MARKS} | lost)[
            "after 5 steps Reptile's return is above that of Joint training"
        ].holds
        is None
    )
