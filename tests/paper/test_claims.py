"""Statistics, claims and tables of made-up records: what holds, what does not, what cannot be told."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.strategies import fixed_dictionaries, floats, lists
from scipy.stats import t, ttest_ind

from reptile_eqx.paper import agreement, claims, report, statistics, tables
from reptile_eqx.paper.comparisons import NOTHING, Comparison, accuracies_along
from reptile_eqx.runs.records import Record


def record(accuracy, seed=0, ci95=0.01, status="finished", field="outer_step_size", value=1.0):
    """A made-up record of a 5-shot run whose accuracy was the same all along."""
    cells = {"5-shot": {s: {"mean": accuracy, "ci95": ci95, "tasks": 9} for s in statistics.SETTINGS}}
    config = dict(eval_shots=[5], seed=seed, outer_iterations=10, curve_tasks=9, eval_tasks=9) | {field: value}
    results = cells if status == "finished" else {}
    return Record(f"run-{seed}", "Fake", config, status, [{"iteration": 5, **cells}], results, {})


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


cells = lists(fixed_dictionaries({"mean": floats(0.9, 1), "ci95": floats(0, 0.1)}), min_size=1, max_size=4)


@given(
    cells=cells, more=lists(floats(0, 0.1), min_size=4, max_size=4), margin=floats(0.1, 2), paper=floats(0, 1),
    borrowed=lists(floats(90, 100), min_size=3, max_size=3), wider=floats(1, 5),
)  # fmt: skip
@example(
    cells=[{"mean": 0.951, "ci95": 0.0}] * 3, more=[0.05] * 4, margin=0.5, paper=0.1, borrowed=[95.0] * 3, wider=1.0
)
def test_less_certainty_never_makes_agreement_or_a_difference(cells, more, margin, paper, borrowed, wider):
    """Fewer tasks and a wider spread that is borrowed can only take a verdict away; more tasks can only bring one."""
    sure = agreement.beside_paper(cells, (95.0, paper), margin, borrowed)
    fewer = [cell | {"ci95": cell["ci95"] + error} for cell, error in zip(cells, more, strict=False)]
    apart = [wider * accuracy for accuracy in borrowed]
    unsure = agreement.beside_paper(fewer, (95.0, paper), margin, apart)
    assert unsure.interval >= sure.interval and unsure.points == sure.points
    assert unsure.verdict == sure.verdict or unsure.verdict.endswith("cannot be told")
    assert agreement.beside_paper(cells[:1], (95.0, paper), margin).verdict == "cannot be told"


def test_one_seed_borrows_the_spread_of_others():
    """Each part has Student's own quantile: 4.30 for three seeds, 1.96 for tasks, which their interval has already."""
    found = agreement.beside_paper([{"mean": 0.95, "ci95": 0.003}], (94.0, 0.1), 0.5, [94.0, 95.0, 96.0])
    assert found.points == pytest.approx(1.0)
    assert found.interval == pytest.approx(np.sqrt(0.3**2 + 4.3027**2 * (1 + 0.1**2 / 3)), rel=1e-4)


def test_a_mean_over_training_has_the_interval_of_a_point():
    """All points of a curve have the same tasks."""
    one = record(0.5)
    one.curve.append({"iteration": 10, "5-shot": {"alone": {"mean": 0.7, "ci95": 0.03}}})
    found = accuracies_along([one, record(0.1, seed=1, status="diverged")])
    assert list(found) == [0] and found[0] == pytest.approx((60, 2))


def test_an_estimate_is_over_seeds_where_there_are_several():
    cells = [{"mean": mean, "ci95": 0.2} for mean in (0.5, 0.6, 0.7)]
    assert statistics.estimate(cells[:1]) == pytest.approx((50, 20))
    mean, half = statistics.estimate(cells)
    assert (mean, half) == pytest.approx((60, t.ppf(0.975, 2) * 10 / 3**0.5))


