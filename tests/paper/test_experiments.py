"""The experiments' configurations: what they ask of their settings, and the training that they describe."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_up import noise

from reptile_eqx import (
    Task,
    fomaml,
    gradient_combination,
    joint_training,
    maml,
    reference_adam,
    reptile,
    sum_cross_entropy,
)
from reptile_eqx.paper.experiments import FewShotClassification
from reptile_eqx.runs.configuration import numbers_of, run_name
from reptile_eqx.training import start

FEW = dict(dataset="noise", ways=3, train_classes=4)


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def assert_close(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


class Classifier(eqx.Module):
    """A batch of points in the plane to logits of three classes."""

    layers: eqx.nn.MLP

    def __call__(self, x):
        return jax.vmap(self.layers)(x)


@pytest.mark.parametrize("b1", [0.0, 0.9])
@pytest.mark.parametrize("reset", [False, True])
def test_an_experiments_adam_has_its_momentum_and_rolls_on_or_not(b1, reset):
    sizes = dict(inner_iterations=2, inner_batch_size=3, training_shots=6, **FEW)
    config = FewShotClassification(adam_b1=b1, reset_optimiser=reset, **sizes)
    gradient = config.learner(noise(6), numbers_of(config)).gradient
    model = Classifier(eqx.nn.MLP(2, 3, 8, 1, activation=jnp.tanh, key=jax.random.key(0)))
    task = Task((jax.random.normal(jax.random.key(1), (6, 2)), jnp.arange(6) % 3))
    theirs = reptile(sum_cross_entropy, reference_adam(1e-3, b1=b1), steps=2, batch_size=3)
    ours, fresh = gradient.start(model), theirs.start(model)
    first, ours, _ = gradient.estimate(model, ours, task, jax.random.key(2))
    wanted, after, _ = theirs.estimate(model, fresh, task, jax.random.key(2))
    assert_close(leaves(first), leaves(wanted), rtol=1e-6)
    assert ours.count == (0 if reset else 2)
    second, _, _ = gradient.estimate(model, ours, task, jax.random.key(3))
    wanted, _, _ = theirs.estimate(model, fresh if reset else after, task, jax.random.key(3))
    assert_close(leaves(second), leaves(wanted), rtol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "tail"), [("reptile", 0), ("joint", 0), *itertools.product(("fomaml", "maml", "combination"), (0, 2))]
)
def test_an_experiment_trains_by_the_algorithm_it_names(algorithm, tail):
    k = 1 if algorithm == "joint" else 3
    settings = dict(optimiser="sgd", learning_rate=0.1, inner_batch_size=3, training_shots=6, **FEW)
    weights = (2.0, 0.0, -1.0) if algorithm == "combination" else ()
    config = FewShotClassification(algorithm=algorithm, inner_iterations=k, tail=tail, weights=weights, **settings)
    ours = config.learner(noise(6), numbers_of(config)).gradient

    more = {} if algorithm in ("reptile", "joint") else dict(separate_tail=tail > 0)
    more |= {"joint": {}, "combination": dict(weights=weights)}.get(algorithm, dict(steps=k))
    named = dict(reptile=reptile, joint=joint_training, fomaml=fomaml, maml=maml, combination=gradient_combination)
    theirs = named[algorithm](sum_cross_entropy, optax.sgd(0.1), batch_size=3, **more)

    model = Classifier(eqx.nn.MLP(2, 3, 8, 1, activation=jnp.tanh, key=jax.random.key(0)))
    x, y = jax.random.normal(jax.random.key(1), (9, 2)), jnp.arange(9) % 3
    task = Task((x[:6], y[:6]), (x[6:], y[6:]))
    a, b = (leaves(g.estimate(model, g.start(model), task, jax.random.key(2))[0]) for g in (ours, theirs))
    assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert max(np.abs(leaf).max() for leaf in a) > 1e-3


def test_training_and_evaluation_characters_are_apart_and_depend_on_the_seed_alone():
    data = noise(20, 5, (4, 4, 1))

    def split(**settings):
        config = FewShotClassification(train_classes=12, ways=2, **settings)
        training, evaluation = (
            config.tasks(data, numbers_of(config), training=training, shots=1, queries=1) for training in (True, False)
        )
        assert training.rotations and not evaluation.rotations, "only training classes are turned"
        return training.classes.tolist(), evaluation.classes.tolist()

    training, evaluation = split(seed=1)
    assert len(training) == 12 and sorted(training + evaluation) == list(range(20))
    assert split(seed=1, outer_iterations=7, learning_rate=0.1, inner_batch_size=3) == (training, evaluation)
    others = [split(seed=seed)[1] for seed in range(2, 6)]
    assert len({frozenset(classes) for classes in [evaluation, *others]}) == 5, "every seed has its own split"


def test_another_initialisation_has_other_first_weights_on_the_seeds_own_split_tasks_and_batches():
    data = noise()

    def begun(**settings):
        config = FewShotClassification(seed=3, training_shots=4, **FEW | dict(train_classes=8), **settings)
        learner = config.learner(data, numbers_of(config))
        state = start(learner, jax.random.PRNGKey(3))
        return leaves(state.model), state.key, learner.tasks(jax.random.key(0))

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    weights, key, task = begun()
    plain = data.facts.network(3, key=jax.random.split(jax.random.PRNGKey(3))[0])
    assert same(weights, leaves(plain)) and same(weights, begun(initialisation=0)[0])
    others = [begun(initialisation=i) for i in (1, 2)]
    assert all(same((key, task), (its_key, its_task)) for _, its_key, its_task in others)
    assert not same(weights, others[0][0]) and not same(others[0][0], others[1][0])
    assert run_name(FewShotClassification(initialisation=1)) != run_name(FewShotClassification())


def test_average_features_are_the_networks():
    config = FewShotClassification(training_shots=4, average_features=True, **FEW | dict(train_classes=8))
    learner = config.learner(noise(), numbers_of(config))
    assert start(learner, jax.random.PRNGKey(0)).model.head.shape == (64, 3)
    assert run_name(config) != run_name(dataclasses.replace(config, average_features=False))


def test_a_dataset_knows_whether_its_classes_are_shuffled_and_turned():
    def classes(config, of, training):
        tasks = config.tasks(noise(of=of), numbers_of(config), training=training, shots=1, queries=1)
        return tasks.classes.tolist(), tasks.rotations

    published = FewShotClassification(dataset="mini-imagenet", train_classes=8, validation_classes=2, ways=3)
    assert classes(published, "mini-imagenet", True) == (list(range(8)), False)
    assert classes(published, "mini-imagenet", False) == ([10, 11, 12, 13], False)
    shuffled = FewShotClassification(dataset="omniglot", train_classes=8, ways=3)
    (training, turned), (rest, still) = (classes(shuffled, "omniglot", training) for training in (True, False))
    assert turned and not still and training != list(range(8))
    assert sorted(training + rest) == list(range(14))


def test_evaluation_batches_may_differ_by_shots():
    FewShotClassification(eval_shots=(1, 5), eval_inner_batch_size=(5, 15))
    for sizes in ((5,), (5, 0), 0):
        with pytest.raises(ValueError, match="`eval_inner_batch_size` is"):
            FewShotClassification(eval_shots=(1, 5), eval_inner_batch_size=sizes)


def test_lists_of_shots_are_as_good_as_tuples():
    config = FewShotClassification(eval_shots=[1, 5], eval_inner_batch_size=[5, 15])
    assert config == FewShotClassification(eval_shots=(1, 5), eval_inner_batch_size=(5, 15)) and hash(config)


def test_images_of_another_size_or_dataset_are_named():
    config = FewShotClassification(**FEW)
    with pytest.raises(ValueError, match=r"network for 'noise' takes images of \(28, 28, 1\), .* given \(28, 20, 1\)"):
        config.learner(noise(size=(28, 20, 1)), numbers_of(config))
    with pytest.raises(ValueError, match="`dataset` is 'noise'; expected 'other', the dataset given"):
        config.learner(noise(name="other"), numbers_of(config))
    with pytest.raises(ValueError, match="takes a dataset of images by class, .* given ndarray"):
        config.learner(noise().images, numbers_of(config))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(schedule="shuffle"), "`schedule` is 'shuffle'; expected cycle or replacement"),
        (dict(inner_iterations=0), "`inner_iterations` is 0; expected 1 or more"),
        (dict(eval_tasks=1), "`eval_tasks` is 1"),
        (dict(order="random"), "`order` is 'random'; expected exact or parallel"),
        (dict(learning_rate=-1e-3), "`learning_rate` is -0.001; expected a finite number, 0 or more"),
        (dict(outer_step_size=float("nan")), "`outer_step_size` is nan"),
        (dict(seed=-1), "`seed` is -1"),
        (dict(adam_b1=1.0), "`adam_b1` is 1.0; expected 0 or more and less than 1"),
        (dict(curve_tasks=1), "`curve_tasks` is 1; expected 2 or more, to have an interval"),
        (dict(curve_points=-1), "`curve_points` is -1; expected a whole number, 0 or more"),
        (dict(eval_shots=(0,)), "`eval_shots` is 0; expected a whole number, 1 or more"),
        (dict(outer_iterations=2.5), "`outer_iterations` is 2.5; expected a whole number, 0 or more"),
        (dict(outer_iterations=None), "`outer_iterations` is None; expected a whole number"),
        (dict(outer_iterations=2**31), "`outer_iterations` is 2147483648; .* at most 2,147,483,647"),
        (dict(seed=2**32), "`seed` is 4294967296; expected a whole number, 0 or more, and at most 4,294,967,295"),
        (dict(ways=True), "`ways` is True; expected a whole number"),
        (dict(learning_rate=None), "`learning_rate` is None; expected a finite number"),
        (dict(learning_rate="1e-3"), "`learning_rate` is '1e-3'; expected a finite number"),
        (dict(reset_optimiser=1), "`reset_optimiser` is 1; expected True or False"),
        (dict(eval_shots=(1.5,)), "`eval_shots` is 1.5; expected a whole number"),
        (dict(eval_inner_batch_size=(2, 2.5)), "`eval_inner_batch_size` is 2.5; expected a whole number"),
        (dict(algorithm="combination", weights=(float("nan"),)), "`weights` is nan; expected a finite number"),
        (dict(precision="half"), "`precision` is 'half'; expected float32 or tensorfloat32 or bfloat16"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        unchecked(**setting)


def unchecked(**settings):
    """A configuration, past the tests' own type checks, which would come before its own."""
    config = object.__new__(FewShotClassification)
    FewShotClassification.__init__.__wrapped__(config, **settings)
    return config


