"""What is known of an experiment: the largest training on record, whoever ran it."""

import dataclasses
import json

from made_up import FEW_SHOT, SINE

import reptile_eqx as rx
from reptile_eqx.paper.experiments import FewShotClassification, SineRegression
from reptile_eqx.paper.statistics import largest_records
from reptile_eqx.runs.configuration import run_name


def test_the_largest_training_of_an_experiment_is_found_whoever_ran_it(home):
    few = SineRegression(**SINE)
    more = [SineRegression(**(SINE | dict(outer_iterations=66, seed=seed))) for seed in (0, 2)]
    other = SineRegression(**(SINE | dict(outer_iterations=72, inner_iterations=3)))
    assert largest_records(few) == []
    made = rx.run([few, *more, other], publish=True, figures=home / "elsewhere")
    assert largest_records(few, home / "elsewhere") == made[1:3]
    assert largest_records(few) == [], "those are other figures than the project's own"
    assert largest_records(other, home / "elsewhere") == [made[3]]
    # More evaluation tasks of one seed are taken; the other seed's stay what they are.
    (again,) = rx.run([dataclasses.replace(more[0], eval_tasks=6)], publish=True, figures=home / "elsewhere")
    assert largest_records(few, home / "elsewhere") == [again, made[2]]
    # Fewer seeds do not displace more, however many tasks they are evaluated on.
    alone = dataclasses.replace(more[0], eval_tasks=50, curve_points=1)
    rx.run([alone], publish=True, figures=home / "elsewhere")
    assert largest_records(few, home / "elsewhere") == [again, made[2]]
    path = home / "elsewhere" / "runs" / f"{again.name}.json"
    kept = json.loads(path.read_text())
    del kept["config"]["schedule"]  # as if made before the field was there
    path.write_text(json.dumps(kept))
    assert [record.config["seed"] for record in largest_records(few, home / "elsewhere")] == [0, 2]
    kept["status"] = "diverged"
    path.write_text(json.dumps(kept))
    assert [record.status for record in largest_records(few, home / "elsewhere")] == ["diverged", "finished"]


def test_of_several_orders_of_tasks_the_longest_training_is_taken_and_none_is_mixed(home):
    short = FewShotClassification(**FEW_SHOT)
    longer = [dataclasses.replace(short, outer_iterations=6, seed=seed, order="parallel") for seed in (0, 1)]
    exact = dataclasses.replace(short, outer_iterations=6, seed=2)
    for config in (short, *longer, exact):
        settings = dataclasses.asdict(config)
        record = rx.Record(run_name(config), "FewShotClassification", settings, "finished", [], {}, {})
        path = home / "elsewhere" / "runs" / f"{record.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(record)))
    found = largest_records(short, home / "elsewhere")
    assert [(record.config["seed"], record.config["order"]) for record in found] == [(0, "parallel"), (1, "parallel")]
