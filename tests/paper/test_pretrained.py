"""Published initialisations: whole, small, float32, and as accurate as their records say."""

import dataclasses
import functools
import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reptile_eqx as rx
from reptile_eqx import files
from reptile_eqx.datasets import mini_imagenet
from reptile_eqx.paper import pretrained
from reptile_eqx.runs.configuration import numbers_of

PUBLISHED = sorted(path.stem for path in pretrained.FOLDER.glob("*.eqx"))


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_small_and_float32_and_its_records(name, x64):
    assert (pretrained.FOLDER / f"{name}.eqx").stat().st_size <= 1_000_000
    with jax.enable_x64(x64):
        published = rx.load_pretrained(name)
    leaves = arrays((published.model, published.inner))
    assert {str(leaf.dtype) for leaf in leaves} == {"float32", "int32"}
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    if files.in_checkout():
        record = json.loads((files.CHECKOUT / "figures" / "runs" / f"{published.record}.json").read_text())
        assert record["results"] == published.results
        # Fields that were added since have the defaults that they had.
        assert record["config"].items() <= json.loads(json.dumps(dataclasses.asdict(published.config))).items()


def test_a_published_file_can_be_adapted_whatever_jax_is_set_to():
    with jax.enable_x64(True):
        start = rx.load_pretrained("omniglot-5way")
        images = jax.random.uniform(jax.random.key(0), (5, 28, 28, 1))  # float64 here
        batches = rx.minibatches(rx.cycle, jax.random.key(1), (images, jnp.arange(5)), 5, 2)
        adapted = rx.adapt(start.loss, start.optimiser, start.model, start.inner, batches)
    assert {str(leaf.dtype) for leaf in arrays(adapted.model)} == {"float32"}


def test_tasks_of_classes_that_training_did_not_see():
    start = rx.load_pretrained("omniglot-5way")
    data = rx.datasets.ImageClasses(
        np.zeros((1623, 20, 28, 28, 1), np.uint8),
        tuple(map(str, range(1623))),
        "omniglot",
        "",
        rx.datasets.FACTS["omniglot"],
    )
    trained = start.config.tasks(data, numbers_of(start.config), training=True, shots=1, queries=0)
    unseen = start.unseen(data, shots=5)
    assert set(map(int, trained.classes)) | set(map(int, unseen.classes)) == set(range(1623))
    assert not set(map(int, trained.classes)) & set(map(int, unseen.classes)) and unseen.shots == 5


def test_an_unknown_name_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match="no published initialisation '../x'; there are .*omniglot-5way"):
        rx.load_pretrained("../x")


@pytest.mark.parametrize(("name", "tasks"), [("omniglot-5way", 24), ("omniglot-20way", 5), ("mini-imagenet-5way", 4)])
def test_the_published_files_give_the_published_accuracies(name, tasks, monkeypatch):
    if "REPTILE_DATA" not in os.environ:
        pytest.skip("REPTILE_DATA names no real images")
    published = rx.load_pretrained(name)
    image, blank = mini_imagenet._image, mini_imagenet._Decoded(np.zeros((84, 84, 3), np.uint8), (84, 84), "RGB")

    def of_evaluation_classes(sources, resample, locations):
        """Decoding the others, blank here, takes longer than all else."""
        read = any("test" in str(location) for location in locations)
        return image(sources, resample, locations) if read else blank

    monkeypatch.setattr(mini_imagenet, "_image", of_evaluation_classes)
    try:
        data = rx.datasets.load(published.config.dataset, os.environ["REPTILE_DATA"])
    except rx.datasets.Unavailable:
        pytest.skip(f"there is no {published.config.dataset} in REPTILE_DATA")

    # Unlike elsewhere in the tests, running takes longer than compiling.
    @functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 1})
    def accuracies(published, data, keys):
        config = published.config
        some = dataclasses.replace(config, eval_shots=(1,), eval_inner_batch_size=config.eval_batch_sizes[0])
        (measurement,) = some.measurements(data, numbers_of(some), final=True)
        return jax.lax.map(lambda key: measurement.measure(published, key), keys)

    keys = jax.random.split(jax.random.key(7), tasks)
    for setting, values in accuracies(published, jax.tree.map(jnp.asarray, data), keys).items():
        whole = published.results["1-shot"][setting]
        deviation = whole["ci95"] * whole["tasks"] ** 0.5 / 1.96
        assert abs(values.mean() - whole["mean"]) < 4 * deviation / tasks**0.5, setting
