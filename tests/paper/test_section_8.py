"""Section 8's questions on images: what each setting does, and how its records are read."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import reptile_eqx as rx
from reptile_eqx.losses import mean_cross_entropy
from reptile_eqx.nn import OmniglotNetwork
from reptile_eqx.paper.catalogue import Scale
from reptile_eqx.paper.experiments import FewShotClassification
from reptile_eqx.paper.section_8 import answers, figures, questions
from reptile_eqx.paper.section_8.entries import entries as of_section_8
from reptile_eqx.paper.section_8.fine_tuning import FineTunedReptile, JointTraining
from reptile_eqx.paper.section_8.supervised import Characters, Supervised, agreement, one_step
from reptile_eqx.paper.section_8.variants import DeepNetwork, Variant
from reptile_eqx.runs.configuration import numbers_of, run_name
from reptile_eqx.runs.records import find_record

FIGURES = Path(__file__).parents[2] / "figures"

KEY = jax.random.key(0)
SMALL = dict(dataset="glyphs", train_classes=300, validation_classes=100, training_shots=5, inner_batch_size=5,
             inner_iterations=2, meta_batch_size=1, outer_iterations=3)  # fmt: skip
FIRST = dict(inner_iterations=1, optimiser="sgd")


@pytest.fixture(scope="module")
def glyphs():
    return rx.datasets.load("glyphs")


class Smooth(eqx.Module):
    """A classifier without kinks, so that expansions hold."""

    first: jax.Array
    last: jax.Array

    def __call__(self, x):
        return jnp.tanh(x @ self.first) @ self.last


def small_steps(model, batches, rate):
    """φ - φ̃ of SGD, written out."""
    parameters, rest = rx.trainable(model)
    moved = parameters
    for batch in batches:
        gradient = jax.grad(lambda p, batch=batch: mean_cross_entropy(eqx.combine(p, rest), batch))(moved)
        moved = jax.tree.map(lambda a, g: a - rate * g, moved, gradient)
    return ravel_pytree(jax.tree.map(jnp.subtract, parameters, moved))[0]


def test_one_large_step_with_the_term_is_two_small_steps_to_second_order():
    """In the mean over their order, as eq. 41 is an expectation: what is left is of third order, without the term of
    second."""
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        model = Smooth(jax.random.normal(KEY, (3, 4), float), jax.random.normal(KEY, (4, 3), float))
        x, y = jax.random.normal(KEY, (8, 3), float), jnp.arange(8) % 3
        halves = (x[:4], y[:4]), (x[4:], y[4:])

        def error(rate, amplified):
            small = (small_steps(model, halves, rate) + small_steps(model, halves[::-1], rate)) / 2
            gradient = one_step(rate, 2, amplified)
            direction, _, _ = gradient.estimate(model, gradient.start(model), rx.Task((x, y), None), KEY)
            return float(jnp.linalg.norm(ravel_pytree(direction)[0] - small))

        assert error(1e-2, 0.0) / error(1e-3, 0.0) == pytest.approx(100, rel=0.05)
        assert error(1e-2, 1.0) / error(1e-3, 1.0) == pytest.approx(1000, rel=0.05)


def test_a_step_agrees_with_itself():
    model = Smooth(jax.random.normal(KEY, (3, 4)), jax.random.normal(KEY, (4, 3)))
    batch = jax.random.normal(KEY, (8, 3)), jnp.arange(8) % 3
    product, cosine = agreement(model, batch, batch)
    gradient = small_steps(model, [batch], 1.0)
    np.testing.assert_allclose(product, gradient @ gradient, rtol=1e-4)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


def test_four_blocks_without_regulariser_are_the_papers_training(glyphs):
    """Their first task's meta-gradient. Adam's first step is the gradient's sign, whose rounding the second would take
    on, so that there is one step."""
    ends = []
    for config in (FewShotClassification(**SMALL | FIRST), Variant(**SMALL | FIRST)):
        learner = config.learner(glyphs, numbers_of(config))
        state = rx.start(learner, jax.random.PRNGKey(0))
        direction, *_ = learner.gradient.estimate(state.model, state.inner, learner.tasks(KEY), KEY)
        ends.append(ravel_pytree(direction)[0])
    np.testing.assert_allclose(*ends, atol=1e-6)


def adapted(config, data, steps=1):
    """The parameters before and after a task's first steps, with a start away from 0 in all of them."""
    numbers = numbers_of(config)
    learner = config.learner(data, numbers)
    model = jax.tree.map(lambda leaf: leaf + 0.1, learner.model(KEY))
    task = learner.tasks(KEY)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * steps), task.support)
    optimiser = config._optimiser(numbers)
    after = rx.adapt(config._loss(model, numbers), optimiser, model, rx.start_optimiser(optimiser, model), batches)
    return ravel_pytree(rx.trainable(model)[0])[0], ravel_pytree(rx.trainable(after.model)[0])[0]


