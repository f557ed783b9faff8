"""How far apart trainings lie: intervals of standard deviations, and what three of each can tell."""

import numpy as np
import pytest
from test_claims import record

from reptile_eqx.paper import spread
from reptile_eqx.paper.catalogue import spread_runs


@pytest.mark.parametrize(("n", "m"), [(3, 3), (6, 4)])
def test_intervals_hold_the_truth_in_95_of_100_cases(n, m):
    rng = np.random.default_rng(0)
    a, b = (x.std(axis=1, ddof=1) for x in (2.0 * rng.normal(size=(4000, n)), rng.normal(size=(4000, m))))
    low, high = np.transpose([spread.interval(one, n) for one in a])
    assert np.mean((low < 2) & (high > 2)) == pytest.approx(0.95, abs=0.015)
    assert np.mean(low > 2) == pytest.approx(0.025, abs=0.01)
    low, high = np.transpose([spread.ratio_interval(x / y, n, m) for x, y in zip(a, b, strict=True)])
    assert np.mean((low < 2) & (high > 2)) == pytest.approx(0.95, abs=0.015)
    assert np.mean(low > 2) == pytest.approx(0.025, abs=0.01)


def test_three_of_each_tell_a_ratio_beyond_six():
    close, far, apart = ([record(0.9 + step * i, seed=i) for i in range(3)] for step in (0.001, 0.005, 0.007))
    told = {len(some): spread.table(some, close).set_index("5-way Omniglot") for some in (far, far[:2])}
    assert told[3].loc["5-shot, transductive", "± over 3 seeds"] == "0.50 (0.26 to 3.14)"
    assert told[3].loc["5-shot, transductive", "Ratio"] == "5.00 (0.80 to 31.22)"
    assert told[3]["Paper's ±"].tolist() == ["0.10", "0.06"]
    assert told[3]["± by tasks alone"].tolist() == ["0.51", "0.51"], "± 1 point is 1.96 deviations"
    assert set(told[3]["Verdict"]) == {"cannot be told"}
    assert set(spread.table(apart, close)["Verdict"]) == {"seeds differ more"}
    assert set(spread.table(close, apart)["Verdict"]) == {"seeds differ less"}
    with pytest.raises(ValueError, match="1 of the initialisations finished; a standard deviation takes two"):
        spread.table(far, [close[0], record(0.1, seed=1, status="diverged")])


def test_seeds_and_initialisations_have_one_training_in_common():
    runs = spread_runs()
    assert runs["seeds"][0] == runs["initialisations"][0]
    assert {(c.seed, c.initialisation) for some in runs.values() for c in some} == {
        *((seed, 0) for seed in range(5)),
        (0, 1),
        (0, 2),
    }
