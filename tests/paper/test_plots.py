"""Figures of made-up records: what is drawn, and what is left out and said to be."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_claims import record

from reptile_eqx.paper import plots, report, settings


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")
    yield
    plt.close("all")


LINE = "FOMAML, shared tail, cycle"


def test_a_diverged_run_is_a_cross_on_the_axis_and_in_no_mean():
    points = {
        0.1: [record(0.9), record(0.8, seed=1)],
        1.0: [record(0.7), record(0.1, seed=1, status="diverged")],
        10.0: [record(0.2, status="diverged"), record(0.1, seed=1, status="diverged")],
    }
    (axes,) = plots.figure_4({"4c": {LINE: points}}).axes
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [1.0, 10.0]
    drawn = axes.containers[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), [85, 70, np.nan])
    assert axes.get_legend_handles_labels()[1] == [f"{LINE} (× 3 of 6 diverged)"]


def test_a_diverged_curve_is_named_in_the_legend_and_in_no_mean():
    variants = {
        "sound": [record(0.9)],
        "mixed": [record(0.8), record(0.1, seed=1, status="diverged")],
        "lost": [record(0.1, status="diverged")],
    }
    for figure in (
        plots.ablation_curves(variants),
        plots.figure_3({f"g{i}": v for i, v in enumerate(variants.values(), 1)}),
    ):
        lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
        assert [list(line.get_ydata()) for line in lines] == [[90], [80], []]
        labels = [line.get_label() for line in lines]
        assert "diverged" not in labels[0]
        assert labels[1].endswith("(× 1 of 2 diverged)")
        assert labels[2].endswith("(× 1 of 1 diverged)")


def test_marks_of_several_seeds_are_filled_and_their_bars_over_seeds():
    points = {0.1: [record(0.9), record(0.8, seed=1)], 1.0: [record(0.7, ci95=0.02)]}
    (axes,) = plots.figure_4({"4c": {LINE: points}}).axes
    (bars,) = axes.containers
    assert bars.lines[0].get_markerfacecolor() == "white"
    lengths = [top - bottom for (_, bottom), (_, top) in bars.lines[2][0].get_segments()]
    assert lengths == pytest.approx([2 * 12.706 * 10 / 2, 2 * 2], rel=1e-4)  # Student's t of two seeds; the tasks'
    filled = [line for line in axes.lines if line.get_marker() == "s" and line not in bars.lines]
    assert [list(line.get_xdata()) for line in filled] == [[0.1]]
    assert filled[0].get_markerfacecolor() == bars.lines[0].get_color()


def test_the_levels_beside_full_batches_are_means_over_seeds():
    reference = {4: [record(0.9), record(0.8, seed=1)]}
    full = {LINE: {1.0: [record(0.4)]}, settings.UNTRAINED: {0.0: [record(0.5), record(0.6, seed=1)]}}
    _, axes, *_ = plots.figure_4({"4a": {"Reptile": reference}, "4c": full}).axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == pytest.approx([85, 55])
    assert [text.get_text() for text in axes.texts] == ["Reptile, batches of 25", "untrained"]
    assert len(axes.containers) == 1 and axes.get_xscale() == "log", "the step of 0 has no place on the axis"


def test_figure_3_says_how_many_seeds_a_line_has_where_they_differ():
    one, two = [record(0.8)], [record(0.7), record(0.9, seed=1)]
    for second, said in ((two, ["g1, 1 seed", "g2, 2 seeds"]), (one, ["g1", "g2"])):
        axes, *_ = plots.figure_3({"g1": one, "g2": second}).axes
        assert axes.get_legend_handles_labels()[1] == said
    drawn = plots.figure_3({"g1": one, "g2": two})
    assert list(drawn.axes[0].lines[1].get_ydata()) == [80]
    band = drawn.axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((70, 90))
    assert "range over seeds, where there are several" in drawn._suptitle.get_text()


def test_figure_3_has_a_closer_look_at_each_family_but_the_first_gradient():
    curves = {
        label: [record(x)] for label, x in {"g1": 0.3, "g2": 0.8, "g3": 0.85, "g1+g2": 0.9, "½(g1+g2)": 0.7}.items()
    }
    whole, *closer = plots.figure_3(curves).axes
    drawn = {axes.get_title(): [line.get_label() for line in axes.lines] for axes in closer}
    assert drawn == {"sums": ["g1+g2"], "averages": ["½(g1+g2)"], "last gradients (FOMAML)": ["g2", "g3"]}
    assert [line.get_label() for line in whole.lines] == list(curves)
    assert {axes.get_ylim() for axes in closer} == {(60.0, 92.0)}


def test_a_learning_curve_ends_with_the_final_evaluation_and_its_interval():
    one = record(0.9, ci95=0.03)
    one.results["5-shot"]["alone"] = {"mean": 0.8, "ci95": 0.02, "tasks": 100}
    (axes,) = plots.ablation_curves({"one": [one]}).axes
    (bars,) = axes.containers
    assert list(bars.lines[0].get_xdata()) == [10] and list(bars.lines[0].get_ydata()) == [80]
    ((low, high),) = bars.lines[2][0].get_segments()[0][:, 1].reshape(1, 2)
    assert (low, high) == pytest.approx((78, 82))


def test_a_sweep_has_a_panel_for_each_thing_swept():
    points = {value: [record(accuracy)] for value, accuracy in ((2, 0.5), (5, 0.7))}
    figure = plots.ablation_sweeps({"inner_iterations": points, "meta_batch_size": points, "adam_b1": points})
    axes = figure.axes
    assert [a.get_xlabel() for a in axes if a.lines] == [
        settings.SWEPT[s] for s in ("inner_iterations", "meta_batch_size", "adam_b1")
    ]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["2", "5"]
    np.testing.assert_allclose(axes[0].containers[0].lines[0].get_ydata(), [50, 70])


def test_a_figure_is_described_by_what_is_written_on_it():
    figure = plots.ablation_curves({"sound": [record(0.9)], "lost": [record(0.1, status="diverged")]}, "a note")
    assert report.described(figure) == (
        "5-way Omniglot, around Table 3, unseen classes, 9 tasks a point; "
        "marks: final evaluation (9 tasks), bars 95 % (a note). "
        "5-shot accuracy (%), non-transductive against outer iterations. Drawn: sound; lost (× 1 of 1 diverged)"
    )


def test_a_figure_is_shown_once_in_words_too_and_written(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "display", lambda figure, metadata: shown.append((figure, metadata)))
    figure = plots.figure_3({"g1": [record(0.3)], "g2": [record(0.8)]})
    alt = report.described(figure)
    report.save_figure(figure, "name", [], tmp_path, more="said")
    assert shown == [(figure, {"image/png": {"alt": alt}})] and not plt.fignum_exists(figure.number)
    kept = json.loads((tmp_path / "name.json").read_text())
    assert kept["alt"] == alt and kept["more"] == "said"
    assert {path.name for path in tmp_path.iterdir()} == {"name.png", "name.svg", "name.json"}


@pytest.mark.parametrize(("algorithm", "papers"), [("reptile", {98.9, 99.48}), ("maml", {99.9})])
def test_what_was_trained_here_is_drawn_over_the_record_and_the_papers_values(algorithm, papers):
    here, longer = ([some(record(accuracy), algorithm, n)] for accuracy, n in ((0.8, 20), (0.9, 3000)))
    (axes,) = plots.beside_record(here, longer, "a note").axes
    labels = axes.get_legend_handles_labels()[1]
    assert {label for label in labels if "(" in label} == {
        f"{setting}, {what}"
        for setting in ("transductive", "non-transductive")
        for what in ("here (20)", "on record (3,000)")
    }
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_ydata()[-1] for line in solid] == pytest.approx([80, 80])
    assert {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"} == papers
    (axes,) = plots.beside_record(here, here).axes
    assert not any("record" in label for label in axes.get_legend_handles_labels()[1])


def some(made, algorithm, iterations):
    """The record of such a training on 5-way Omniglot."""
    more = dict(algorithm=algorithm, outer_iterations=iterations, dataset="omniglot", ways=5)
    return dataclasses.replace(made, name=f"{algorithm}-{iterations}", config=made.config | more)
