"""What is known of an experiment, whoever ran it: the largest training on record, and all seeds of one."""

import dataclasses
import json

import pytest
from made_up import FEW_SHOT, SINE

from reptile_eqx.paper import plan
from reptile_eqx.paper.catalogue import Entry
from reptile_eqx.paper.experiments import FewShotClassification, SineRegression
from reptile_eqx.paper.statistics import largest_records
from reptile_eqx.runs.configuration import run_name
from reptile_eqx.runs.records import Record, plain


@pytest.fixture
def keep(home):
    """Writes the record of a configuration as if it had been run, into figures of somebody's own."""

    def keep(config, status="finished", without=()):
        settings = {name: value for name, value in plain(config).items() if name not in without}
        record = Record(run_name(config), type(config).__name__, settings, status, [], {}, {})
        path = home / "elsewhere" / "runs" / f"{record.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(record)))
        return record

    return keep


def test_the_largest_training_of_an_experiment_is_found_whoever_ran_it(home, keep):
    few, theirs = SineRegression(**SINE), home / "elsewhere"
    more = [SineRegression(**(SINE | dict(outer_iterations=66, seed=seed))) for seed in (0, 2)]
    other = SineRegression(**(SINE | dict(outer_iterations=72, inner_iterations=3)))
    assert largest_records(few) == []
    made = [keep(config) for config in (few, *more, other)]
    assert largest_records(few, theirs) == made[1:3]
    assert largest_records(few) == [], "those are other figures than the project's own"
    assert largest_records(other, theirs) == [made[3]]
    # More evaluation tasks of one seed are taken; the other seed's stay what they are.
    enlarged = dataclasses.replace(more[0], eval_tasks=6)
    again = keep(enlarged)
    assert largest_records(few, theirs) == [again, made[2]]
    # Fewer seeds do not displace more, however many tasks they are evaluated on.
    keep(dataclasses.replace(more[0], eval_tasks=50, curve_points=1))
    assert largest_records(few, theirs) == [again, made[2]]
    keep(enlarged, without=("schedule",))  # as if made before the field was there
    assert [record.config["seed"] for record in largest_records(few, theirs)] == [0, 2]
    keep(enlarged, status="diverged")
    assert [record.status for record in largest_records(few, theirs)] == ["diverged", "finished"]


def test_of_several_orders_of_tasks_the_longest_training_is_taken_and_none_is_mixed(home, keep):
    short = FewShotClassification(**FEW_SHOT)
    longer = [dataclasses.replace(short, outer_iterations=6, seed=seed, order="parallel") for seed in (0, 1)]
    for config in (short, *longer, dataclasses.replace(short, outer_iterations=6, seed=2)):
        keep(config)
    found = largest_records(short, home / "elsewhere")
    assert [(record.config["seed"], record.config["order"]) for record in found] == [(0, "parallel"), (1, "parallel")]


def test_of_equal_trainings_that_in_exact_order_is_taken(home, keep):
    exact = FewShotClassification(**FEW_SHOT)
    keep(dataclasses.replace(exact, order="parallel"))
    kept = keep(exact)
    assert largest_records(exact, home / "elsewhere") == [kept]


def test_a_training_is_joined_by_its_other_seeds_whatever_their_tasks(home, keep):
    config = FewShotClassification(**FEW_SHOT)
    mine, other = keep(config), dataclasses.replace(config, training_shots=5)
    apart = keep(other)
    more = [keep(dataclasses.replace(config, seed=seed, eval_tasks=9)) for seed in (2, 1)]
    for strange in (dict(outer_iterations=6), dict(learning_rate=0.5), dict(order="parallel"), dict(initialisation=1)):
        keep(dataclasses.replace(config, seed=3, **strange))
    entry = Entry("notebook", "name", {"a": {1: [config]}, "b": [other]}, 4)
    placed, everything = plan.of_every_seed(entry, home / "elsewhere")
    assert placed == {"a": {1: [mine, *reversed(more)]}, "b": [apart]}
    assert everything == [mine, *reversed(more), apart]
    larger = keep(dataclasses.replace(config, eval_tasks=9))
    assert plan.of_every_seed(entry, home / "elsewhere")[0]["a"][1][0] == larger
    assert plan.of_every_seed(entry)[0]["b"] == [], "those are other figures than the project's own"