def test_weight_decay_takes_its_share_of_every_parameter(glyphs):
    before, plain = adapted(Variant(**SMALL), glyphs)
    _, decayed = adapted(Variant(**SMALL, weight_decay=2.0), glyphs)
    np.testing.assert_allclose(plain - decayed, 1e-3 * 2.0 * before, atol=1e-5)


def test_the_pull_keeps_a_task_near_where_it_started(glyphs):
    def distance(pull):
        before, after = adapted(Variant(**SMALL, pull=pull), glyphs, steps=4)
        return float(jnp.linalg.norm(after - before))

    assert distance(1e3) < 0.7 * distance(0.0)


def test_dropout_leaves_out_a_share_of_units_and_none_without_keys():
    network = DeepNetwork(5, blocks=6, filters=8, dropout=0.5, key=KEY)
    plain = DeepNetwork(5, blocks=6, filters=8, key=KEY)
    x = jax.random.uniform(KEY, (3, 28, 28, 1))
    np.testing.assert_array_equal(network(x), plain(x))
    keys = jax.random.split(KEY, 3)
    assert not np.allclose(network(x, keys), network(x))
    np.testing.assert_array_equal(plain(x, keys), plain(x))


def test_every_example_has_its_own_key(glyphs):
    config = Variant(**SMALL, dropout=0.5)
    *_, keys = config.learner(glyphs, numbers_of(config)).tasks(KEY).support
    assert len(np.unique(np.asarray(jax.random.key_data(keys)), axis=0)) == 25


def test_drawings_to_test_on_are_never_trained_on(glyphs):
    classes = jnp.arange(20)
    marked = jnp.broadcast_to(jnp.arange(20, dtype=jnp.uint8)[None, :, None, None, None], glyphs.images[:20].shape)
    for first, last in ((0, 15), (15, 20)):
        x, y = Characters(marked, classes, 500, first, last)(KEY).support
        seen = np.unique(np.round(np.asarray(x) * 255))
        np.testing.assert_array_equal(seen, np.arange(first, last))
        np.testing.assert_array_equal(np.unique(y), np.arange(20))


def test_a_character_turned_is_another():
    images = jax.random.randint(KEY, (2, 3, 4, 4, 1), 0, 255).astype(jnp.uint8)
    x, y = Characters(images, jnp.arange(2), 100, 0, 3, turned=True)(KEY).support
    assert set(np.asarray(y)) == set(range(8))
    for picture, label in zip(np.asarray(x), np.asarray(y), strict=True):
        turned = [np.rot90(some, label // 2) for some in np.asarray(images[label % 2])]
        assert any(np.allclose(picture * 255, some, atol=1e-3) for some in turned)


def test_characters_that_are_fine_tuned_to_were_not_trained_on(glyphs):
    for config in (JointTraining(dataset="glyphs", train_classes=300), FineTunedReptile(**SMALL)):
        split = config.split if isinstance(config, Supervised) else config.classes
        parts = [set(np.asarray(part).tolist()) for part in split(glyphs, {"seed": 0})]
        assert [len(part) for part in parts] == [300, 100, 200]
        assert len(set.union(*parts)) == 600


def test_the_first_four_blocks_of_a_deep_network_are_the_papers():
    deep, paper = DeepNetwork(5, blocks=8, key=KEY), OmniglotNetwork(5, key=KEY)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), (deep.blocks, deep.head), (paper.blocks, paper.head))
    assert all(jax.tree.leaves(same))
    assert len(deep.deeper) == 4


def test_operations_are_the_multiplications_of_its_layers():
    """Counted from the shapes of what each layer makes of a drawing."""

    def count(blocks):
        network, x, total = DeepNetwork(20, blocks=blocks, key=KEY), jnp.zeros((1, 28, 28, 1)), 0
        for block in (*network.blocks[:3], *network.deeper, *network.blocks[3:]):
            x = block(x)
            total += x.shape[1] * x.shape[2] * block.kernel.size
        return total + network.head.size

    assert questions.operations(12) == pytest.approx(count(12) / count(4))


