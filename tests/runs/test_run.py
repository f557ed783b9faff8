"""Runs on disk: resumed exactly, never repeated, independent of what runs beside them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import equinox as eqx
import jax
import numpy as np
import pytest
from made_up import FEW_SHOT, SINE, noise

import reptile_eqx as rx
from reptile_eqx import files
from reptile_eqx.paper import report, statistics, tables
from reptile_eqx.paper.experiments import FewShotClassification, SineRegression
from reptile_eqx.runs import checkpoint, programs, records
from reptile_eqx.runs import run as runs
from reptile_eqx.runs.checkpoint import Training, state_path
from reptile_eqx.runs.configuration import numbers_of, run_name
from reptile_eqx.runs.records import plain


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_finished_run_is_read_and_not_trained_again(monkeypatch):
    config = SineRegression(**SINE)
    first = rx.run([config])
    monkeypatch.setattr(runs, "train_and_measure", lambda *_: pytest.fail("trained again"))
    assert rx.run([config]) == first
    assert first[0].status == "finished"
    assert [point["iteration"] for point in first[0].curve] == [10, 20, 30, 40, 50, 60]


def test_a_new_evaluation_of_a_trained_run_does_not_train_again(monkeypatch):
    rx.run([SineRegression(**SINE)])
    trained = rx.load_state(SineRegression(**SINE))
    monkeypatch.setattr(programs, "_advance", lambda *_: pytest.fail("trained again"))
    (record,) = rx.run([SineRegression(**(SINE | dict(eval_tasks=5)))])
    assert record.results["loss"]["tasks"] == 5
    assert same(trained.model, rx.load_state(SineRegression(**SINE)).model)


def test_every_setting_that_changes_the_training_changes_the_run():
    names = {
        run_name(SineRegression(**{field: value}), training_only=True)
        for field, value in [
            ("seed", 1),
            ("seed", 0),
            ("inner_step_size", 0.01),
            ("inner_iterations", 4),
            ("schedule", "replacement"),
            ("meta_batch_size", 2),
            ("curve_tasks", 7),
        ]
    }
    assert len(names) == 7
    measured = {run_name(SineRegression(eval_tasks=n), training_only=True) for n in (10, 20)}
    assert len(measured) == 1


def test_a_record_says_what_made_it(home):
    (record,) = rx.run([SineRegression(**SINE)])
    assert record.made["data"] == "none, tasks are drawn from the seed" and record.made["device"].endswith("× cpu")
    assert record.made["processor"] and record.made["training_seconds"] > 0
    assert record.made["versions"]["jax"] == jax.__version__


def test_a_record_whose_configuration_is_another_is_not_taken(home):
    config = SineRegression(**SINE)
    (record,) = rx.run([config])
    path = home / "data" / "runs" / f"{record.name}.json"
    kept = json.loads(path.read_text())
    kept["config"]["inner_iterations"] = 17
    path.write_text(json.dumps(kept))
    assert rx.find_record(config) is None


LONG = dict(outer_iterations=4000, curve_points=200, curve_tasks=2, eval_tasks=4)
KILLED = f"""
import sys
from reptile_eqx import run, use_devices
from reptile_eqx.paper.experiments import SineRegression
# A cache of its own: JAX does not write compiled programs atomically, and what is tested here are checkpoints.
use_devices(1, compilation_cache=sys.argv[1])
run([SineRegression(**{LONG})])
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_parameters(tmp_path, monkeypatch):
    def process(home):
        environment = os.environ | {"REPTILE_HOME": str(home), "JAX_PLATFORMS": "cpu"}
        cache = tempfile.mkdtemp(dir=tmp_path)
        return subprocess.Popen([sys.executable, "-c", KILLED, cache], env=environment, stderr=subprocess.DEVNULL)

    def states(home):
        return list((home / "data" / "runs").glob("*/state.eqx"))

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed = process(cut)
    deadline = time.time() + 120
    while not states(cut) and killed.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    header = files.unsealed("checkpoint", states(cut)[0].read_bytes()).split(b"\n", 1)[0]
    assert 0 < json.loads(header)["iteration"] < 4000, "it was to be killed on its way"
    assert not list((cut / "data" / "runs").glob("*.json"))
    assert process(cut).wait() == 0
    monkeypatch.setenv("REPTILE_HOME", str(whole))
    rx.run([SineRegression(**LONG)], devices=jax.devices()[:1])

    def parameters(home):
        return states(home)[0].read_bytes().split(b"\n", 2)[2]

    assert parameters(cut) == parameters(whole)
    records = [json.loads(next((home / "data" / "runs").glob("*.json")).read_text()) for home in (cut, whole)]
    assert records[0]["curve"] == records[1]["curve"]
    assert records[0]["results"] == records[1]["results"]


