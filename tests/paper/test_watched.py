"""What is watched along Section 4's trainings, and how it is drawn."""

import equinox as eqx
import jax
import matplotlib
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from made_up import SINE
from matplotlib import pyplot as plt

from reptile_eqx import SineWaves, mean_squared_error
from reptile_eqx.paper import plots, watched
from reptile_eqx.paper.experiments import SineRegression
from reptile_eqx.runs.configuration import numbers_of, run_name
from reptile_eqx.runs.records import Record
from reptile_eqx.training import start

UNTRAINED = dict(algorithm="random", outer_iterations=0, curve_points=0, curve_tasks=2)


def test_products_cosines_and_gains_are_those_of_the_gradients_of_two_batches():
    config = watched.SineAnalysis(**UNTRAINED)
    (measurement,) = config.measurements(None, numbers_of(config), final=True)
    state, key = start(config.learner(None, numbers_of(config)), jax.random.PRNGKey(0)), jax.random.key(5)
    seen = measurement.measure(state, key)

    tasks = SineWaves(points=20)
    (x, y), (a, b) = tasks(key).support, tasks(jax.random.fold_in(key, 1)).support
    batches = {"own": (x[:10], y[:10]), "same": (x[10:], y[10:]), "other": (a[:10], b[:10])}
    slopes = {
        name: np.asarray(ravel_pytree(eqx.filter_grad(mean_squared_error)(state.model, batch))[0], np.float64)
        for name, batch in batches.items()
    }
    stepped = eqx.apply_updates(
        state.model, jax.tree.map(lambda g: -0.02 * g, eqx.filter_grad(mean_squared_error)(state.model, batches["own"]))
    )
    for name in ("same", "other"):
        product = slopes["own"] @ slopes[name]
        lengths = np.linalg.norm(slopes["own"]) * np.linalg.norm(slopes[name])
        gain = mean_squared_error(state.model, batches[name]) - mean_squared_error(stepped, batches[name])
        assert seen[name] == pytest.approx(product, rel=1e-4)
        assert seen[f"cosine_{name}"] == pytest.approx(product / lengths, rel=1e-4)
        assert seen[f"gain_{name}"] == pytest.approx(float(gain), rel=1e-3, abs=1e-5)


def test_trainings_are_measured_along_the_way_and_an_untrained_network_once():
    trained, untrained = watched.SineAnalysis(**SINE), watched.SineAnalysis(**UNTRAINED)
    for config, final in ((trained, False), (untrained, True)):
        assert [len(config.measurements(None, numbers_of(config), final=f)) for f in (final, not final)] == [1, 0]
    assert run_name(trained).startswith("sine-watched-reptile-60-seed0-")
    assert SineRegression(**SINE).name == "sine-reptile-60-seed0"


def record(seed, points):
    """A made-up record that watched `points`: quantities' value by iteration."""
    means = {i: {"watched": {q: {"mean": value} for q in plots.WATCHED}} for i, value in points.items()}
    curve = [{"iteration": i, **seen} for i, seen in means.items() if i]
    return Record(f"r{seed}", "SineAnalysis", dict(seed=seed, curve_tasks=2), "finished", curve, means.get(0, {}), {})


def test_curves_begin_with_the_untrained_network_of_the_same_seed():
    matplotlib.use("Agg")
    found = {
        "Random initialisation": [record(1, {0: 5.0}), record(0, {0: 3.0})],
        "Reptile": [record(0, {10: 7.0}), record(1, {10: 9.0})],
    }
    methods = watched.from_the_start(found, "Random initialisation")
    assert list(methods) == ["Reptile"]
    seen = [[point["watched"]["same"]["mean"] for point in r.curve] for r in methods["Reptile"]]
    assert seen == [[3, 7], [5, 9]]
    figure = plots.watched(methods, ("same", "other", "cosine_same", "cosine_other"))
    for axes in figure.axes:
        line = axes.lines[0]
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 10], [4, 8])
        assert axes.get_yscale() == "linear"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim(), "one scale a row"
    plt.close("all")
