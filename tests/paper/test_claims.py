"""Statistics, claims and tables of made-up records: what holds, what does not, what cannot be told."""

import numpy as np
import pytest

from reptile_eqx.paper import claims, statistics, tables
from reptile_eqx.runs.records import Record


def record(accuracy, seed=0, ci95=0.01, status="finished", field="outer_step_size", value=1.0):
    """A made-up record of a 5-shot run whose accuracy was the same all along."""
    cells = {"5-shot": {s: {"mean": accuracy, "ci95": ci95, "tasks": 9} for s in statistics.SETTINGS}}
    config = dict(eval_shots=[5], seed=seed, outer_iterations=10, curve_tasks=9) | {field: value}
    results = cells if status == "finished" else {}
    return Record(f"run-{seed}", "Fake", config, status, [{"iteration": 5, **cells}], results, {})


def test_a_difference_within_its_interval_cannot_be_told():
    good, equal, bad = [record(0.9), record(0.8, seed=1)], [record(0.845)], [record(0.7)]
    # Intervals of the means are 0.71 and 1 points, of the difference 1.22.
    assert statistics.above(good, bad) is True
    assert statistics.above(bad, good) is False
    assert statistics.above(good, equal) is None
    assert statistics.above(good, bad, by=13) is True
    assert statistics.above(good, bad, by=14) is None
    assert statistics.above(good, bad, by=17) is False
    lost = [record(0.9, status="diverged")]
    assert statistics.above(lost, bad) is None
    assert statistics.above([*good, *lost], bad) is True


def test_a_gain_is_the_mean_over_seeds_of_differences_within_a_seed():
    """Seeds that lie far apart, and come in another order, do not hide that each gains the same."""
    reference = [record(0.5), record(0.9, seed=1), record(0.1, seed=2, status="diverged")]
    better = [record(0.93, seed=1), record(0.51), record(0.2, seed=2)]
    gained, interval = statistics.gain(better, reference, "5-shot", "alone")
    assert gained == pytest.approx(2.0)
    assert interval == pytest.approx(12.706 * np.std([1, 3], ddof=1) / 2**0.5, rel=1e-4)
    assert np.isnan(statistics.gain(better[:1], reference, "5-shot", "alone")[1])
    table = tables.against(reference, {"b": better, "c": better[:1], "d": reference[2:]}, "Computed").set_index(
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
    table = tables.final_accuracies(trainings, "Training").set_index("Training")
    assert table.loc["a", "5-shot, non-transductive"] == "85.00 ± 7.07 %"
    assert table.loc["b", "5-shot, transductive"] == "diverged"