def test_means_over_training_are_compared_seed_by_seed_where_there_are_several():
    """Sums gain ten points, last gradients one, with few tasks and seeds further apart than the lines."""
    at = {"g1": 0.2, "g2": 0.9, "g4": 0.91, "g1+g2": 0.8, "½(g1+g2)": 0.8, "g1+g2+g3+g4": 0.9, "¼(g1+g2+g3+g4)": 0.9}
    claim = "sums gain more from four batches than last gradients do, mean over training"
    apart = {name: 0.001 * place for place, name in enumerate(at)}  # so that differences vary a little between seeds
    curves = {name: [record(x + i * (0.1 + apart[name]), i, ci95=0.2) for i in range(3)] for name, x in at.items()}
    found = claims.figure_3(curves)
    assert found[claim].holds and found[claim].difference == pytest.approx(9, abs=1)
    assert found["two-step Reptile is worse than two-step FOMAML, mean over training"].holds
    assert claims.figure_3(curves | {"g4": curves["g4"][:1]})[claim].holds is None, "one seed tells no spread"


def test_claims_as_a_table():
    table = claims.table({"a": True, "b": np.bool_(False), "c": None})
    assert table["Verdict"].tolist() == ["holds", "does not hold", "cannot be told"]
    assert list(table) == ["Statement", "Verdict"]
    table = claims.table({"a": True, "b": Comparison(1.234, 0.456, 3), "c": NOTHING}).set_index("Statement")
    assert table.loc["a"].tolist() == ["holds", "", ""] and table.loc["c"].tolist() == ["cannot be told", "", ""]
    assert table.loc["b"].tolist() == ["holds", "+1.23 ± 0.46", "3"]


def test_equally_poor_is_not_told_of_what_is_not_known():
    """Outer step sizes that are level and precise hold, level and noisy cannot be told, apart do not hold."""
    shared, separate = "FOMAML, shared tail, cycle", "FOMAML, separate tail, cycle"
    lines = {line: {4: [record(0.9)]} for line in (shared, separate, "Reptile")}
    claim = "4c: no outer step size differs from another by more than five points (equally poor for every choice)"

    def verdict(*points, ci95=0.01):
        swept = {float(i): [record(x, ci95=ci95)] for i, x in enumerate(points)}
        return claims.figure_4({"4a": lines, "4b": lines, "4c": {shared: swept}})[claim].holds

    assert verdict(0.6, 0.61, 0.62) is True
    assert verdict(0.6, 0.61, 0.62, ci95=0.5) is None
    assert verdict(0.6, 0.61, 0.7) is False
    assert verdict(0.6) is None, "one step size is beside no other"


def test_a_gain_is_the_mean_over_seeds_of_differences_within_a_seed():
    """Seeds that lie far apart, and come in another order, do not hide that each gains the same."""
    reference = [record(0.5), record(0.9, seed=1), record(0.1, seed=2, status="diverged")]
    better = [record(0.93, seed=1), record(0.51), record(0.2, seed=2)]
    table = tables.against(reference, {"b": better, "c": better[:1], "d": reference[2:]}, "Computed").set_index(
        "Computed"
    )
    assert table["5-shot, transductive"].to_dict() == {"b": "+2.00 ± 12.71", "c": "+3.00", "d": "diverged"}


def test_a_reading_of_figure_4_is_judged_by_the_points_that_it_has():
    shared, separate = "FOMAML, shared tail, cycle", "FOMAML, separate tail, cycle"
    falls, stays = {25: [record(0.9)], 75: [record(0.8)]}, {25: [record(0.9)], 50: [], 75: [record(0.9)]}
    level = "4b: FOMAML, separate tail, cycle is nowhere more than two points below its batches of 25, with any others"
    below = "4b: beyond batches of 25 shared-tail FOMAML, cycling, is below separate-tail FOMAML and Reptile"
    readings = {
        "falls": {"4b": {shared: falls, separate: falls, "Reptile": stays}},
        "stays": {"4a": {separate: {4: stays[25]}}, "4b": {shared: falls, separate: {75: stays[75]}}},
        "none": {"4a": {"Reptile": {2: []}}},
    }
    table = claims.figure_4_by_reading(readings).set_index("Statement")
    assert list(table) == ["falls", "stays"]
    assert table.loc[level].tolist() == ["does not hold (-10.0 ± 1.4)", "holds (+0.0 ± 1.4)"]
    assert table.loc[below].tolist() == ["cannot be told (+0.0 ± 1.4)", ""], "no point of Reptile's is no verdict"


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
