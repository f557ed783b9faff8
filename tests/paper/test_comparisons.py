"""Comparisons of made-up numbers: which is above which, over how many seeds, and what decides of several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, tuples
from scipy.stats import t, ttest_ind, ttest_rel

from reptile_eqx.paper.comparisons import NOTHING, Comparison, Measured, alike, compare, every, in_pairs


def seeds(*means, first=0, interval=1.0):
    """Numbers of so many seeds, with an interval over tasks."""
    return {first + i: Measured(float(mean), interval) for i, mean in enumerate(means)}


@given(lists(tuples(floats(0, 100), floats(0, 100)), min_size=2, max_size=5))
def test_seeds_in_common_are_compared_pair_by_pair(pairs):
    """As SciPy's paired t-test has it."""
    some, others = zip(*pairs, strict=True)
    found = compare(seeds(*some), dict(reversed(seeds(*others).items())))
    differences = np.subtract(some, others)
    assert found.seeds == len(pairs) and found.difference == pytest.approx(differences.mean(), abs=1e-9)
    if np.ptp(differences) < 1e-6:
        assert np.isnan(found.interval) or found.interval < 1e-4
        return
    wanted = ttest_rel(some, others).confidence_interval(0.95)
    assert found.difference - found.interval == pytest.approx(wanted.low, abs=1e-6)
    assert found.difference + found.interval == pytest.approx(wanted.high, abs=1e-6)


def test_pairs_without_any_spread_tell_nothing():
    """All of three seeds one step of a coarse grid apart: how far seeds differ is not known."""
    found = in_pairs(dict.fromkeys(range(3), 30_000.0), dict.fromkeys(range(3), 27_000.0))
    assert found.holds is None and str(found) == "+3,000"
    assert in_pairs({i: i / 10 + 0.2 for i in range(3)}, {i: i / 10 for i in range(3)}).holds is None, (
        "but for rounding"
    )


def test_seeds_of_their_own_are_compared_as_welch_does():
    some, others = (1.0, 2.0, 4.0), (7.0, 9.0, 10.0, 14.0)
    found = compare(seeds(*some), seeds(*others, first=3))
    assert compare(seeds(*some, interval=90.0), seeds(*others, first=3)).interval > 50, "no less than the tasks' error"
    wanted = ttest_ind(some, others, equal_var=False).confidence_interval(0.95)
    assert (found.difference - found.interval, found.difference + found.interval) == pytest.approx(wanted)
    assert found.seeds == 3


def test_one_seed_beside_several_takes_their_spread():
    """As the two-sample t-test has it, whose pooled deviation is that of the several; none is less than the tasks'."""
    one, several = (9.0,), (4.0, 5.0, 7.0)
    wanted = ttest_ind(one, several).confidence_interval(0.95)
    for first in (0, 3):
        found = compare(seeds(*one, first=first), seeds(*several))
        assert (found.difference - found.interval, found.difference + found.interval) == pytest.approx(wanted)
        assert found.seeds == 1
        other = compare(seeds(*several), seeds(*one, first=first))
        assert other == found._replace(difference=-found.difference)
    assert compare(seeds(9.0, interval=40.0), seeds(5.0, 5.1, 5.2)).interval > 40
    unknown = compare(seeds(*one, interval=np.nan), seeds(*several, interval=np.nan))
    assert unknown.interval == pytest.approx((wanted.high - wanted.low) / 2), "where the tasks' error is not known"


def test_one_seed_beside_one_has_the_error_of_its_tasks():
    good, equal, bad = seeds(90), seeds(89), seeds(70, first=2)
    assert compare(good, bad)[:4] == pytest.approx((20, 2**0.5, 1, 0))
    assert compare(good, bad).holds is True and compare(bad, good).holds is False
    assert compare(good, equal).holds is None
    assert [compare(good, bad, by).holds for by in (18, 19, 20, 22)] == [True, None, None, False]


def test_what_was_not_run_tells_nothing():
    for found in (compare({}, seeds(1)), compare(seeds(1), {}), in_pairs({0: 1.0}, {7: 1.0})):
        assert found.holds is None and found.seeds == 0 and str(found) == ""
    assert in_pairs({0: 10.0}, {0: 9.0}).holds is None, "a single pair has no interval"
    assert str(in_pairs({0: 10.0}, {0: 9.0})) == "+1"


def test_a_difference_that_all_seeds_share_is_told_however_much_seeds_differ():
    some, others = {0: 10.0, 1: 50.0, 2: 90.0}, {0: 9.0, 1: 48.9, 2: 89.1}
    assert in_pairs(some, others).holds is True
    assert in_pairs(others, some).holds is False
    assert in_pairs(some, {seed: number + 1 for seed, number in others.items()}).holds is None
    assert in_pairs(some, {0: 9.0, 1: 60.0, 2: 89.0}).holds is None


def test_alike_is_within_a_margin_on_either_side():
    assert alike(seeds(90, interval=0.1), seeds(90.5, interval=0.1)).holds is True
    assert alike(seeds(90, interval=0.1), seeds(92, interval=0.1)).holds is False
    assert alike(seeds(92, interval=0.1), seeds(90, interval=0.1)).holds is False
    assert alike(seeds(90), seeds(90)).holds is None, "± 1.4 says neither"
    assert alike(seeds(90), seeds(92), points=5).holds is True
    assert str(alike(seeds(92), seeds(90))) == "+2.0 ± 1.4", "which is higher is not lost"


comparisons = lists(
    tuples(floats(-5, 5), floats(0, 5), integers(1, 3), floats(-2, 2)).map(lambda values: Comparison(*values)),
    max_size=5,
)


@given(comparisons)
def test_of_several_that_must_all_hold_one_decides(found):
    """All hold where that does which holds most narrowly; one that fails decides, whatever cannot be told."""
    decides = every(found)
    verdicts = [one.holds for one in found]
    assert decides.holds is (False if False in verdicts else None if None in verdicts or not found else True)
    assert decides is NOTHING if not found else decides in found
    sign = 1 if decides.holds is False else -1
    for one in found:
        if one.holds is decides.holds:
            assert decides.beyond + sign * decides.interval <= one.beyond + sign * one.interval
    assert every([*found, NOTHING]).holds is (False if False in verdicts else None)
    if False not in verdicts:
        assert every([*found, NOTHING]) is NOTHING, "what is missing is not hidden behind what is there"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Comparison(-1.66, 1.47, 3), "-1.7 ± 1.5"),
        (Comparison(0.0184, 0.0072, 3), "+0.0184 ± 0.0072"),
        (Comparison(28.1, 12.7, 3), "+28 ± 13"),
        (Comparison(-0.001, 0.3, 3), "+0.00 ± 0.30"),
        (Comparison(1.0, 9.96, 3), "+1 ± 10"),
        (Comparison(2.0, 0.0, 1), "+2 ± 0"),
        (Comparison(18500.0, 15321.0, 3), "+18,500 ± 15,321"),
    ],
)
def test_a_difference_is_written_to_two_digits_of_its_interval(found, said):
    assert str(found) == said


def test_a_mean_of_differences_has_students_interval():
    found = in_pairs({0: 2.0, 1: 4.0}, {0: 1.0, 1: 1.0})
    assert found.difference == 2 and found.interval == pytest.approx(t.ppf(0.975, 1))
