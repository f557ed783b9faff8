"""What is trained: the paper's settings at every scale, each training once, every record accounted for."""

import dataclasses

import pytest

import reptile_eqx as rx
from reptile_eqx import files
from reptile_eqx.paper.catalogue import (
    NOTEBOOKS,
    PROFILES,
    TRAININGS,
    Scale,
    ablation_runs,
    classification_runs,
    entries,
    faster_runs,
    figure_3_runs,
    figure_4_readings,
    figure_4_runs,
    finn_runs,
    spread_runs,
    trainings_of,
)
from reptile_eqx.paper.experiments import FewShotClassification
from reptile_eqx.paper.section_8 import density, questions, reinforcement_runs
from reptile_eqx.paper.section_8.entries import entries as section_8_entries
from reptile_eqx.paper.section_8.reinforcement import ENVIRONMENTS
from reptile_eqx.paper.settings import ABLATIONS, FASTER, SWEEPS, TABLE_3, UNTRAINED
from reptile_eqx.paper.statistics import SCALE
from reptile_eqx.runs.configuration import run_name, same_program
from reptile_eqx.runs.records import plain, read_record

PAPER, QUICK = Scale("paper"), Scale("quick")


def flat(runs):
    return [c for child in runs.values() for c in flat(child)] if isinstance(runs, dict) else runs


def test_batches_of_a_combination_do_not_overlap_and_an_average_is_a_sum_with_a_smaller_step():
    for label, configs in figure_3_runs(PAPER).items():
        for config in configs:
            assert config.ways * config.training_shots == config.inner_iterations * config.inner_batch_size
            total = sum(config.weights)
            assert total == pytest.approx(label.count("+") + 1 if label.startswith("g1") else 1.0), label


def test_a_separate_tail_leaves_enough_images_for_the_batches_before_it():
    for panel in SWEEPS:
        for profile in PROFILES:
            for config in flat(figure_4_runs(Scale(profile), panel)):
                assert config.ways * (config.training_shots - config.tail) >= config.inner_batch_size
    assert 100 not in figure_4_runs(PAPER, "4b")["FOMAML, separate tail, cycle"]
    assert sorted(figure_4_runs(PAPER, "4c")) == ["FOMAML, shared tail, cycle", UNTRAINED]


def test_readings_of_figure_4_differ_in_what_they_say_alone():
    def differing(reading, panel):
        def fields_of(runs):
            return {(line, value): plain(of[0]) for line, points in runs.items() for value, of in points.items()}

        usual = fields_of(figure_4_runs(Scale("quick", [0]), panel))
        found = set()
        for point, fields in fields_of(figure_4_readings()[reading][panel]).items():
            found |= {name for name, value in fields.items() if value != usual[point][name]}
        return found

    for panel in ("4a", "4b"):
        assert differing("Adam", panel) == {"optimiser"}
        assert differing("Tail of ten", panel) == {"tail"}
    assert differing("Outer step of 0.25", "4a") == {"outer_step_size"}
    for panel in ("4b", "4c"):
        assert differing("Mean loss", panel) == {"loss", "learning_rate"}
    means, sums = figure_4_readings()["Mean loss"]["4c"], figure_4_runs(Scale("quick", 3), "4c")
    assert means[UNTRAINED] == sums[UNTRAINED] and means[UNTRAINED][0.0][0].outer_step_size == 0
    (one,) = {c.loss for points in figure_4_readings()["Mean loss"]["4b"].values() for c in points[25]}
    assert one == "sum", "25 images take the same steps with either"


@pytest.mark.parametrize("swept", ABLATIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_an_ablation_differs_from_table_3_in_nothing_but_what_it_sweeps(swept, profile):
    along = {"inner_iterations", "inner_batch_size"} if swept == "algorithm" else set()
    runs = ablation_runs(Scale(profile), swept)
    own = TABLE_3[5].get(swept, getattr(FewShotClassification, swept))
    for value, configs in runs.items():
        for config, base in zip(configs, runs[own], strict=True):
            differing = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(base, f.name)}
            assert getattr(config, swept) == value
            assert differing == (set() if value == own else {swept} | along)
            assert all(getattr(base, name) == TABLE_3[5][name] for name in set(TABLE_3[5]) - {"outer_iterations"})


@pytest.mark.parametrize("swept", FASTER)
def test_what_may_be_faster_is_the_same_training_of_the_same_seeds(swept):
    runs = faster_runs(PAPER, swept)
    assert runs == faster_runs(QUICK, swept)
    reference, *others = runs
    assert reference == getattr(FewShotClassification, swept)
    assert [config.seed for config in runs[reference]] == list(range(5 if swept == "order" else 3))
    for value in others:
        assert runs[value] == [dataclasses.replace(config, **{swept: value}) for config in runs[reference]]


