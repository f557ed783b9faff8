"""Sections 6.2, 6.3 and Appendix A: the runs they are made of, what is decided by their records, what is drawn."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

import reptile_eqx as rx
from reptile_eqx import claims, places, plots, sweeps
from reptile_eqx.experiments import FewShotClassification, same_program
from reptile_eqx.presets import PROFILES, TABLE_3
from reptile_eqx.store import Record


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def flat(runs):
    return [c for child in runs.values() for c in flat(child)] if isinstance(runs, dict) else runs


def test_batches_of_a_combination_do_not_overlap_and_an_average_is_a_sum_with_a_smaller_step():
    for label, configs in sweeps.figure_3_runs("paper").items():
        for config in configs:
            assert config.ways * config.training_shots == config.inner_iterations * config.inner_batch_size
            total = sum(config.weights)
            assert total == pytest.approx(label.count("+") + 1 if label.startswith("g1") else 1.0), label


def test_a_separate_tail_leaves_enough_images_for_the_batches_before_it():
    for panel in sweeps.SWEEPS:
        for profile in PROFILES:
            for config in flat(sweeps.figure_4_runs(panel, profile)):
                assert config.ways * (config.training_shots - config.tail) >= config.inner_batch_size
    assert 100 not in sweeps.figure_4_runs("4b", "paper")["FOMAML, separate tail, cycle"]
    assert sorted(sweeps.figure_4_runs("4c", "paper")) == ["FOMAML, shared tail, cycle"]


@pytest.mark.parametrize("swept", sweeps.ABLATIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_an_ablation_differs_from_table_3_in_nothing_but_what_it_sweeps(swept, profile):
    along = {"inner_iterations", "inner_batch_size"} if swept == "algorithm" else set()
    runs = sweeps.ablation_runs(swept, profile)
    own = TABLE_3[5].get(swept, getattr(FewShotClassification, swept))
    for value, configs in runs.items():
        for config, base in zip(configs, runs[own], strict=True):
            differing = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(base, f.name)}
            assert getattr(config, swept) == value
            assert differing == (set() if value == own else {swept} | along)
            assert all(getattr(base, name) == TABLE_3[5][name] for name in set(TABLE_3[5]) - {"outer_iterations"})


@pytest.mark.parametrize("swept", sweeps.FASTER)
def test_what_may_be_faster_is_the_same_training_of_the_same_seeds(swept):
    runs = sweeps.faster_runs(swept, "paper")
    assert runs == sweeps.faster_runs(swept, "quick")
    reference, *others = runs
    assert reference == getattr(FewShotClassification, swept)
    assert [config.seed for config in runs[reference]] == list(range(5 if swept == "order" else 3))
    for value in others:
        assert runs[value] == [dataclasses.replace(config, **{swept: value}) for config in runs[reference]]


def test_points_that_differ_in_a_number_share_a_program():
    assert len({same_program(c) for c in flat(sweeps.ablation_runs("learning_rate", "quick"))}) == 1
    assert len({same_program(c) for c in flat(sweeps.figure_3_runs("quick"))}) == 4
    assert len({same_program(c) for c in flat(sweeps.figure_4_runs("4c", "quick"))}) == 1
    assert len({same_program(c) for c in flat(sweeps.ablation_runs("meta_batch_size", "quick"))}) == 3


def test_joint_training_sees_the_images_that_reptile_sees():
    runs = sweeps.ablation_runs("algorithm", "paper")
    images = {a: r[0].inner_iterations * r[0].inner_batch_size * r[0].meta_batch_size for a, r in runs.items()}
    assert images["joint"] == images["reptile"] == 250


@pytest.mark.skipif(not places.in_checkout(), reason="records are kept in a checkout")
def test_quick_shows_published_records_where_it_trains_nothing():
    runs = [sweeps.figure_3_runs("quick"), *(sweeps.figure_4_runs(panel, "quick") for panel in sweeps.SWEEPS)]
    runs += [sweeps.faster_runs(swept, "quick") for swept in sweeps.FASTER]
    runs += [sweeps.ablation_runs(swept, "quick") for swept in sweeps.ABLATIONS]
    for config in flat(dict(enumerate(runs))):
        assert rx.find_record(config, places.CHECKOUT / "figures") is not None, rx.run_name(config)


def test_what_is_not_swept_is_an_error():
    with pytest.raises(ValueError, match="nothing sweeps 'ways'; there are learning_rate"):
        sweeps.ablation_runs("ways", "quick")
    with pytest.raises(ValueError, match="nothing varies 'ways'; there are order, precision"):
        sweeps.faster_runs("ways", "quick")
    with pytest.raises(ValueError, match="`outer_iterations` is 0"):
        sweeps.figure_3_runs("quick", outer_iterations=0)


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


def record(accuracy, seed=0, ci95=0.01, status="finished", field="outer_step_size", value=1.0):
    """A made-up record of a 5-shot run whose accuracy was the same all along."""
    cells = {"5-shot": {s: {"mean": accuracy, "ci95": ci95, "tasks": 9} for s in claims.SETTINGS}}
    config = dict(eval_shots=[5], seed=seed, outer_iterations=10, curve_tasks=9) | {field: value}
    results = cells if status == "finished" else {}
    return Record(f"run-{seed}", "Fake", config, status, [{"iteration": 5, **cells}], results, {})


def test_a_difference_within_its_interval_cannot_be_told():
    good, equal, bad = [record(0.9), record(0.8, seed=1)], [record(0.845)], [record(0.7)]
    # Intervals of the means are 0.71 and 1 points, of the difference 1.22.
    assert claims.above(good, bad) is True
    assert claims.above(bad, good) is False
    assert claims.above(good, equal) is None
    assert claims.above(good, bad, by=13) is True
    assert claims.above(good, bad, by=14) is None
    assert claims.above(good, bad, by=17) is False
    lost = [record(0.9, status="diverged")]
    assert claims.above(lost, bad) is None
    assert claims.above([*good, *lost], bad) is True


def test_a_gain_is_the_mean_over_seeds_of_differences_within_a_seed():
    """Seeds that lie far apart, and come in another order, do not hide that each gains the same."""
    reference = [record(0.5), record(0.9, seed=1), record(0.1, seed=2, status="diverged")]
    better = [record(0.93, seed=1), record(0.51), record(0.2, seed=2)]
    gained, interval = claims.gain(better, reference, "5-shot", "alone")
    assert gained == pytest.approx(2.0)
    assert interval == pytest.approx(12.706 * np.std([1, 3], ddof=1) / 2**0.5, rel=1e-4)
    assert np.isnan(claims.gain(better[:1], reference, "5-shot", "alone")[1])
    table = claims.against(reference, {"b": better, "c": better[:1], "d": reference[2:]}, "Computed").set_index(
        "Computed"
    )
    assert table["5-shot, transductive"].to_dict() == {"b": "+2.00 ± 12.71", "c": "+3.00", "d": "diverged"}


def test_all_of_several_things():
    assert claims.every([True, True]) is True
    assert claims.every([True, None, False]) is False
    assert claims.every([True, None]) is None
    assert claims.every([]) is None
    assert claims.verdict("so it is", None, "small") == "cannot be told at this scale: so it is"
    assert claims.verdict("so it is", np.bool_(True), "small") == "holds: so it is"
    assert claims.verdict("so it is", False) == "does not hold: so it is"


def test_a_table_of_accuracies_says_which_training_diverged():
    trainings = {"a": [record(0.9), record(0.8, seed=1)], "b": [record(0.5, status="diverged")]}
    table = claims.final_accuracies(trainings, "Training").set_index("Training")
    assert table.loc["a", "5-shot, non-transductive"] == "85.00 ± 7.07 %"
    assert table.loc["b", "5-shot, transductive"] == "diverged"


LINE = "FOMAML, shared tail, cycle"


def test_a_diverged_run_is_a_cross_on_the_axis_and_in_no_mean():
    points = {
        0.1: [record(0.9), record(0.8, seed=1)],
        1.0: [record(0.7), record(0.1, seed=1, status="diverged")],
        10.0: [record(0.2, status="diverged"), record(0.1, seed=1, status="diverged")],
    }
    (axes,) = plots.figure_4("4c", {LINE: points}).axes
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
        for axes in figure.axes:
            assert [list(line.get_ydata()) for line in axes.lines] == [[90], [80], []]
            labels = [line.get_label() for line in axes.lines]
            assert "diverged" not in labels[0]
            assert labels[1].endswith("(× 1 of 2 diverged)")
            assert labels[2].endswith("(× 1 of 1 diverged)")


def test_figure_3_has_a_closer_look_at_all_but_the_first_gradient():
    _, closer = plots.figure_3({"g1": [record(0.3)], "g2": [record(0.8)], "g1+g2": [record(0.9)]}).axes
    assert closer.get_ylim() == pytest.approx((70, 92))


def test_a_sweep_has_a_panel_for_each_thing_swept():
    points = {value: [record(accuracy)] for value, accuracy in ((2, 0.5), (5, 0.7))}
    figure = plots.ablation_sweeps({"inner_iterations": points, "meta_batch_size": points, "adam_b1": points})
    axes = figure.axes
    assert [a.get_xlabel() for a in axes if a.lines] == [
        plots.SWEPT[s] for s in ("inner_iterations", "meta_batch_size", "adam_b1")
    ]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["2", "5"]
    np.testing.assert_allclose(axes[0].containers[0].lines[0].get_ydata(), [50, 70])
