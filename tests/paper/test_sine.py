"""Verdicts on Sections 4 and 5, of made-up records: what is set beside what, and which way round."""

import pytest

from reptile_eqx.paper import sine
from reptile_eqx.runs.records import Record


def test_section_4_sets_a_higher_loss_beside_a_lower_one():
    """Reptile and MAML end low and begin flat; turned about, what they claim does not hold."""
    zero = sine.zero_function_loss()
    assert zero == pytest.approx(42.5, abs=0.1)

    def made_up(seed, last, size):
        loss = {"mean": [zero + seed / 10, last * (1 + 0.01 * seed)], "ci95": [0.1, 0.1]}
        shown = {"predictions": [[size * (1 + seed / 100), -size]]}
        return Record(f"r{seed}", "SineRegression", {"seed": seed}, "finished", [], {"loss": loss, "shown": shown}, {})

    def methods(reptile, maml, size):
        ends = {"Random initialisation": 30, "Joint training": 30, "FOMAML": maml, "MAML": maml, "Reptile": reptile}
        sizes = {"Joint training": 0.01, "Reptile": size, "MAML": size}
        return {name: [made_up(i, last, sizes.get(name, 1.0)) for i in range(3)] for name, last in ends.items()}

    assert {found.holds for found in sine.section_4(methods(2, 0.5, 0.1)).values()} == {True}
    bad = sine.section_4(methods(40, 50, 0.5))
    holding = [claim for claim, found in bad.items() if found.holds]
    assert len(holding) == 2 and all("oint training" in claim for claim in holding), "which did not change"
    assert {found.holds for found in bad.values()} == {True, False}


def test_section_5_sets_the_right_quantities_beside_one_another():
    """All hold where the within-task quantities rise and the others fall, in each seed a little more; turned, none."""

    def point(level, seed):
        within = {q: {"mean": level * (1 + 0.01 * seed), "ci95": 0.1} for q in ("same", "cosine_same", "gain_same")}
        others = ("other", "cosine_other", "distance", "loss_there")
        return {"watched": within | {q: {"mean": -level * (1 + 0.02 * seed), "ci95": 0.1} for q in others}}

    def methods(sign):
        levels = {"FOMAML": 2.0, "MAML": 3.0, "Reptile": 4.0, sine.JOINT: 0.5}
        return {
            name: [
                Record(
                    f"r{i}", "SineAnalysis", {"seed": i}, "finished", [point(0.1 * sign, i), point(x * sign, i)], {}, {}
                )
                for i in range(3)
            ]
            for name, x in levels.items()
        }

    assert len(sine.section_5(methods(1))) == 20
    assert {found.holds for found in sine.section_5(methods(1)).values()} == {True}
    assert {found.holds for found in sine.section_5(methods(-1)).values()} == {False}


def test_a_curve_is_settled_from_where_it_stays_near_its_end():
    def made_up(seed, *values):
        curve = [{"iteration": 10 * i, "value": value} for i, value in enumerate(values)]
        return Record(f"made-up-{seed}", "SineAnalysis", {"seed": seed}, "finished", curve, {}, {})

    records = [made_up(0, 5, 1.0, 3, 1.04, 1.0), made_up(1, 1, 1.01, 0.99, 1), made_up(2, 1, 1, 1, 2)]
    assert sine.settled(records, lambda point: point["value"]) == {0: 30, 1: 0, 2: 30}
