"""Working off a profile: the order, what is left and how long it takes, and what a failure stops."""

from pathlib import Path

import jax
import numpy as np
import pytest

import reptile_eqx as rx
from reptile_eqx.cli import main
from reptile_eqx.paper import bench, catalogue, plan
from reptile_eqx.paper.catalogue import TRAININGS, Entry, Scale, classification_runs, entries
from reptile_eqx.paper.experiments import SineRegression
from reptile_eqx.runs.checkpoint import Training, state_path
from reptile_eqx.runs.records import plain
from reptile_eqx.runs.run import iterations_left

TINY = dict(curve_points=1, curve_tasks=2, eval_tasks=4)


def entry(*configs, notebook="1_sine_regression", name="tiny"):
    return Entry(notebook, name, {"": list(configs)}, 100)


@pytest.fixture
def clock():
    """A machine of 100 GFLOP/s, whatever is to be trained, and what it was asked."""
    asked = []
    return (lambda *kind: asked.append(kind) or 1e11), asked


def test_records_lie_where_their_configurations_did():
    runs = {"a": {1: [SineRegression(outer_iterations=2, **TINY)]}, "b": [SineRegression(outer_iterations=3, **TINY)]}
    records, everything = plan.trained(Entry("", "", runs, 0))
    assert records["a"][1][0].config["outer_iterations"] == 2 and records["b"][0].config["outer_iterations"] == 3
    assert everything == [*records["a"][1], *records["b"]]


def test_the_paper_is_trained_in_order_and_each_notebook_executed_when_its_runs_are_there(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr("reptile_eqx.datasets.find_mini_imagenet", lambda _: None)
    monkeypatch.setattr("reptile_eqx.cli._train_apart", lambda some, _: done.append([one.name for one in some]))
    monkeypatch.setattr("papermill.execute_notebook", lambda path, *_, **__: done.append(Path(path).stem))
    monkeypatch.setattr(bench, "platform_of", lambda _: "cpu")
    assert main(["run", "--profile", "paper", "--out", str(tmp_path)]) == 0
    names = list(entries(Scale("paper")))
    without = ["5_your_own_tasks", "6_playground", "7_open_questions"]
    assert done[-3:] == without, "which need no run of the plan"
    del done[-3:]
    assert done[1::2] == ["1_sine_regression", "2_analysis", "4_ablations", "3_classification"]
    assert all(prefix == names[: len(prefix)] for prefix in done[::2])
    assert done[0][-1] == "MAML's setting" and done[2][-1] == "Section 5"
    assert done[4][-1] == "What may be faster" and done[6] == names
    done.clear()
    assert main(["run", "3", "--profile", "quick", "--out", str(tmp_path)]) == 0
    assert done == ["3_classification"], "smaller profiles leave it to the notebooks"


def test_what_was_trained_beforehand_is_there_for_the_notebook(monkeypatch, tmp_path):
    """In the process of its own that the command starts."""
    config = SineRegression(outer_iterations=20, **TINY)
    monkeypatch.setattr(catalogue, "entries", lambda *_: {"tiny": entry(config)})
    monkeypatch.setattr(bench, "platform_of", lambda _: "cpu")
    found = []
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: found.append(rx.find_record(config, tmp_path)))
    assert main(["run", "1", "--profile", "paper", "--out", str(tmp_path)]) == 0
    assert found[0].status == "finished" and found[0].made["data"] == "none, tasks are drawn from the seed"


def test_an_experiment_that_fails_does_not_stop_those_after_it(monkeypatch, tmp_path, capsys):
    done = []

    def out_of_memory_once(configs, *_, **__):
        done.append(configs)
        if len(done) == 1:
            raise jax.errors.JaxRuntimeError("out of memory: 12 GiB")
        if len(done) == 3:
            raise ValueError("not a matter of memory")

    monkeypatch.setattr(plan, "run", out_of_memory_once)
    sine, longer = SineRegression(), SineRegression(outer_iterations=40_000)
    plan.train([entry(sine), entry(longer)], None, None, tmp_path)
    assert done == [[sine], [longer]] and "RuntimeError: out of memory: 12 GiB" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not a matter of memory"):
        plan.train([entry(sine)], None, None, tmp_path)


