"""Few-shot density modelling: the model is a distribution over drawings, and what is reported follows from records."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import noise

from reptile_eqx.paper.catalogue import Scale
from reptile_eqx.paper.section_8 import density, density_figures
from reptile_eqx.paper.section_8.pixelcnn import PixelCNN, bits_per_pixel, sample
from reptile_eqx.runs.records import find_record

FIGURES = Path(__file__).parents[2] / "figures"


def model(side, seed=0):
    """A network whose every parameter is drawn, as a fresh one gives all pixels the same chance."""
    fresh = PixelCNN((side, side), channels=3, layers=2, key=jax.random.key(seed))
    leaves, form = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return form.unflatten([jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


def every_drawing(side):
    """All drawings of a size, first pixel first: `(2^(side²), side, side, 1)`."""
    numbers = np.arange(2 ** (side * side))
    return ((numbers[:, None] >> np.arange(side * side)) & 1).reshape(-1, side, side, 1).astype(np.float32)


def probabilities(network, side):
    each = jax.vmap(lambda drawing: bits_per_pixel(network, drawing[None]))(jnp.asarray(every_drawing(side)))
    return np.asarray(2 ** (-side * side * each), np.float64)


def test_a_pixel_depends_on_those_before_it_that_the_masks_let_through():
    side, layers = 7, 2
    # Where all is positive no ReLU is shut.
    network = jax.tree.map(jnp.abs, model(side))
    slopes = jax.jacobian(network)(jnp.ones((1, side, side, 1))).reshape([side] * 4)
    i, j, row, column = np.indices(slopes.shape)
    up, left = i - row, j - column
    seen = (0 <= up) & (up <= layers + 1) & (left <= layers + 1) & np.where(up == 0, left > 0, left >= -up)
    np.testing.assert_array_equal(slopes != 0, seen)


def test_probabilities_of_all_drawings_sum_to_one():
    assert probabilities(model(3), 3).sum() == pytest.approx(1, abs=1e-5)


def test_samples_come_as_often_as_their_probability_says():
    count, expected = 20_000, probabilities(model(2), 2)
    drawn = np.asarray(jax.jit(sample, static_argnums=2)(model(2), jax.random.key(3), count)).reshape(count, -1)
    seen = np.bincount((drawn @ 2 ** np.arange(4)).astype(int), minlength=16) / count
    # Five standard deviations of each share.
    assert (abs(seen - expected) <= 5 * np.sqrt(expected * (1 - expected) / count) + 1e-4).all()
    assert expected.std() > 0.02


def test_a_sample_is_what_the_whole_drawing_would_have_given():
    side, network, key = 6, model(6), jax.random.key(4)
    luck = jax.random.uniform(key, (side * side, 3))
    drawings = np.zeros((3, side, side, 1), np.float32)
    for pixel in range(side * side):
        i, j = divmod(pixel, side)
        drawings[:, i, j, 0] = luck[pixel] < jax.nn.sigmoid(network(jnp.asarray(drawings))[:, i, j])
    np.testing.assert_array_equal(sample(network, key, 3), drawings)


def test_packed_drawings_are_read_as_they_were():
    drawings = np.random.default_rng(0).integers(0, 2, (2, 3, 28, 28, 1)).astype(np.float32)
    texts = density.packed(drawings)
    np.testing.assert_array_equal(density.unpacked(texts[1][2]), drawings[1, 2, ..., 0])


def test_parts_of_the_characters_do_not_overlap_and_ink_is_one():
    data = noise(14, size=(5, 5, 1))
    config = density.FewShotDensity(train_classes=8, validation_classes=2)
    seen = {
        part: {
            bytes(np.asarray(config.tasks(data, {"seed": 0}, part, shots=6)(key).support[..., 0].sum(0), np.uint8))
            for key in jax.random.split(jax.random.key(0), 40)
        }
        for part in ("training", "validation", "evaluation")
    }
    assert [len(some) for some in seen.values()] == [8, 2, 4]
    assert len(set.union(*seen.values())) == 14
    assert set.union(*seen.values()) == {bytes((one < 128).sum(0).astype(np.uint8)) for one in data.images}


@pytest.fixture(scope="module")
def trained():
    return {
        method: [find_record(config, FIGURES) for config in configs]
        for method, configs in density.runs(Scale("paper")).items()
    }


def test_the_published_records_are_drawn(trained):
    assert {record.status for records in trained.values() for record in records} == {"finished"}
    assert [len(density.bits(records, 5)) for records in trained.values()] == [5, 5, 5]
    assert density.bits(trained["Random initialisation"], 5, adapted=False)[0] == pytest.approx(1, abs=1e-4)
    assert len(density.table(trained)) == 3 and all(found.seeds for found in density.claims(trained).values())
    one = {name: records[0] for name, records in trained.items()}
    for figure in (density_figures.bits_by_steps(trained), density_figures.samples(one)):
        figure.canvas.draw()


def test_every_method_shows_the_same_characters(trained):
    support = [records[0].results["shown"]["support"] for records in trained.values()]
    assert support[0] == support[1] == support[2] != trained["Reptile"][1].results["shown"]["support"]


@pytest.mark.parametrize("method", density.METHODS)
def test_settings_are_those_that_the_published_tuning_chooses(method):
    records = [find_record(config, FIGURES) for config in density.tuning_runs()[method]]
    assert density.chosen(records) == density.TUNED[density.METHODS[method]]


def test_joint_training_sees_as_many_drawings_as_reptile():
    made = density.runs(Scale("paper"))
    joint, meta = (made[method][0] for method in ("Joint training", "Reptile"))
    assert joint.outer_iterations == meta.outer_iterations * meta.inner_iterations
    assert joint.inner_batch_size == meta.inner_batch_size


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(algorithm="maml"), "algorithm"),
        (dict(outer_iterations=0), "outer_iterations"),
        (dict(eval_learning_rates=((1e-3,),)), "eval_learning_rates"),
        (dict(eval_steps=(1, 17)), "eval_steps"),
        (dict(held_out="training"), "held_out"),
    ],
)
def test_what_makes_no_run_is_refused_by_its_name(wrong, said):
    with pytest.raises(ValueError, match=f"`{said}`"):
        density.FewShotDensity(**wrong)