@pytest.mark.parametrize("field, value, said", [
    ("blocks", 3, "4 or more"), ("dropout", 1.0, "less than 1"), ("algorithm", "maml", "reptile"),
])  # fmt: skip
def test_what_makes_no_variant_is_told(field, value, said):
    with pytest.raises(ValueError, match=f"`{field}` is .*{said}"):
        Variant(**{field: value})


@pytest.mark.parametrize("kind", [JointTraining, FineTunedReptile])
def test_what_fine_tuning_cannot_be_tried_with_is_told(kind):
    with pytest.raises(ValueError, match="`tuning_steps` is 0; expected a whole number"):
        kind(tuning_steps=[5, 0])
    with pytest.raises(ValueError, match="`tuning_steps` is .* larger than the one before"):
        kind(tuning_steps=[5, 5])
    with pytest.raises(ValueError, match="`tuning_rates` is empty"):
        kind(tuning_rates=())
    with pytest.raises(ValueError, match="`learning_rate`"):
        kind(learning_rate=-1.0)


def test_fine_tuning_tried_with_more_shares_its_training():
    small = dict(outer_iterations=1, eval_tasks=2)
    few, more = (JointTraining(dataset="glyphs", train_classes=300, tuning_steps=n, **small) for n in ([1], [1, 2]))
    assert run_name(few) != run_name(more)
    assert run_name(few, training_only=True) == run_name(more, training_only=True)


def test_what_makes_no_ordinary_training_is_told():
    with pytest.raises(ValueError, match="`amplified` is 1.0; expected 0"):
        Supervised(amplified=1.0)
    with pytest.raises(ValueError, match="expected sgd"):
        Supervised(one_step=True, optimiser="adam")


def record(seed, **results):
    return rx.Record(f"made-up-{seed}", "Variant", {"seed": seed, "ways": 5}, "finished", [], results, {})


def test_fine_tuning_is_chosen_on_other_characters_than_it_is_reported_on():
    chosen, reported = np.zeros((2, 2)), np.full((2, 2), 0.5)
    chosen[1, 0], reported[0, 0] = 0.9, 0.99
    of = [
        record(seed, **{"validation 5-way": {"mean": chosen.tolist()}, "evaluation 5-way": {"mean": reported.tolist()}})
        for seed in (0, 1)
    ]
    assert answers.best_fine_tuning(of, 5) == (1, 0)
    assert answers.fine_tuned(of, 5) == {0: 50.0, 1: 50.0}


def test_learning_rates_and_strengths_are_those_that_the_records_choose():
    for question, runs in questions.choosing_runs().items():
        for name, configs in runs.items():
            records = [find_record(config, FIGURES) for config in configs]
            assert None not in records, name
            assert questions.CHOSEN[question][name] == questions.chosen(question, name, records), name


def test_seeds_that_choose_are_not_reported():
    for profile in ("quick", "paper"):
        listed = of_section_8(Scale(profile))
        on_images = (listed[name] for name in ("depth", "regularisers", "ordinary", "fine-tuning"))
        seeds = {config.seed for entry in on_images for config in entry.configs}
        assert questions.CHOOSING_SEED not in seeds


def test_quick_shows_records_that_come_with_the_project():
    for entry in of_section_8(Scale("quick")).values():
        missing = [config.name for config in entry.configs if find_record(config, FIGURES) is None]
        assert not missing


def test_figures_have_a_place_for_every_run():
    """Each run of the published figures is drawn: records of made-up numbers, found again on the axes."""
    entries = of_section_8(Scale("quick"))

    def made_up(config):
        split = {
            f"{part} 1-shot": {"mean": 0.1 + 0.1 * config.seed} for part in ("training", "validation", "evaluation")
        }
        made = record(config.seed, **split)
        return dataclasses.replace(made, config=dataclasses.asdict(config), curve=[{"iteration": 1} | split])

    drawn = figures.depth(
        {
            what: {name: list(map(made_up, of)) for name, of in some.items()}
            for what, some in entries["depth"].runs.items()
        }
    )
    (axes,) = drawn.axes
    assert [line.get_label() for line in axes.containers] == [
        f"{blocks}, {what}"
        for what in ("as many iterations", "as many operations as 4 blocks")
        for blocks in ("plain", "with skips")
    ]
    rows = figures.gaps({name: list(map(made_up, of)) for name, of in entries["regularisers"].runs.items()})
    assert [label.get_text() for label in rows.axes[1].get_yticklabels()] == list(entries["regularisers"].runs)