def test_each_order_of_tasks_has_a_speed_of_its_own():
    orders = ("cpu", "exact"), ("gpu", "parallel")
    some = [
        entry(*classification_runs(Scale("paper", 1, platform=platform), "omniglot-5way-reptile"))
        for platform, _ in orders
    ]
    rows = plan.table(some, speed=lambda name, devices, order: {"exact": 1e11, "parallel": 4e11}[order])
    assert rows["Hours here"][0] == pytest.approx(4 * rows["Hours here"][1])


def test_a_dataset_is_loaded_where_an_experiment_needs_it(monkeypatch, tmp_path):
    few_shot = classification_runs(Scale("smoke", 1, dataset="glyphs"), "omniglot-5way-reptile")
    asked = []
    monkeypatch.setattr(plan, "run", lambda configs, data, **_: asked.append((configs, data and data.name)))
    plan.train([entry(*few_shot), entry(SineRegression())], None, None, tmp_path)
    assert asked == [(few_shot, "glyphs"), ([SineRegression()], None)]


def test_what_is_left_is_counted_in_operations_and_hours(clock):
    speed, asked = clock
    (config,) = classification_runs(Scale("paper", 1), "omniglot-5way-reptile")
    rows = plan.table([entry(config)], speed=speed)
    row = rows.iloc[0]
    assert row["Runs"] == row["To do"] == 1
    assert row["Outer iterations"] == 100_000
    assert row["Images (millions)"] == pytest.approx(100_000 * 5 * 5 * 10 / 1e6)
    training = 100_000 * 3.93e9
    # 50 steps on five images, then five batches of the support and one image, and one of five.
    image = 2 * (9 * 64 * 14**2 + 9 * 64**2 * (7**2 + 4**2 + 2**2) + 256 * 5)
    evaluation = 12_000 * (2 * 250 * (3.93e9 / 250) + (5 * 7 + 5 * 27) * image)
    assert row["TFLOP"] == pytest.approx((training + evaluation) / 1e12, rel=0.01)
    assert row["Hours here"] == pytest.approx((training + evaluation) / 1e11 / 3600, rel=0.01)
    assert asked == [("omniglot-5way", None, "exact")]
    assert rows.iloc[-1]["What"] == "all" and rows.iloc[-1]["TFLOP"] == row["TFLOP"]


def test_what_is_done_or_begun_is_left_out(clock, home):
    speed, asked = clock
    done, begun, fresh = (SineRegression(outer_iterations=n, **TINY) for n in (20, 500, 30))
    rx.run([done], publish=True, figures=home / "elsewhere")
    Training(begun, state_path(begun, ""), plain(begun), iteration=400).save()
    assert [iterations_left(config, home / "elsewhere") for config in (done, begun, fresh)] == [None, 100, 30]
    rows = plan.table([entry(done, begun), entry(begun, fresh)], 2, home / "elsewhere", speed)
    assert rows["To do"].tolist() == [1, 1, 2], "a run of two entries counts for the first"
    assert rows["Runs"].tolist() == [2, 1, 3]
    assert rows["Outer iterations"].tolist() == [100, 30, 130]
    assert asked == [("sine", 2, "exact")]
    assert plan.table([entry(done)], None, home / "elsewhere", speed)["TFLOP"].tolist() == [0, 0]
    assert len(asked) == 1, "nothing to do needs no calibration"


def test_the_command_prints_it_and_executes_nothing(clock, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    monkeypatch.setattr(bench, "platform_of", lambda _: "cpu")
    monkeypatch.setattr(bench, "paper_speed", clock[0])
    assert main(["run", "3", "--profile", "paper", "--dry-run", "-p", "train", "['omniglot-20way-reptile']"]) == 0
    printed = capsys.readouterr().out
    assert "omniglot-20way-reptile" in printed and "600,000" in printed and "Hours here" in printed
    assert "mini-imagenet" not in printed and "Figure" not in printed
    assert main(["run", "--profile", "paper", "--dry-run", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "plan.md").read_text()
    assert "| omniglot-20way-reptile " in table and "600,000" in table and (tmp_path / "plan.json").exists()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Figure 1", "mini-imagenet-5way-reptile", "Figure 4c", "maml"))
    assert np.all([name in printed for name in TRAININGS])
