"""`fit`: the paper's engine for anyone's learner: resumed exactly, refused where it is another training."""

import re
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reptile_eqx as rx
from reptile_eqx.paper.experiments import SineRegression

ITERATIONS = 40
SGD = optax.sgd(0.02)


def learner(**changes):
    gradient = rx.reptile(rx.mean_squared_error, SGD, steps=3, batch_size=5)
    parts = dict(
        model=lambda key: eqx.nn.MLP(1, 1, 8, 1, key=key),
        tasks=rx.SineWaves(),
        gradient=gradient,
        outer=rx.annealed_sgd(0.1, ITERATIONS),
    )
    return rx.Learner(**parts | changes)


MEASURE = {"loss": rx.QueryLoss(rx.SineWaves(), rx.mean_squared_error, SGD, 3, 5)}


def fit(one=None, iterations=ITERATIONS, **more):
    return rx.fit(
        one or learner(), iterations, **{"measure": MEASURE, "points": 4, "tasks": 3, "final_tasks": 5} | more
    )


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def assert_same(one, other):
    for a, b in zip(leaves(one.states), leaves(other.states), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.curve, one.results) == (other.curve, other.results)


def test_fit_trains_what_train_does_and_measures_it():
    result = fit(seeds=(3, 5))
    for seed, state in zip((3, 5), result.states, strict=True):
        one = learner()
        expected, _ = eqx.filter_jit(rx.train)(one, rx.start(one, jax.random.PRNGKey(seed)), ITERATIONS)
        for a, b in zip(leaves(state), leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert [(row["seed"], row["iteration"]) for row in result.curve] == [
        (s, i) for s in (3, 5) for i in (10, 20, 30, 40)
    ]
    assert set(result.curve[0]) == {
        "seed",
        "iteration",
        *(f"loss {w}{e}" for w in ("before", "after") for e in ("", " ±")),
    }
    assert result.results[1]["loss"]["after"]["tasks"] == 5 and result.diverged == ["", ""]
    # The state calls the model, on the host and in a program.
    assert jax.vmap(result.states[0].model)(jnp.zeros((4, 1))).shape == (4, 1)


def test_the_papers_run_is_the_same_training(tmp_path, monkeypatch):
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path))
    config = SineRegression(outer_iterations=20, curve_points=2, curve_tasks=2, eval_tasks=2, seed=4)
    rx.run([config])
    own = config.learner(None, {name: getattr(config, name) for name in config.numbers})
    for a, b in zip(leaves(fit(own, 20, seeds=[4]).states[0]), leaves(rx.load_state(config)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


PROGRAM = """
import sys
from test_fit import fit
fit(seeds=(0, 1), folder=sys.argv[1], iterations=2000, points=40)
"""


def test_killed_anywhere_the_same_call_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = fit(seeds=(0, 1), iterations=2000, points=40)
    for wait in (0.2, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "mine")], cwd="tests/runs", stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("mine/*/state.eqx")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert_same(fit(seeds=(0, 1), iterations=2000, points=40, folder=tmp_path / "mine"), whole)
    assert {path.name for path in tmp_path.glob("mine/*/*")} >= {"state.eqx"}
    assert not list(tmp_path.rglob("*.part"))


def test_more_iterations_go_on_from_the_end_and_fewer_are_refused(tmp_path):
    constant = learner(outer=optax.sgd(0.1))
    whole = fit(constant, 60)
    fit(constant, 40, folder=tmp_path)
    longer = fit(constant, 60, folder=tmp_path)
    for a, b in zip(leaves(longer.states), leaves(whole.states), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="is at iteration 60, and 50 were asked for"):
        fit(constant, 50, folder=tmp_path)


def other_loss(model, batch):
    return 2 * rx.mean_squared_error(model, batch)


@pytest.mark.parametrize(
    ("differs", "changes"),
    [
        ("model", {"model": lambda key: eqx.nn.MLP(1, 1, 8, 1, activation=jnp.sin, key=key)}),
        ("tasks", {"tasks": rx.SineWaves(spaced=True)}),
        ("loss", {"gradient": rx.reptile(other_loss, SGD, steps=3, batch_size=5)}),
        ("loss", {"gradient": rx.reptile(rx.mean_squared_error, optax.sgd(0.03), steps=3, batch_size=5)}),
        ("loss", {"gradient": rx.reptile(rx.mean_squared_error, SGD, steps=4, batch_size=5)}),
        ("outer optimiser", {"outer": rx.annealed_sgd(0.1, ITERATIONS + 1)}),
        (r"meta_batch_size \(1 there, 2 here\)", {"meta_batch_size": 2}),
        ("merge", {"merge": rx.merge_average}),
    ],
)
def test_a_folder_of_another_training_is_refused_with_what_differs(tmp_path, differs, changes):
    fit(folder=tmp_path, iterations=1, points=1)
    kept = (tmp_path / "seed-0" / "state.eqx").read_bytes()
    with pytest.raises(ValueError, match=f"the checkpoint of another training. What differs: .*{differs}"):
        fit(learner(**changes), folder=tmp_path)
    assert (tmp_path / "seed-0" / "state.eqx").read_bytes() == kept


def test_other_arrays_are_another_training(tmp_path):
    def tasks(offset):
        x = np.linspace(-1, 1, 6)[:, None].astype(np.float32)
        return rx.TaskList([rx.Task((x, x * i + offset)) for i in range(3)])

    fit(learner(tasks=tasks(0)), folder=tmp_path, iterations=1, points=1)
    with pytest.raises(ValueError, match="What differs: arrays"):
        fit(learner(tasks=tasks(1)), folder=tmp_path)


DAMAGES = [
    lambda b: b[:-50],
    lambda b: b"",
    lambda b: b"{}\n",
    lambda b: b"3\n",
    lambda b: b[:-9] + b"x" + b[-8:],
    lambda b: bytes(99),
]


def test_arrays_inside_compiled_functions_count_too(tmp_path):
    def tasks(factor):
        factors = jnp.arange(5.0)[:, None] * factor

        @jax.jit
        def inner(key):
            x = jax.random.normal(key, (5, 1))
            return x, x * factors

        return lambda key: rx.Task(inner(key))

    default = dict(measure=None, folder=tmp_path, iterations=1, points=1)
    fit(learner(tasks=tasks(1)), **default)
    with pytest.raises(ValueError, match="What differs: .*tasks"):
        fit(learner(tasks=tasks(100)), **default)
    fit(learner(tasks=tasks(1)), **default)


def test_other_pictures_to_measure_on_are_another_measure(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8, 1)).astype(np.uint8)
    adam = rx.reference_adam(1e-3)
    one = rx.Learner(
        lambda key: rx.nn.ConvNetwork(2, (8, 8, 1), filters=2, blocks=1, key=key),
        rx.FewShot(images, np.arange(4), 2, 2), rx.reptile(rx.sum_cross_entropy, adam, steps=1, batch_size=2),
        optax.sgd(1.0),
    )  # fmt: skip

    def measured(classes):
        unseen = rx.FewShot(images, classes, 2, 1, queries=1)
        measure = {"accuracy": rx.QueryAccuracy(unseen, rx.sum_cross_entropy, adam, 1, 2)}
        return rx.fit(one, 1, measure=measure, points=1, tasks=2, final_tasks=2, folder=tmp_path)

    measured([4, 5])
    with pytest.raises(ValueError, match="What differs: measure"):
        measured([3, 5])


