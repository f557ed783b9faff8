"""Task distributions and the paper's two mini-batch schedules."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reptile_eqx import FewShot, tasks

# Most of a test's time is compilation, so programs are compiled quickly rather than to run quickly.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(eqx.filter_jit, compiler_options=QUICK)

# (examples, batch size, steps): few, as each is compiled; and any seed.
SIZES = st.sampled_from([(1, 1, 1), (1, 4, 3), (5, 1, 7), (5, 4, 7), (5, 13, 2), (12, 12, 3), (12, 4, 2)])
SEEDS = st.integers(0, 2**31 - 1)


@functools.cache
def compiled(schedule, *sizes):
    return jit(lambda seed: schedule(jax.random.key(seed), *sizes))


def assert_even(counts, bound=5):
    """Chi-square within `bound` standard deviations of what even chances give."""
    counts = np.asarray(counts, float).ravel()
    freedom, expected = counts.size - 1, counts.mean()
    assert expected >= 10, "too few to tell"
    assert np.square(counts - expected).sum() / expected < freedom + bound * (2 * freedom) ** 0.5


@settings(max_examples=60, deadline=None)
@given(SIZES, SEEDS)
@example((5, 4, 7), 0)
def test_cycle_cuts_reshuffled_passes_in_order(sizes, seed):
    """Laid end to end, the batches are passes that each hold every example once; a batch may straddle two."""
    examples, batch_size, steps = sizes
    batches = np.asarray(compiled(tasks.cycle, *sizes)(seed))
    assert batches.shape == (steps, batch_size)
    stream = batches.ravel()
    for begin in range(0, stream.size, examples):
        one_pass = stream[begin : begin + examples]
        assert len(set(one_pass)) == len(one_pass), "no repeat before the pass is over"
        assert set(one_pass) <= set(range(examples))
        assert begin + examples > stream.size or set(one_pass) == set(range(examples))


def test_batches_are_cut_from_one_stream_whatever_their_size():
    streams = [compiled(tasks.cycle, 5, *cut)(3).ravel() for cut in [(12, 1), (4, 3), (3, 4), (1, 12)]]
    assert all(jnp.array_equal(stream, streams[0]) for stream in streams[1:])


def test_cycle_reshuffles_every_pass_evenly():
    """Caught: one order for all passes, passes that know of one another, a shuffle that favours some orders."""
    stream = np.asarray(tasks.cycle(jax.random.key(0), 4, 4, 3000))
    _, counts = np.unique(stream, axis=0, return_counts=True)
    assert len(counts) == 24, "every order turns up"
    assert_even(counts)
    places = np.zeros((4, 4))
    np.add.at(places, (stream[:-1, 3], stream[1:, 0]), 1)
    assert_even(places)


@settings(max_examples=40, deadline=None)
@given(SIZES, SEEDS)
def test_replacement_draws_each_batch_without_repeats(sizes, seed):
    examples, batch_size, steps = sizes
    if batch_size > examples:
        with pytest.raises(ValueError, match=f"batch of {batch_size} .* the task has {examples}: lower"):
            tasks.replacement(jax.random.key(0), *sizes)
        return
    batches = np.asarray(compiled(tasks.replacement, *sizes)(seed))
    assert batches.shape == (steps, batch_size)
    assert all(len(set(batch)) == batch_size and set(batch) <= set(range(examples)) for batch in batches)


def test_batches_of_all_examples_are_the_same_with_and_without_replacement():
    key = jax.random.key(3)
    assert np.array_equal(tasks.replacement(key, 7, 7, 4), tasks.cycle(key, 7, 7, 4))


def test_replacement_draws_batches_evenly_and_independently():
    """Caught: batches that avoid or repeat the batch before them, as a pass cut in order would."""
    batches = np.asarray(tasks.replacement(jax.random.key(0), 4, 2, 4000))
    pair = np.unique(np.sort(batches, 1), axis=0, return_inverse=True)[1].ravel()
    assert pair.max() == 5
    together = np.zeros((6, 6))
    np.add.at(together, (pair[:-1], pair[1:]), 1)
    assert_even(together)


@pytest.mark.parametrize(("population", "count"), [(4, 2), (4, 4), (5, 1)])
def test_draw_gives_every_ordered_choice_evenly(population, count):
    keys = jax.random.split(jax.random.key(1), 2400)
    drawn = np.asarray(jit(jax.vmap(lambda key: tasks.draw(key, population, count)))(keys))
    assert all(len(set(row)) == count for row in drawn)
    choices, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(choices) == np.prod(np.arange(population, population - count, -1)), "every choice is reachable"
    assert_even(counts)


def test_draw_is_even_over_a_large_population():
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jit(jax.vmap(lambda key: tasks.draw(key, 1000, 3)))(keys)
    assert_even(np.bincount(np.asarray(drawn).ravel(), minlength=1000))


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 4, 1), np.uint8)
ALLOWED = [0, 2, 3, 5]
# Which class, drawing and number of quarter turns an image's bytes are: all 120 differ.
MEANING = {
    np.rot90(IMAGES[c, d], turns).tobytes(): (c, d, turns) for c in range(6) for d in range(5) for turns in range(4)
}


def meaning(x):
    pixels = np.round(np.asarray(x) * 255)
    np.testing.assert_allclose(x, pixels / 255, rtol=1e-6)
    return [MEANING[image.astype(np.uint8).tobytes()] for image in pixels]


@functools.cache
def many_tasks(rotations):
    distribution = FewShot(jnp.asarray(IMAGES), jnp.array(ALLOWED), ways=3, shots=2, queries=2, rotations=rotations)
    drawn = jit(jax.vmap(distribution))(jax.random.split(jax.random.key(0), 400))
    drawn = jax.tree.map(np.asarray, drawn)
    return [jax.tree.map(lambda leaf: leaf[i], drawn) for i in range(400)]  # noqa: B023


@pytest.mark.parametrize("rotations", [False, True])
def test_a_few_shot_task_is_what_it_says(rotations):
    assert len(MEANING) == 120
    for task in many_tasks(rotations):
        (x, y), (query, labels) = task.support, task.query
        assert x.shape == query.shape == (6, 4, 4, 1)
        assert y.tolist() == labels.tolist() == [0, 0, 1, 1, 2, 2]
        classes, shown = set(), meaning(x) + meaning(query)
        for label in range(3):
            mine = [shown[i] for i in np.flatnonzero(np.concatenate([y, labels]) == label)]
            kinds = {(c, turns) for c, _, turns in mine}
            assert len(kinds) == 1, "one label, one class, all its drawings turned alike"
            assert len({d for _, d, _ in mine}) == 4, "held-out drawings are others than those shown"
            classes |= kinds
        assert len(classes) == 3, "classes are distinct, turned ones counting as others"
        assert {c for c, _ in classes} <= set(ALLOWED)
        assert rotations or {turns for _, turns in classes} == {0}


@pytest.mark.parametrize("rotations", [False, True])
def test_few_shot_tasks_are_drawn_evenly(rotations):
    """Every class and turn under every label, every drawing in support and query; labels know not of one another."""
    classes, drawings = np.zeros((3, 4, 4 if rotations else 1)), np.zeros((2, 5))
    same = []
    for task in many_tasks(rotations):
        shown, asked = meaning(task.support[0]), meaning(task.query[0])
        for label in range(3):
            c, _, turns = shown[2 * label]
            classes[label, ALLOWED.index(c), turns] += 1
        for place, images in enumerate((shown, asked)):
            np.add.at(drawings[place], [d for _, d, _ in images], 1)
        same.append([d for _, d, _ in shown[:2]] == [d for _, d, _ in shown[2:4]])
    for under_label in classes:
        assert_even(under_label)
    assert_even(drawings[0])
    assert_even(drawings[1])
    assert np.mean(same) < 0.15, "each class draws its own examples: equal ones are 1 in 20"


def test_images_may_be_numpys_also_inside_a_trace():
    keys = jax.random.split(jax.random.key(0), 2)
    of_numpy, of_jax = (FewShot(some, np.arange(6), ways=3, shots=2) for some in (IMAGES, jnp.asarray(IMAGES)))
    together = jax.vmap(of_numpy)(keys).support[0]
    np.testing.assert_array_equal(together, jax.vmap(of_jax)(keys).support[0])


def test_tasks_without_queries_have_none():
    task = FewShot(jnp.asarray(IMAGES), jnp.arange(6), ways=6, shots=5)(jax.random.key(0))
    assert task.query is None
    shown = meaning(task.support[0])
    assert {(c, d) for c, d, _ in shown} == {(c, d) for c in range(6) for d in range(5)}, "all there is"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(ways=5, shots=1), "5-way tasks need 5 classes, and there are 4"),
        (dict(ways=17, shots=1, rotations=True), "17-way tasks need 17 classes, and there are 16"),
        (dict(ways=0, shots=1), "`ways` is 0; expected a whole number, 1 or more"),
        (dict(ways=2, shots=6), "6 shots and 0 held-out examples need .* there are 5"),
        (dict(ways=2, shots=4, queries=2), "4 shots and 2 held-out examples need .* there are 5"),
        (dict(ways=2, shots=0), "0 shots"),
        (dict(ways=2, shots=1, queries=-1), "`queries` is -1; expected a whole number, 0 or more"),
    ],
)
def test_impossible_tasks_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        FewShot(jnp.asarray(IMAGES), jnp.array(ALLOWED), **wrong)


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        (IMAGES / 255, ALLOWED, r"bytes of shape .* given float.*\(255 \* x\).round\(\)"),
        (IMAGES[..., 0], ALLOWED, r"bytes of shape \(class, drawing, height, width, channel\)"),
        (IMAGES[:, :, 1:], ALLOWED, "only square images can be turned"),
        (IMAGES, [0, IMAGES.shape[0]], "`classes` are from 0 to 6, and `images` has classes 0 to 5"),
        (IMAGES, [-1, 2], "`classes` are from -1 to 2"),
        (IMAGES, [[0, 1]], r"a vector of integers such as .* given int.* of shape \(1, 2\)"),
        (IMAGES, [True, False], "a vector of integers such as .* given bool"),
    ],
)
def test_images_and_classes_that_are_none_are_errors(images, classes, message):
    jaxtyping.config.update("jaxtyping_disable", True)  # as it is for users
    try:
        with pytest.raises(ValueError, match=message):
            FewShot(images, np.array(classes), ways=2, shots=1, rotations=True)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_the_largest_possible_tasks_are_not_errors():
    every_class = FewShot(jnp.asarray(IMAGES), jnp.array(ALLOWED), ways=16, shots=3, queries=2, rotations=True)
    every_drawing = FewShot(jnp.asarray(IMAGES), jnp.array(ALLOWED), ways=4, shots=5)
    assert jax.eval_shape(every_class, jax.random.key(0)).support[1].shape == (48,)
    assert jax.eval_shape(every_drawing, jax.random.key(0)).support[1].shape == (20,)


@functools.cache
def many_waves():
    waves = jit(jax.vmap(tasks.SineWaves(points=10)))(jax.random.split(jax.random.key(0), 500))
    return jax.tree.map(np.asarray, waves)


def fit(x, y):
    """Amplitude and phase of a·sin(x + b) through the points, by least squares."""
    basis = np.concatenate([np.sin(x), np.cos(x)], 1)
    (s, c), *_ = np.linalg.lstsq(basis, y[:, 0], rcond=None)
    return np.hypot(s, c), np.arctan2(c, s) % (2 * np.pi)


def test_a_sine_task_is_points_of_one_wave():
    (x, y), (grid, wave) = many_waves()
    assert x.shape == y.shape == (500, 10, 1)
    assert np.abs(x).max() <= 5
    for i in range(500):
        np.testing.assert_allclose(grid[i, :, 0], np.linspace(-5, 5, 50), atol=1e-6)
        amplitude, phase = fit(grid[i], wave[i])
        np.testing.assert_allclose(amplitude * np.sin(grid[i] + phase), wave[i], atol=1e-4)
        np.testing.assert_allclose(amplitude * np.sin(x[i] + phase), y[i], atol=1e-4)
        assert 0.0999 <= amplitude <= 5.0001


def test_waves_and_points_are_drawn_evenly_and_independently():
    (x, _), (grid, wave) = many_waves()
    amplitudes, phases = np.transpose([fit(*pair) for pair in zip(grid, wave, strict=True)])
    assert amplitudes.min() < 0.2 and amplitudes.max() > 4.9
    assert phases.min() < 0.1 and phases.max() > 6.2
    both, *_ = np.histogram2d(amplitudes, phases, bins=4, range=[(0.1, 5), (0, 2 * np.pi)])
    assert_even(both)
    with_points, *_ = np.histogram2d(amplitudes, x[:, 0, 0], bins=4, range=[(0.1, 5), (-5, 5)])
    assert_even(with_points)
    assert_even(np.histogram(x, bins=20, range=(-5, 5))[0])
    assert len(np.unique(x)) > 4900, "points differ within a task and between tasks"


def test_spaced_tasks_are_shown_the_fifty_points():
    task = tasks.SineWaves(spaced=True)(jax.random.key(0))
    assert task.support[0].shape == (50, 1)
    assert all(jnp.array_equal(a, b) for a, b in zip(task.support, task.query, strict=True))


@pytest.mark.parametrize(
    ("examples", "found"),
    [((jnp.zeros(3), jnp.zeros(4)), r"\[3, 4\]"), ({"x": np.zeros((2, 5)), "y": np.zeros(5)}, "")],
)
def test_examples_that_disagree_in_number_are_an_error(examples, found):
    with pytest.raises(ValueError, match=f"must share their first axis; found lengths {found}"):
        tasks.count_examples(examples)
    with pytest.raises(ValueError, match="must share their first axis"):
        tasks.minibatches(tasks.cycle, jax.random.key(0), examples, 2, 2)


@pytest.mark.parametrize("schedule", list(tasks.SCHEDULES.values()))
def test_minibatches_keep_examples_together(schedule):
    x = np.arange(12.0).reshape(6, 2)
    batches = tasks.minibatches(schedule, jax.random.key(0), {"x": jnp.asarray(x), "y": 10 * x[:, 0]}, 4, 3)
    assert batches["x"].shape == (3, 4, 2) and batches["y"].shape == (3, 4)
    assert jnp.array_equal(batches["y"], 10 * batches["x"][..., 0])
    indices = schedule(jax.random.key(0), 6, 4, 3)
    assert jnp.array_equal(batches["x"], x[np.asarray(indices)])