def test_an_interrupted_write_leaves_the_last_checkpoint(monkeypatch):
    config = SineRegression(**SINE)
    serialise = checkpoint.eqx.tree_serialise_leaves
    written = []

    def fails_the_third_time(file, state):
        written.append(state)
        if len(written) == 3:
            file.write(b"half a state")
            raise OSError("disk full")
        serialise(file, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.eqx, "tree_serialise_leaves", fails_the_third_time)
        patch.setattr(programs, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(records, "commit", lambda: "abc1234")
        with pytest.raises(OSError, match="disk full"):
            rx.run([config])
    monkeypatch.setattr(records, "commit", lambda: "def5678")
    interrupted = rx.run([config])[0]
    assert interrupted.made["commit"] == "abc1234, def5678"
    assert interrupted.status == "finished"
    assert interrupted.curve[0]["iteration"] == 10


@pytest.mark.parametrize("kind", ["sine", "few-shot"])
def test_a_seed_does_not_depend_on_the_seeds_and_devices_beside_it(kind, tmp_path, monkeypatch):
    def trained(home, seeds, devices):
        monkeypatch.setenv("REPTILE_HOME", str(tmp_path / home))
        if kind == "sine":
            configs, shared = [SineRegression(seed=seed, **SINE) for seed in seeds], None
        else:
            configs, shared = [FewShotClassification(seed=seed, **FEW_SHOT) for seed in seeds], noise()
        records = rx.run(configs, shared, devices=jax.devices()[:devices])
        states = {config.seed: rx.load_state(config, shared) for config in configs}
        return states[1], next(r for r in records if r.config["seed"] == 1)

    alone, record_alone = trained("alone", [1], 1)
    for home, seeds, devices in (("three", [0, 1, 2], 2), ("two", [1, 3], 1)):
        state, record = trained(home, seeds, devices)
        assert same(state, alone)
        assert record.curve == record_alone.curve
        assert record.results == record_alone.results
    assert record.made["data"] == ("noise" if kind == "few-shot" else "none, tasks are drawn from the seed")


def test_a_diverged_run_says_so_and_leaves_the_others_alone():
    diverging = SineRegression(seed=0, inner_step_size=1e9, outer_step_size=1.0, **SINE)
    sound = SineRegression(seed=1, **SINE)
    with pytest.warns(UserWarning, match="not finite any more between outer iterations 0 and 1 of seed 0"):
        records = rx.run([diverging, sound])
    assert "outer iterations 0 and 1 of seed 0" in records[0].made["diverged"]
    assert "diverged" not in records[1].made
    assert [record.status for record in records] == ["diverged", "finished"]
    assert records[0].results == {}
    assert "1 of 2 trainings diverged" in report.scale(records, 60, 2)
    assert statistics.finished(records) == [records[1]]
    with pytest.raises(ValueError, match="diverged"):
        statistics.finished(records[:1])


def test_parameters_that_overflow_in_the_last_iteration_are_divergence_too():
    """The loss of an iteration is taken before its update, so that it is finite here."""
    steep = dict(algorithm="joint", inner_batch_size=50, inner_iterations=1, inner_step_size=1e3, outer_step_size=1e38)
    with pytest.warns(UserWarning, match="not finite any more between outer iterations 0 and 1"):
        (record,) = rx.run([SineRegression(**(SINE | steep | dict(outer_iterations=1, curve_points=0)))])
    assert record.status == "diverged"
    assert tables.losses_by_setting({"steep": record}).iloc[0].tolist() == ["steep", *["diverged"] * 4]


def test_a_run_that_trains_nothing_keeps_its_state_too():
    random = SineRegression(algorithm="random", **(SINE | dict(outer_iterations=0, curve_points=0)))
    rx.run([random])
    fresh = rx.start(random.learner(None, numbers_of(random)), jax.random.PRNGKey(0))
    assert same(rx.load_state(random).model, fresh.model)
    with pytest.raises(ValueError, match="`outer_iterations` is 30000; expected 0, as nothing is trained"):
        SineRegression(algorithm="random")


def test_what_was_trained_again_is_what_is_read_though_a_published_record_is_there(monkeypatch):
    config = SineRegression(**SINE)
    for day, publish in (("2020-01-01", True), ("2020-01-03", False), ("2020-01-02", True)):
        monkeypatch.setattr("reptile_eqx.runs.run.now", lambda day=day: day)
        rx.run([config], publish=publish, fresh=True)
    (read,) = rx.run([config])
    assert read.made["date"] == "2020-01-03", "the newest, wherever it lies"


def test_the_commit_is_the_projects_or_none(monkeypatch):
    monkeypatch.setattr("reptile_eqx.files.in_checkout", lambda: False)
    assert records.commit() == "", "an installed wheel may lie inside somebody else's repository"


def test_the_state_of_a_run_not_made_here_is_an_error():
    with pytest.raises(FileNotFoundError, match="has not been trained here"):
        rx.load_state(SineRegression(seed=5))


def test_a_runs_precision_is_that_of_its_programs():
    """In training and in evaluation, whatever JAX is set to outside."""
    for precision, narrow in (("float32", False), ("bfloat16", True)):
        config = FewShotClassification(**FEW_SHOT, precision=precision)
        compiled = programs.Programs(config, noise(), 1, jax.devices()[:1])
        (state,) = compiled.start([config])
        unit = compiled.unit(config, state)
        train = jax.make_jaxpr(compiled._train)(noise(), unit, 1)
        assert ("mantissa_bits=7" in str(train)) == narrow
        with jax.default_matmul_precision("tensorfloat32" if narrow else "bfloat16"):
            several = unit | {"stream": np.uint32(2), "first": np.int32(0)}
            measured = jax.make_jaxpr(compiled._measure_in_turn(0, True, 1))(noise(), several)
        assert ("mantissa_bits=7" in str(measured)) == narrow


def test_a_run_without_images_or_record_is_an_error():
    with pytest.raises(ValueError, match="noise-3way-reptile-4-seed0 takes a dataset of images by class.* none"):
        rx.run([FewShotClassification(**FEW_SHOT)])


def test_more_ways_or_shots_than_there_are_is_an_error_before_training(monkeypatch):
    monkeypatch.setattr(programs, "_advance", lambda *_: pytest.fail("trained"))
    for setting, message in (
        (dict(ways=40), "40-way tasks need 40 classes, and there are 32"),
        (dict(training_shots=7), "there are 6"),
        (
            dict(train_classes=1200),
            "`train_classes` is 1200; expected 1 to 13 of the 14 classes, so that some are left",
        ),
        (dict(eval_shots=(6,)), "there are 6"),
    ):
        with pytest.raises(ValueError, match=message):
            rx.run([FewShotClassification(**(FEW_SHOT | setting))], noise())


def test_an_evaluation_that_was_cut_off_goes_on_where_it_was(monkeypatch):
    """Values of the tasks seen before are read, not measured again, and more tasks only add to them."""
    config, longer = (SineRegression(**(SINE | dict(eval_tasks=tasks))) for tasks in (60, 110))
    (whole,) = rx.run([config], devices=jax.devices()[:1])
    monkeypatch.setattr(programs, "_SECONDS_BETWEEN_SAVED_TASKS", 0.0)
    seen, save = [], Training.save_seen

    def stops_after_two_more(self, measurement, values):
        save(self, measurement, values)
        seen.append(len(values))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "save_seen", stops_after_two_more)
        with pytest.raises(KeyboardInterrupt):
            rx.run([longer], devices=jax.devices()[:1])
    assert seen == [100, 125], "three blocks of 25 were there"
    with monkeypatch.context() as patch:
        patch.setattr(Training, "save_seen", lambda *_: pytest.fail("measured again"))
        (record,) = rx.run([longer], devices=jax.devices()[:1])
    assert record.results["loss"]["tasks"] == 110
    monkeypatch.setenv("REPTILE_HOME", os.environ["REPTILE_HOME"] + "-fresh")
    assert [again.results for again in rx.run([longer, config])] == [record.results, whole.results]


