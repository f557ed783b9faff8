"""Statistics, claims and tables of made-up records: what holds, what does not, what cannot be told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats
from scipy.stats import t, ttest_ind

from reptile_eqx.paper import agreement, claims, report, statistics, tables
from reptile_eqx.runs.records import Record


def record(accuracy, seed=0, ci95=0.01, status="finished", field="outer_step_size", value=1.0):
    """A made-up record of a 5-shot run whose accuracy was the same all along."""
    cells = {"5-shot": {s: {"mean": accuracy, "ci95": ci95, "tasks": 9} for s in statistics.SETTINGS}}
    config = dict(eval_shots=[5], seed=seed, outer_iterations=10, curve_tasks=9) | {field: value}
    results = cells if status == "finished" else {}
    return Record(f"run-{seed}", "Fake", config, status, [{"iteration": 5, **cells}], results, {})


def test_a_difference_within_its_interval_cannot_be_told():
    good, equal, bad = [record(0.9), record(0.8, seed=1)], [record(0.845, seed=2)], [record(0.7, seed=2)]
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


def test_a_single_seed_is_set_beside_the_same_seed_of_others():
    three, one = [record(0.5), record(0.9, seed=1), record(0.9, seed=2)], [record(0.6)]
    for above in (statistics.above, statistics.above_along):
        assert above(one, three) is True, "by ten points of seed 0, though the mean of three is above"
        assert above(three[1:], one) is True, "where no seed is in common"
        assert above([*three[1:], record(0.5, status="diverged")], one) is True


@pytest.mark.parametrize(
    ("cells", "verdict"),
    [
        ([0.950, 0.951, 0.952], "agrees"),
        ([0.955, 0.956, 0.957], "cannot be told"),
        ([0.970, 0.971, 0.972], "differs"),
        ([0.93, 0.95, 0.97], "consistent, cannot be told"),
    ],
)
def test_one_rule_for_agrees(cells, verdict):
    found = agreement.beside_paper([{"mean": mean, "ci95": 0.001} for mean in cells], (95.1, 0.1), 0.5)
    assert found.verdict == verdict
    a, b = (np.random.default_rng(i).normal(size=n) for i, n in ((0, 3), (1, 4)))
    scipy = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    spreads = [(x.mean(), x.std(ddof=1), len(x)) for x in (a, b)]
    assert statistics.welch(*spreads) == pytest.approx((scipy.high - scipy.low) / 2)


@given(
    mean=floats(0.9, 1), ci95=floats(0, 0.1), more=floats(0, 0.1), spread=floats(0, 3), wider=floats(0, 3),
    margin=floats(0.1, 2), paper=floats(0, 1),
)  # fmt: skip
def test_less_certainty_never_makes_agreement_or_a_difference(mean, ci95, more, spread, wider, margin, paper):
    """Fewer tasks, seeds further apart and a wider ± can only take a verdict away; more tasks can only bring one."""
    sure = agreement.beside_paper([{"mean": mean, "ci95": ci95}], (95.0, paper), margin, spread)
    unsure = agreement.beside_paper([{"mean": mean, "ci95": ci95 + more}], (95.0, paper), margin, spread + wider)
    assert unsure.interval >= sure.interval and unsure.points == sure.points
    assert unsure.verdict == sure.verdict or unsure.verdict.endswith("cannot be told")
    unknown = agreement.beside_paper([{"mean": mean, "ci95": ci95}], (95.0, paper), margin)
    assert unknown.verdict == "cannot be told"


def test_seeds_in_common_are_compared_pair_by_pair():
    low, high = ([record(x + gain, seed=i) for i, x in enumerate((0.5, 0.7, 0.9))] for gain in (0, 0.02))
    assert statistics.above(high, low) is True, "each seed gains two points, however far apart the seeds are"
    others = [record(0.52 + 0.2 * i, seed=i + 3) for i in range(3)]
    assert statistics.above(others, low) is None


def test_a_mean_over_training_has_the_interval_of_a_point():
    """All points of a curve have the same tasks."""
    one = record(0.5)
    one.curve.append({"iteration": 10, "5-shot": {"alone": {"mean": 0.7, "ci95": 0.03}}})
    (cell,) = statistics.along([one])
    assert cell["mean"] == pytest.approx(0.6) and cell["ci95"] == pytest.approx(0.02)


def test_an_estimate_is_over_seeds_where_there_are_several():
    cells = [{"mean": mean, "ci95": 0.2} for mean in (0.5, 0.6, 0.7)]
    assert statistics.estimate(cells[:1]) == pytest.approx((50, 20))
    mean, half = statistics.estimate(cells)
    assert (mean, half) == pytest.approx((60, t.ppf(0.975, 2) * 10 / 3**0.5))


def test_means_over_training_are_compared_seed_by_seed_where_there_are_several():
    """Sums gain ten points, last gradients one, with few tasks and seeds further apart than the lines."""
    at = {"g1": 0.2, "g2": 0.9, "g4": 0.91, "g1+g2": 0.8, "½(g1+g2)": 0.8, "g1+g2+g3+g4": 0.9, "¼(g1+g2+g3+g4)": 0.9}
    claim = "sums gain more from four batches than last gradients do, mean over training"
    curves = {name: [record(x + i / 10, i, ci95=0.2) for i in range(3)] for name, x in at.items()}
    assert claims.figure_3(curves)[claim] is True
    assert claims.figure_3(curves)["two-step Reptile is worse than two-step FOMAML, mean over training"] is True
    assert claims.figure_3(curves | {"g4": curves["g4"][:1]})[claim] is None, "one seed tells no spread"


def test_claims_as_a_table():
    table = claims.table({"a": True, "b": np.bool_(False), "c": None})
    assert table["Verdict"].tolist() == ["holds", "does not hold", "cannot be told"]


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


def test_figure_4_read_otherwise_is_judged_by_its_own_points_and_speaks_of_its_own_panels():
    shared, separate = "FOMAML, shared tail, cycle", "FOMAML, separate tail, cycle"
    falls, stays = {25: [record(0.9)], 75: [record(0.8)]}, {25: [record(0.9)], 50: [], 75: [record(0.9)]}
    lines = {line: {4: [record(0.9)]} for line in (shared, separate, "Reptile")}
    panels = {"4a": lines, "4b": {shared: falls, separate: falls}, "4c": {shared: {1.0: [record(0.8)]}}}
    level = "4b: FOMAML, separate tail, cycle is with any batches within two points of where no batches overlap"
    assert claims.figure_4(panels)[level] is False
    read, said = claims.figure_4_read_otherwise({"4b": {shared: falls, separate: stays}}, panels)
    assert said[level] is True
    assert {claim[:2] for claim in said} == {"4b"}
    assert 50 not in read["4b"][separate] and read["4c"] is panels["4c"]
    assert claims.figure_4_read_otherwise({"4b": {separate: {50: []}}}, panels) == (panels, {})


def test_a_table_of_accuracies_says_which_training_diverged():
    trainings = {"a": [record(0.9), record(0.8, seed=1)], "b": [record(0.5, status="diverged")]}
    table = tables.final_accuracies(trainings, "Training").set_index("Training")
    assert table.loc["a", "5-shot, non-transductive"] == "85.00 ± 7.07 %"
    assert table.loc["b", "5-shot, transductive"] == "diverged"


def test_a_table_says_how_many_seeds_each_training_has_where_they_differ():
    trainings = {"a": [record(0.9), record(0.8, seed=1)], "b": [record(0.5)]}
    assert tables.final_accuracies(trainings, "Training")["Seeds"].tolist() == [2, 1]
    assert "Seeds" not in tables.final_accuracies({"b": trainings["b"]}, "Training")
    panels = {"4a": {"Reptile": {2: trainings["a"]}}}
    (row,) = tables.figure_4_tried({"first": panels, "other": {"4a": {"Reptile": {2: trainings["b"]}}}}).to_dict(
        "records"
    )
    assert row["first"] == "85.0 ± 63.5, 2 seeds" and row["other"] == "50.0 ± 1.0"


def test_a_scale_says_how_many_seeds_there_are_where_trainings_have_more_or_fewer():
    some = [record(0.9, seed=i) for i in range(3)]
    assert report.scale(some, 10) == ""
    assert report.scale(some, 10, seeds={3, 1}) == "1 to 3 of the paper's 3 seeds"
    assert report.scale(some[:1], 10) == "1 of the paper's 3 seeds"