def test_a_curve_measured_otherwise_is_not_lost(tmp_path):
    kept = fit(folder=tmp_path)
    for other in ({"points": 3}, {"tasks": 4}, {"measure": {"loss": lambda model, inner, key: 0.0}}):
        with pytest.raises(ValueError, match="What differs: (curve|measure)"):
            fit(folder=tmp_path, **other)
    more = fit(folder=tmp_path, final_tasks=7)
    assert more.curve == kept.curve and more.results[0]["loss"]["after"]["tasks"] == 7


def test_measures_may_return_any_numbers_and_are_named_by_texts():
    result = fit(
        measure={"all": lambda model, inner, key: {"mean": jnp.bfloat16(1), "ci95": True, "n": (1, 2.5)}},
        points=2, tasks=2, seeds=np.arange(2),
    )  # fmt: skip
    assert {name: result.results[1]["all"][name]["mean"] for name in ("mean", "ci95", "n.0", "n.1")} == {
        "mean": 1, "ci95": 1, "n.0": 1, "n.1": 2.5
    }  # fmt: skip
    assert result.curve[0]["all ci95"] == 1 and result.curve[0]["all ci95 ±"] == 0
    for wrong in ({"seed": MEASURE["loss"]}, {1: MEASURE["loss"]}):
        with pytest.raises(ValueError, match="expected a text, and not 'seed' or 'iteration'"):
            rx.fit.__wrapped__(learner(), 1, measure=wrong)
    with pytest.raises(TypeError, match="`measure` is functions by name"):
        rx.fit.__wrapped__(learner(), 1, measure=MEASURE["loss"])
    with pytest.raises(ValueError, match="the measure 'x' returns nothing"):
        fit(measure={"x": lambda model, inner, key: {}})