def test_a_curve_measured_with_other_settings_is_not_taken_for_this_runs(monkeypatch):
    (first,) = rx.run([SineRegression(**SINE)])
    monkeypatch.setattr(programs, "_advance", lambda *_: pytest.fail("trained again"))
    (more,) = rx.run([SineRegression(**(SINE | dict(eval_tasks=5)))])
    (other,) = rx.run([SineRegression(**(SINE | dict(eval_inner_iterations=3)))])
    assert more.curve == first.curve and len(first.curve) == 6
    assert other.curve == [] and len(other.results["loss"]["mean"]) == 4


def test_a_checkpoint_from_before_a_default_was_changed_is_not_gone_on_from(home):
    config = SineRegression(**SINE)
    (record,) = rx.run([config])
    (home / "data" / "runs" / f"{record.name}.json").unlink()
    path = next((home / "data" / "runs").glob("*/state.eqx"))
    header, state = files.unsealed("checkpoint", path.read_bytes()).split(b"\n", 1)
    header = json.loads(header)
    header["config"]["inner_iterations"] = 17
    path.write_bytes(files.sealed("checkpoint", json.dumps(header).encode() + b"\n" + state))
    assert runs.iterations_left(config) == 60
    with pytest.raises(FileNotFoundError):
        rx.load_state(config)
    assert rx.run([config])[0].curve == record.curve


def test_what_was_seen_of_other_parameters_is_not_taken(home):
    config = SineRegression(**SINE)
    rx.run([config])
    state = eqx.filter(rx.load_state(config), eqx.is_array)
    training = Training(config, state_path(config, ""), plain(config), state)
    (measurement, _) = config.measurements(None, numbers_of(config), final=True)
    like = eqx.filter_eval_shape(measurement.measure, rx.load_state(config), jax.random.PRNGKey(0))
    assert len(training.load_seen(measurement, lambda: like)) == 4
    with pytest.warns(UserWarning, match="its code has changed since tasks were measured"):
        assert training.load_seen(measurement, lambda: (like, like)) is None
    training.state = jax.tree.map(lambda leaf: leaf + 1, training.state)
    assert training.load_seen(measurement, lambda: pytest.fail("nothing was kept, so that nothing is traced")) is None