def test_a_whole_float_is_that_integer():
    """As papermill and YAML write numbers."""
    config = unchecked(outer_iterations=20.0, seed=np.int64(3), eval_shots=(1.0, 5))
    assert config == FewShotClassification(outer_iterations=20, seed=3)
    assert run_name(config) == run_name(FewShotClassification(outer_iterations=20, seed=3))
    assert "-20-seed3-" in run_name(config)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(algorithm="fomaml", tail=10), "`tail` is 10; expected fewer than the 10 training shots"),
        (dict(algorithm="fomaml", tail=-1), "`tail` is -1"),
        (dict(tail=2), "`tail` is 2; expected 0, as reptile has no last batch of its own"),
        (dict(algorithm="combination", weights=(1.0, 1.0)), r"`weights` is \(1.0, 1.0\); expected 5 numbers"),
        (dict(algorithm="combination"), r"`weights` is \(\); expected 5 numbers"),
        (dict(weights=(1.0,) * 5), "expected 0 numbers"),
        (dict(inner_iterations=0), "`inner_iterations` is 0; expected 1 or more"),
        (dict(algorithm="joint"), "`inner_iterations` is 5; expected 1 for joint training"),
    ],
)
def test_settings_that_cannot_be_are_named_at_the_door(setting, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassification(**setting)