class Narrow(eqx.Module):
    w: jax.Array
    bound: rx.Frozen

    def __call__(self, x):
        return jnp.maximum(self.w.astype(jnp.float32) * x, self.bound.part)


def test_narrow_parameters_and_infinite_constants_train(tmp_path):
    one = learner(model=lambda key: Narrow(jnp.ones(1, jnp.bfloat16), rx.Frozen(-jnp.inf * jnp.ones(1))))
    first = fit(one, folder=tmp_path)
    assert first.diverged == [""] and first.states[0].model.w.dtype == jnp.bfloat16
    assert first.states[0].model.w != 1
    assert_same(fit(one, folder=tmp_path), first)


def test_a_damaged_evaluation_is_measured_again(tmp_path):
    whole = fit(folder=tmp_path)
    (path,) = tmp_path.glob("*/seen-*.npz")
    for damaged in (path.read_bytes()[:50], b""):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path.name} is not used, as it is"):
            assert_same(fit(folder=tmp_path), whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_trained_anew(tmp_path, damage):
    whole = fit(folder=tmp_path)
    path = tmp_path / "seed-0" / "state.eqx"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.warns(
        UserWarning, match="seed-0/state.eqx is not used, as .* kept as state.eqx.damaged, and made anew"
    ):
        assert_same(fit(folder=tmp_path), whole)
    assert (path.parent / "state.eqx.damaged").read_bytes() == damaged


def test_a_seed_that_diverges_ends_and_the_others_go_on():
    def model(key):
        mlp = eqx.nn.MLP(1, 1, 8, 1, key=key)
        return eqx.tree_at(lambda m: m.layers[0].weight, mlp, replace_fn=lambda w: w * jnp.where(w[0, 0] > 0, 1e20, 1))

    some = [jax.random.split(jax.random.PRNGKey(seed))[0] for seed in range(8)]
    bad = [bool(eqx.nn.MLP(1, 1, 8, 1, key=key).layers[0].weight[0, 0] > 0) for key in some]
    assert 0 < sum(bad) < 8
    with pytest.warns(UserWarning, match="not finite any more between outer iterations 0 and 1"):
        result = fit(learner(model=model), seeds=range(8))
    assert [diverged != "" for diverged in result.diverged] == bad
    assert [some == {} for some in result.results] == bad


def test_a_training_that_moves_nothing_says_so():
    with pytest.warns(UserWarning, match="training changed no parameter: the outer step size is 0"):
        fit(iterations=ITERATIONS + 20)
    still = learner(outer=optax.sgd(0.0))
    with pytest.warns(UserWarning, match="training changed no parameter"):
        eqx.filter_jit(rx.train)(still, rx.start(still, jax.random.key(0)), 2)
        jax.effects_barrier()


def test_a_measure_that_is_not_finite_is_told():
    with pytest.warns(UserWarning, match="seed 0: 'nothing', measured at the end, is not finite"):
        result = fit(measure={"nothing": lambda model, inner, key: jnp.nan})
    assert np.isnan(result.results[0]["nothing"]["mean"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": ()}, "expected one or more different seeds"),
        ({"seeds": (1, 1)}, "expected different seeds"),
        ({"seeds": (1.5,)}, "`seeds` is 1.5; expected a whole number, 0 or more"),
        ({"seeds": (2**32,)}, "`seeds` is 4294967296; expected a whole number, 0 or more, and at most 4,294,967,295"),
        ({"iterations": 0}, "`iterations` is 0; expected a whole number, 1 or more"),
        ({"iterations": 2.5}, "`iterations` is 2.5; expected a whole number"),
        ({"iterations": None}, "`iterations` is None; expected a whole number"),
        ({"iterations": float("nan")}, "`iterations` is nan; expected a whole number"),
        ({"iterations": True}, "`iterations` is True; expected a whole number"),
        (
            {"iterations": 2**31},
            "`iterations` is 2147483648; expected a whole number, 1 or more, and at most 2,147,483,647",
        ),
        ({"points": 0}, "`points` is 0"),
        ({"tasks": -1}, "`tasks` is -1"),
    ],
)
def test_numbers_that_make_no_training(wrong, message):
    # The tests' own type checks would come before.
    with pytest.raises(ValueError, match=re.escape(message)):
        rx.fit.__wrapped__(learner(), **{"iterations": 5} | wrong)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` is .*file, a file: give a folder"):
        fit(folder=tmp_path / "file")
