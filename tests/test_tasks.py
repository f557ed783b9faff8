"""Task distributions and the paper's two mini-batch schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reptile_eqx import tasks
from reptile_eqx.experiments import FewShotClassification

# Few sizes, as each is compiled, and any seed.
SIZES = st.tuples(
    st.sampled_from([1, 5, 12]), st.sampled_from([1, 4, 13]), st.sampled_from([1, 7]), st.integers(0, 10**6)
)


@functools.cache
def jitted(schedule):
    return jax.jit(schedule, static_argnums=(1, 2, 3))


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_cycle_cuts_reshuffled_passes_in_order(sizes):
    """Laid end to end, the batches are passes that each hold every example once; a batch may straddle two."""
    examples, batch_size, steps, seed = sizes
    batches = np.asarray(jitted(tasks.cycle)(jax.random.key(seed), examples, batch_size, steps))
    assert batches.shape == (steps, batch_size)
    stream = batches.ravel()
    for begin in range(0, stream.size, examples):
        one_pass = stream[begin : begin + examples]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(examples))


def test_cycle_reshuffles_every_pass_evenly():
    stream = np.asarray(tasks.cycle(jax.random.key(0), 6, 6, 3000))
    assert len({tuple(one_pass) for one_pass in stream}) > 600, "nearly all 720 orders turn up"
    counts = np.stack([np.bincount(stream[:, place], minlength=6) for place in range(6)])
    assert np.square(counts - 500).sum() / 500 < 60, "each example is as often in each place"


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_replacement_draws_each_batch_afresh_without_repeats(sizes):
    examples, batch_size, steps, seed = sizes
    if batch_size > examples:
        with pytest.raises(ValueError, match=f"the task has {examples}"):
            tasks.replacement(jax.random.key(seed), examples, batch_size, steps)
        return
    batches = np.asarray(jitted(tasks.replacement)(jax.random.key(seed), examples, batch_size, steps))
    assert batches.shape == (steps, batch_size)
    assert all(len(set(batch)) == batch_size for batch in batches)


def test_replacement_is_not_cycle():
    """Two batches of half the examples overlap about half: batches do not know of one another."""
    batches = np.asarray(tasks.replacement(jax.random.key(0), 10, 5, 2000))
    shared = [len(set(a) & set(b)) for a, b in zip(batches[::2], batches[1::2], strict=True)]
    assert 2.4 < np.mean(shared) < 2.6


def test_draw_is_even_over_a_large_population():
    drawn = jax.vmap(lambda key: tasks.draw(key, 50, 3))(jax.random.split(jax.random.key(1), 4000))
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=50)
    assert np.square(counts - 240).sum() / 240 < 100


def coded_images(classes=6, drawings=5):
    """Images that say what they are: one pixel holds the class, one the drawing; a lit corner the orientation."""
    images = np.zeros((classes, drawings, 8, 8, 1), np.uint8)
    images[:, :, 3:5, 3:5, 0] = np.arange(classes)[:, None, None, None] + 1
    images[:, :, 0, 0, 0] = 200 + np.arange(drawings)
    return jnp.asarray(images)


CORNERS = {0: (0, 0), 1: (7, 0), 2: (7, 7), 3: (0, 7)}  # where np.rot90 moves the first pixel


def decode(image):
    image = np.round(np.asarray(image)[..., 0] * 255).astype(int)
    turns = next(k for k, corner in CORNERS.items() if image[corner] >= 200)
    return image[3, 3] - 1, image[CORNERS[turns]] - 200, turns


@pytest.mark.parametrize("rotations", [False, True])
def test_a_few_shot_task_is_what_it_says(rotations):
    allowed = jnp.array([0, 2, 3, 5])
    distribution = tasks.FewShot(coded_images(), allowed, ways=3, shots=2, queries=1, rotations=rotations)
    kinds = set()
    for seed in range(30):
        task = distribution(jax.random.key(seed))
        (x, y), (query, labels) = task.support, task.query
        assert y.tolist() == [0, 0, 1, 1, 2, 2] and labels.tolist() == [0, 1, 2]
        seen = [decode(image) for image in x]
        asked = [decode(image) for image in query]
        classes = [(kind, turns) for kind, _, turns in asked]
        assert len(set(classes)) == 3, "classes are distinct, turned ones counting as others"
        for label in range(3):
            assert {(seen[i][0], seen[i][2]) for i in (2 * label, 2 * label + 1)} == {classes[label]}
            drawings = [seen[2 * label][1], seen[2 * label + 1][1], asked[label][1]]
            assert len(set(drawings)) == 3, "held-out examples are others than those shown"
        kinds |= set(classes)
    assert {kind for kind, _ in kinds} == {0, 2, 3, 5}
    assert {turns for _, turns in kinds} == ({0, 1, 2, 3} if rotations else {0})


def test_too_many_ways_or_shots_are_errors():
    images, classes = coded_images(), jnp.arange(4)
    with pytest.raises(ValueError, match="5-way tasks need 5 classes, and there are 4"):
        tasks.FewShot(images, classes, ways=5, shots=1)
    with pytest.raises(ValueError, match="4 shots and 2 held-out examples need .* there are 5"):
        tasks.FewShot(images, classes, ways=2, shots=4, queries=2)
    tasks.FewShot(images, classes, ways=16, shots=1, rotations=True)


def test_training_and_evaluation_characters_are_apart_and_depend_on_the_seed():
    images = coded_images(classes=20)
    config = FewShotClassification(train_classes=12, ways=2, seed=1)

    def classes(config, training):
        return set(config._tasks(images, training=training, shots=1, queries=1).classes.tolist())

    assert classes(config, True) | classes(config, False) == set(range(20))
    assert len(classes(config, True)) == 12 and not classes(config, True) & classes(config, False)
    other = FewShotClassification(train_classes=12, ways=2, seed=2)
    assert classes(config, True) != classes(other, True)
    longer = FewShotClassification(train_classes=12, ways=2, seed=1, outer_iterations=7, learning_rate=0.1)
    assert classes(config, True) == classes(longer, True)


def test_sine_tasks_lie_on_one_wave():
    amplitudes, phases = [], []
    for seed in range(200):
        (x, y), (grid, wave) = task = tasks.SineWaves(points=10)(jax.random.key(seed))
        assert task.support[0].shape == (10, 1) and (jnp.abs(x) <= 5).all()
        np.testing.assert_allclose(grid[:, 0], np.linspace(-5, 5, 50), atol=1e-6)
        basis = np.concatenate([np.sin(grid), np.cos(grid)], 1)
        (s, c), *_ = np.linalg.lstsq(basis, np.asarray(wave)[:, 0], rcond=None)
        np.testing.assert_allclose(s * np.sin(x) + c * np.cos(x), y, atol=1e-4)
        amplitudes.append(np.hypot(s, c))
        phases.append(np.arctan2(c, s) % (2 * np.pi))
    assert 0.1 <= min(amplitudes) < 0.5 and 4.5 < max(amplitudes) <= 5.0
    assert min(phases) < 0.3 and max(phases) > 6.0
    spaced = tasks.SineWaves(spaced=True)(jax.random.key(0))
    assert spaced.support[0].shape == (50, 1)


def test_examples_that_disagree_in_number_are_an_error():
    with pytest.raises(ValueError, match=r"found lengths \[3, 4\]"):
        tasks.count_examples((jnp.zeros(3), jnp.zeros(4)))


def test_minibatches_keep_examples_together():
    x = jnp.arange(6.0)
    a, b = tasks.minibatches(tasks.cycle, jax.random.key(0), (x, 10 * x), 4, 3)
    assert a.shape == (3, 4) and jnp.array_equal(b, 10 * a)