def test_points_that_differ_in_a_number_share_a_program():
    assert len({same_program(c) for c in flat(ablation_runs(QUICK, "learning_rate"))}) == 1
    assert len({same_program(c) for c in flat(figure_3_runs(QUICK))}) == 4
    assert len({same_program(c) for c in flat(figure_4_runs(QUICK, "4c")["FOMAML, shared tail, cycle"])}) == 1
    assert len({same_program(c) for c in flat(ablation_runs(QUICK, "meta_batch_size"))}) == 3


def test_joint_training_sees_the_images_that_reptile_sees():
    runs = ablation_runs(PAPER, "algorithm")
    images = {a: r[0].inner_iterations * r[0].inner_batch_size * r[0].meta_batch_size for a, r in runs.items()}
    assert images["joint"] == images["reptile"] == 250


def test_the_order_is_that_of_worth():
    names = list(entries(PAPER))
    listed = ["Figure 1", "MAML's setting", "Section 5", "omniglot-5way-reptile", "Figure 3", "Figure 4a", "Figure 4c",
              "omniglot-20way-reptile", "mini-imagenet-5way-reptile", "Around Table 3", "What may be faster",
              "omniglot-5way-1shot-fomaml", "mini-imagenet-5way-5shot-maml"]  # fmt: skip
    assert [names.index(name) for name in listed] == sorted(names.index(name) for name in listed)
    assert set(TRAININGS) <= set(names)
    assert {entry.notebook for entry in entries(Scale("smoke")).values()} == set(NOTEBOOKS)


@pytest.mark.parametrize(
    ("platform", "profile", "order"),
    [("gpu", "paper", "parallel"), ("gpu", "quick", "exact"), ("cpu", "paper", "exact")],
)
def test_on_a_gpu_the_papers_tables_take_tasks_in_parallel(platform, profile, order):
    for entry in entries(Scale(profile, 1, platform=platform)).values():
        if entry.notebook == "3_classification":
            assert {config.order for config in entry.configs} == {order}
    assert [c.order for c in flat(figure_3_runs(Scale("paper", 1, platform="gpu")))] == ["exact"] * 10


def test_what_stands_in_for_omniglot_stands_in_everywhere():
    for entry in entries(Scale("smoke", dataset="glyphs")).values():
        datasets = {(c.dataset, c.train_classes) for c in entry.configs if hasattr(c, "dataset")}
        assert datasets <= {("glyphs", 400)}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (dict(profile="fast"), "unknown profile 'fast'; there are smoke, quick, paper"),
        (dict(profile="quick", outer_iterations=0), "`outer_iterations` is 0; expected a whole number, 1 or more"),
        (dict(profile="quick", seeds=[0, 0]), r"seeds \(0 or greater, each once\) to train; given \[0, 0\]"),
        (dict(profile="quick", seeds=[-1]), "`seeds` is -1; expected a whole number, 0 or more"),
        (dict(profile="quick", seeds=0), "`seeds` is 0; expected a whole number, 1 or more"),
        (dict(profile="quick", seeds=[1.5]), "`seeds` is 1.5; expected a whole number"),
        (dict(profile="quick", seeds={}), "such as 3 or"),
        (dict(profile="quick", outer_iterations=2.5), "`outer_iterations` is 2.5; expected a whole number"),
        (dict(profile="quick", outer_iterations=float("nan")), "`outer_iterations` is nan; expected a whole number"),
    ],
)
def test_scales_that_cannot_be_are_named(scale, message):
    with pytest.raises(ValueError, match=message):
        entries(Scale(**scale))


def test_unknown_trainings_are_named():
    with pytest.raises(ValueError, match="no training 'omniglot-7way'; there are omniglot-5way-reptile, "):
        trainings_of("quick", ["omniglot-7way"])
    assert trainings_of("quick") == ("omniglot-5way-reptile",)
    assert trainings_of("paper") == tuple(TRAININGS)


in_a_checkout = pytest.mark.skipif(not files.in_checkout(), reason="records are kept in a checkout")
FIGURES = files.CHECKOUT / "figures"


@in_a_checkout
def test_quick_shows_published_records_where_it_trains_nothing():
    shown = [e for e in entries(QUICK).values() if e.notebook == "4_ablations"]
    for config in [config for entry in shown for config in entry.configs]:
        assert rx.find_record(config, FIGURES) is not None, run_name(config)


