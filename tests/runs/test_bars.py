"""What progress bars are called, and what they end on."""

from dataclasses import replace

import reptile_eqx as rx
from reptile_eqx.paper.catalogue import Scale, classification_runs, maml_setting_runs
from reptile_eqx.paper.experiments import SineRegression
from reptile_eqx.runs.programs import title_of


def test_bars_are_named_by_what_differs():
    runs = classification_runs(Scale("quick"), "omniglot-5way-reptile")
    assert title_of(runs) == "omniglot-5way-reptile, seeds 0, 1, 2"
    assert title_of(runs[:1], runs) == "omniglot-5way-reptile, seed 0"
    many = [replace(runs[0], seed=seed) for seed in range(9)]
    assert title_of(many) == "omniglot-5way-reptile, seeds 0 to 8"
    asked = [config for some in maml_setting_runs(Scale("quick")).values() for config in some]
    titles = {title_of(asked[i : i + 2], asked) for i in range(0, len(asked), 2)}
    assert len(titles) == 4 and "sine-maml, seed 0, inner_step_size 0.01, 0.02, meta_batch_size 4" in titles


def test_training_and_evaluating_are_bars_of_their_own_that_end_on_what_was_measured(capsys):
    config = SineRegression(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2)
    (record,) = rx.run([config])
    ended = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n") if line.strip()]
    assert [line.split(":")[0] for line in ended] == [
        "training sine-reptile, seed 0",
        "evaluating sine-reptile, seed 0",
    ]
    assert "2/2" in ended[0] and f"loss {record.curve[-1]['loss']['mean'][-1]:.3f}" in ended[0]
    assert "3/3" in ended[1] and f"loss {record.results['loss']['mean'][-1]:.3f}" in ended[1]
