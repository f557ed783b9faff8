"""Initialisations: kept in a file and read in another process, used on new pictures, refused where damaged."""

import json
import pickle
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reptile_eqx as rx
from reptile_eqx import files

X = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def start():
    model = rx.nn.ConvNetwork(3, (12, 12, 1), filters=4, blocks=2, key=jax.random.key(0))
    optimiser = rx.reference_adam(1e-2)
    inner = rx.start_optimiser(optimiser, model)
    inner = inner._replace(square=jax.tree.map(lambda leaf: leaf + 0.25, inner.square))
    return rx.Initialisation(model, inner, rx.sum_cross_entropy, optimiser, 3, 2, about={"name": "mine"})


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def assert_equal(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_another_process_reads_what_was_written_and_classifies_the_same(start, tmp_path):
    rx.save(tmp_path / "mine.eqx", start)
    np.save(tmp_path / "x.npy", X)
    expected = start.classifier(X, LABELS).logits(X)
    program = """
import sys, numpy as np, reptile_eqx as rx
x = np.load(sys.argv[1] + "/x.npy")
adapted = rx.load(sys.argv[1] + "/mine.eqx").classifier(x, [0, 1, 2, 0, 1, 2])
np.save(sys.argv[1] + "/logits.npy", adapted.logits(x))
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.npy", "mine.eqx", "x.npy"]


@pytest.mark.parametrize("x64", [False, True])
def test_what_is_written_is_read_whatever_jax_is_set_to(start, tmp_path, x64):
    rx.save(tmp_path / "a.eqx", start)
    with jax.enable_x64(x64):
        again = rx.load(tmp_path / "a.eqx")
    assert_equal((again.model, again.inner), (start.model, start.inner))
    assert (again.steps, again.batch_size, again.about) == (3, 2, {"name": "mine"})


def test_bfloat16_survives(start, tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, start)
    rx.save(tmp_path / "a.eqx", half)
    assert_equal(rx.load(tmp_path / "a.eqx").model, half.model)


def test_what_a_file_cannot_say_must_be_given(tmp_path):
    model = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0))
    optimiser = optax.sgd(0.1, momentum=0.9)

    def own_loss(model, batch):
        return rx.mean_squared_error(model, batch)

    start = rx.Initialisation(model, rx.start_optimiser(optimiser, model), own_loss, optimiser, 2, 1)
    rx.save(tmp_path / "a.eqx", start)
    with pytest.raises(
        ValueError, match=r"cannot say its model and loss and optimiser.*rx.load\(path, model=…, loss=…, "
    ):
        rx.load(tmp_path / "a.eqx")
    other = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(7))
    again = rx.load(tmp_path / "a.eqx", model=other, loss=own_loss, optimiser=optimiser)
    assert_equal(again.model, model)
    with pytest.raises(ValueError, match="give the model and the optimiser that it was saved with"):
        rx.load(
            tmp_path / "a.eqx", model=eqx.nn.MLP(1, 1, 5, 1, key=jax.random.key(7)), loss=own_loss, optimiser=optimiser
        )
    x = jnp.linspace(-1, 1, 4)[:, None]
    np.testing.assert_array_equal(jax.vmap(again.adapt((x, x)))(x), jax.vmap(start.adapt((x, x)))(x))


def test_another_structure_is_refused(tmp_path):
    sgd = rx.recorded("sgd", learning_rate=0.1, momentum=0.9)
    model = {"a": jnp.ones((2, 2)), "b": jnp.zeros((2, 2))}
    start = rx.Initialisation(model, rx.start_optimiser(sgd, model), rx.mean_squared_error, sgd, 1, 1)
    rx.save(tmp_path / "a.eqx", start)
    assert_equal(rx.load(tmp_path / "a.eqx", model=model).model, model)
    with pytest.raises(ValueError, match=r"of another structure .* only one of them has .*'a'"):
        rx.load(tmp_path / "a.eqx", model={"b": model["b"], "zz": model["a"]})
    with pytest.raises(ValueError, match="of another structure .*nu"):
        rx.load(tmp_path / "a.eqx", model=model, optimiser=optax.rmsprop(0.1))


def test_numpys_numbers_infinities_and_long_notes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sgd = rx.recorded("sgd", learning_rate=0.1)
    model = {"w": jnp.ones(2), "mask": rx.Frozen(jnp.array([0, -jnp.inf]))}
    about = {"accuracy": np.float32(0.5), "notes": "x" * 2_000_000}
    rx.save(
        "~/a.eqx",
        rx.Initialisation(model, rx.start_optimiser(sgd, model), rx.mean_squared_error, sgd, 1, 1, about=about),
    )
    again = rx.load("~/a.eqx", model=model)
    assert_equal(again.model, model)
    assert again.about["accuracy"] == 0.5 and len(again.about["notes"]) == 2_000_000
    with pytest.raises(TypeError, match="takes an rx.Initialisation; given a dict"):
        rx.save.__wrapped__(tmp_path / "b.eqx", model)


def test_recorded_optimisers_are_kept_with_their_numbers(start, tmp_path):
    sgd = rx.recorded("sgd", learning_rate=0.125, momentum=0.5)
    changed = rx.Initialisation(
        start.model, rx.start_optimiser(sgd, start.model), rx.mean_cross_entropy, sgd, 3, 2, rx.replacement
    )
    rx.save(tmp_path / "a.eqx", changed)
    again = rx.load(tmp_path / "a.eqx")
    assert again.optimiser.call == ("sgd", {"learning_rate": 0.125, "momentum": 0.5})
    assert (again.loss, again.schedule) == (rx.mean_cross_entropy, rx.replacement)
    np.testing.assert_array_equal(again.classifier(X, LABELS).logits(X), changed.classifier(X, LABELS).logits(X))
    for wrong in (("__import__", {"x": 1}), ("sgd", {"learning_rate": "0.1"}), ("apply_updates", {})):
        with pytest.raises(ValueError, match="expected one of reference_adam, sgd"):
            rx.recorded(wrong[0], **wrong[1])


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_damage_is_told_and_nothing_is_run(start, tmp_path):
    path = tmp_path / "a.eqx"
    rx.save(path, start)
    whole = path.read_bytes()
    line, content = files.unsealed("initialisation", whole).split(b"\n", 1)
    header = json.loads(line)

    def with_content(content, **changes):
        return files.sealed("initialisation", json.dumps(header | changes).encode() + b"\n" + content)

    nan = content[:-4] + np.float32(np.nan).tobytes()
    objects = np.array([Boom()], object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    damaged = {
        "cut": whole[:-100], "flipped": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "empty": b"",
        "text": b"hello\n",
        "a list": files.sealed("initialisation", b"[1]\n" + content),
        "no header": files.sealed("initialisation", content),
        "another kind": files.sealed("checkpoint", line + b"\n" + content),
        "steps changed": whole.replace(b'"steps": ', b'"steps": 1'),
        "no steps": files.sealed(
            "initialisation", json.dumps({k: v for k, v in header.items() if k != "steps"}).encode() + b"\n" + content
        ),
        "NaN": with_content(nan), "a pickle": pickle.dumps(Boom()), "no arrays": with_content(b""),
        "a pickled object": with_content((tmp_path / "objects.npy").read_bytes(), arrays=header["arrays"]),
        "other shapes": with_content(content, arrays=header["arrays"][::-1]),
        "a function's name": with_content(content, optimiser=["eval", {"x": 1}]),
        "another network": with_content(content, network=header["network"] | {"filters": 5}),
        "no network": with_content(content, network={"ways": 5}), "arrays 3": with_content(content, arrays=3),
        "odd arrays": with_content(content, arrays=[[1]]), "steps x": with_content(content, steps="x"),
        "about nothing": with_content(content, about=None),
    }  # fmt: skip
    for what, bad in damaged.items():
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"a\.eqx|expected one of"):
            rx.load(path)
            pytest.fail(what)
    with pytest.raises(FileNotFoundError):
        rx.load(tmp_path / "nowhere.eqx")


def test_alone_and_transductive_are_section_6_1s(start):
    adapted = start.classifier(X, LABELS)
    x = jnp.asarray(X / np.float32(255))
    np.testing.assert_allclose(adapted.logits(X, transductive=True), adapted.model(x), rtol=1e-4, atol=1e-5)
    alone = np.stack([adapted.model(jnp.concatenate([x, one[None]]))[-1] for one in x])
    np.testing.assert_allclose(adapted.logits(X), alone, rtol=1e-4, atol=1e-5)
    assert set(np.asarray(adapted(X))) <= {0, 1, 2}


@pytest.mark.parametrize("ways", [1, 2, 3, 7])
def test_the_head_follows_the_number_of_classes(start, ways):
    other = start.for_ways(ways)
    assert other.model.head.shape[1] == other.inner.square.head.shape[1] == len(other.model.head_bias) == ways
    np.testing.assert_array_equal(other.model.head[:, -1], start.model.head[:, (ways - 1) % 3])
    labels = np.arange(6) % ways
    assert start.classifier(X, labels).logits(X).shape == (6, min(ways, 6))


def test_a_model_of_ones_own_needs_no_head_of_ours_for_the_same_number_of_classes():
    class Own(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            return jax.vmap(self.linear)(x.reshape(len(x), -1))

    model = Own(eqx.nn.Linear(144, 3, key=jax.random.key(0)))
    sgd = optax.sgd(0.1)
    start = rx.Initialisation(model, rx.start_optimiser(sgd, model), rx.sum_cross_entropy, sgd, 2, 3)
    assert start.classifier(X, LABELS)(X).shape == (6,)
    with pytest.raises(ValueError, match=r"Own has no method `for_ways\(ways\)` .* 2 classes"):
        start.classifier(X, LABELS % 2)


def test_bad_pictures_and_labels(start):
    with pytest.raises(ValueError, match="6 pictures need as many labels"):
        start.classifier(X, LABELS[:5])
    with pytest.raises(ValueError, match="each of them there; given .0 1 3."):
        start.classifier(X, [0, 1, 3, 0, 1, 3])
    for wrong in (LABELS / 2, LABELS + 1, [5] * 6):
        with pytest.raises(ValueError, match="labels are integers 0, 1, … up to"):
            start.classifier(X, wrong)
    for wrong in (X * 1.0, X.astype(np.int32), X / 255 - 1, X * np.nan):
        with pytest.raises(ValueError, match="pictures are bytes .uint8. or floats in"):
            start.classifier(wrong, LABELS)
    with pytest.raises(ValueError, match=r"one image is a batch of one, x\[None\]"):
        start.model(jnp.zeros((12, 12, 1)))
    with pytest.raises(ValueError, match=r"takes a batch of images, \(batch, 12, 12, 1\); given \(2, 8, 8, 1\)"):
        start.model(jnp.zeros((2, 8, 8, 1)))
    with pytest.warns(UserWarning, match="black and white the other way round"):
        rx.Initialisation(**vars(start) | {"about": {"brightness": 0.95}}).classifier(X // 4, LABELS)


def test_new_pictures_of_another_shape(start):
    adapted = start.classifier(X, LABELS)
    for wrong in (X[0], X[..., 0], X[:, :9], np.repeat(X, 3, -1)):
        with pytest.raises(
            ValueError, match=r"new pictures have the shape \(picture, 12, 12, 1\), as those adapted to"
        ):
            adapted(wrong)


def test_accuracy_over_tasks(start):
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 12, 12, 1)).astype(np.uint8)
    tasks = rx.FewShot(images, np.arange(5), ways=3, shots=1, queries=2)
    result = start.accuracy(tasks, jax.random.key(0), count=20)
    with pytest.raises(ValueError, match="labels go from 0 to 3, and the network has 3 outputs"):
        start.accuracy(rx.FewShot(images, np.arange(5), ways=4, shots=1, queries=1), jax.random.key(0), count=2)
    assert result["alone"]["tasks"] == 20 and 0 <= result["transductive"]["mean"] <= 1