# Records of trainings that the catalogue has at another scale, and why they are kept.
AS_FAR_AS_THE_TIME_WENT = "a row of Table 1 or 2, trained as far as the time went"
ORDERS_COMPARED = "both orders of tasks, compared on Mini-ImageNet"
ANOTHER_PROCESSOR = "a seed of Table 2 trained on another processor, whose sums round otherwise"
SHORTER = "Table 2's 5-way training a fifth as long"
EXTRAS = {
    "mini-imagenet-5way-fomaml-100-seed0-41653976c7": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-fomaml-200-seed0-84ab5bafab": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-fomaml-3000-seed0-3d977eda48": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-maml-30-seed0-275c5bbdc9": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-maml-60-seed0-a3663d37eb": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-reptile-2000-seed0-b6a57b5b48": ORDERS_COMPARED,
    "mini-imagenet-5way-reptile-2000-seed0-c10e25b16f": ORDERS_COMPARED,
    "mini-imagenet-5way-reptile-2000-seed1-7243f300fc": ORDERS_COMPARED,
    "mini-imagenet-5way-reptile-2000-seed2-f6b6acb0a5": ORDERS_COMPARED,
    "mini-imagenet-5way-reptile-20000-seed0-742aae2b4c": AS_FAR_AS_THE_TIME_WENT,
    "mini-imagenet-5way-reptile-50000-seed0-48bf8d22aa": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-fomaml-100-seed0-698a7f574f": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-fomaml-2000-seed0-37c8f7918c": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-fomaml-300-seed0-68069501c5": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-maml-100-seed0-cbad1348f6": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-maml-30-seed0-18648f1ab9": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-reptile-20000-seed0-06af6a43fe": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-reptile-20000-seed1-4d04b8903e": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-20way-reptile-20000-seed2-79fefa13f9": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-5way-fomaml-20000-seed0-4c1cf73197": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-5way-fomaml-40000-seed0-c5d65aec7d": "a row of Table 2 at its full length, in parallel order",
    "omniglot-5way-maml-20000-seed0-f50a00f3e3": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-5way-maml-5000-seed0-e470687603": AS_FAR_AS_THE_TIME_WENT,
    "omniglot-5way-reptile-100000-seed1-dc4c5c007f": ANOTHER_PROCESSOR,
    "omniglot-5way-reptile-100000-seed2-fba538a869": ANOTHER_PROCESSOR,
    "omniglot-5way-reptile-20000-seed0-ae2cbd193f": SHORTER,
}


def test_settings_change_a_field_of_all_runs_and_a_wrong_name_says_which_there_are():
    faster = entries(Scale("smoke", override={"order": "parallel"}))
    assert {config.order for config in faster["omniglot-5way-reptile"].configs} == {"parallel"}
    assert faster["Figure 1"] == entries(Scale("smoke"))["Figure 1"], "which has no order"
    with pytest.raises(ValueError, match="`settings` has ordr, which no run has; there are adam_b1, algorithm"):
        entries(Scale("smoke", override={"ordr": "parallel"}))
    with pytest.raises(ValueError, match="`settings` are values by name"):
        entries(Scale("smoke", override="fast"))


def test_lists_mean_the_same_as_the_texts_that_papermill_makes_of_them():
    assert Scale("quick", "[0, 2]").chosen_seeds({"quick": 1}) == (0, 2)
    assert trainings_of("quick", '["omniglot-5way-reptile"]') == ("omniglot-5way-reptile",)
    assert entries(Scale("smoke", override='{"meta_batch_size": 2}')) == entries(
        Scale("smoke", override={"meta_batch_size": 2})
    )


def section_8():
    """What is trained for Section 8, and what its settings were chosen by."""
    yield from (entry.runs for entry in section_8_entries(Scale("paper")).values())
    yield from (questions.choosing_runs(), density.tuning_runs())
    for environment in ENVIRONMENTS:
        yield reinforcement_runs.tuning_runs(environment)


@in_a_checkout
def test_every_record_is_the_catalogues_or_an_extra_of_one_of_its_trainings():
    known = {
        run_name(config)
        for scale in (Scale("quick", 3), Scale("paper"))
        for entry in entries(scale, list(TRAININGS)).values()
        for config in entry.configs
    } | {
        run_name(config)
        for runs in (spread_runs(), finn_runs(), figure_4_readings(), *section_8())
        for config in flat(runs)
    }
    published = {path.stem: read_record(path) for path in (FIGURES / "runs").glob("*.json")}
    assert published.keys() - known == EXTRAS.keys()
    tables = [plain(config) for name in TRAININGS for config in classification_runs(PAPER, name)]
    for name in EXTRAS:
        config = {k: v for k, v in published[name].config.items() if k not in ("seed", *SCALE)}
        assert any(config.items() <= table.items() for table in tables), name
