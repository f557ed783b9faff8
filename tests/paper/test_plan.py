"""The plan of a profile: what the notebooks train is what it lists, and what is left of it."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import reptile_eqx as rx
from reptile_eqx import bench, flops, plan, store
from reptile_eqx.cli import main

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def no_clock(monkeypatch):
    """A machine of 100 GFLOP/s, whatever is to be trained."""
    asked = []
    monkeypatch.setattr(bench, "paper_speed", lambda name, devices, order: asked.append((name, devices)) or 1e11)
    return asked


@pytest.mark.parametrize(
    ("notebook", "names"),
    [
        ("1_sine_regression", ["sine_runs", "maml_setting_runs"]),
        ("2_analysis", ["analysis_runs"]),
        ("3_classification", ["classification_runs"]),
        ("4_ablations", ["figure_3_runs", "figure_4_runs", "ablation_runs", "faster_runs"]),
    ],
)
def test_the_plan_asks_for_runs_where_the_notebooks_do(notebook, names, monkeypatch):
    """Each function of presets and sweeps that a notebook calls gives configurations to the plan, and no other does."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]
    source = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    known = [n for m in (rx.presets, rx.sweeps) for n in vars(m) if n.endswith("_runs")]
    assert sorted(name for name in known if f".{name}(" in source) == sorted(names)
    called = []
    for module in (rx.presets, rx.sweeps):
        for name in known:
            if hasattr(module, name):
                original = getattr(module, name)
                monkeypatch.setattr(module, name, lambda *a, n=name, f=original, **k: called.append(n) or f(*a, **k))
    planned = [step for step in plan.steps("smoke") if step.notebook == notebook]
    assert planned and all(step.configs for step in planned)
    assert set(names) <= set(called)


def test_the_order_is_that_of_worth():
    whats = [step.what for step in plan.steps("paper")]
    listed = ["Figure 1, reptile", "Section 5, reptile", "omniglot-5way-reptile", "Figure 3", "Figure 4a", "Figure 4c",
              "omniglot-20way-reptile", "mini-imagenet-5way-reptile", "Table 3, varied: adam_b1",
              "omniglot-5way-1shot-fomaml", "mini-imagenet-5way-5shot-maml"]  # fmt: skip
    assert [whats.index(what) for what in listed] == sorted(whats.index(what) for what in listed)
    assert len(whats) == len(set(whats)) and set(rx.presets.TRAININGS) <= set(whats)


@pytest.mark.parametrize(
    ("platform", "profile", "order"),
    [("gpu", "paper", "parallel"), ("gpu", "quick", "exact"), ("cpu", "paper", "exact")],
)
def test_on_a_gpu_the_papers_tables_take_tasks_side_by_side(platform, profile, order):
    found = plan.steps("paper", seeds=1)
    for before, after in zip(found, plan.on_platform(found, profile, platform), strict=True):
        tables = before.notebook == "3_classification"
        wanted = [dataclasses.replace(config, order=order) for config in before.configs] if tables else before.configs
        assert after == before._replace(configs=wanted)


def test_the_paper_is_trained_in_that_order_and_each_notebook_executed_when_its_runs_are_there(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr("reptile_eqx.datasets.find_mini_imagenet", lambda _: None)
    monkeypatch.setattr("reptile_eqx.cli._train_apart", lambda steps, _: done.append([step.what for step in steps]))
    monkeypatch.setattr("papermill.execute_notebook", lambda path, *_, **__: done.append(Path(path).stem))
    assert main(["run", "--profile", "paper", "--out", str(tmp_path)]) == 0
    whats = [step.what for step in plan.steps("paper")]
    assert done[1::2] == ["1_sine_regression", "2_analysis", "4_ablations", "3_classification"]
    assert all(prefix == whats[: len(prefix)] for prefix in done[::2])
    assert done[0][-1] == "MAML's setting" and done[2][-1] == "Section 5, reptile"
    assert done[4][-1] == "Table 3, faster by precision" and done[6] == whats
    done.clear()
    assert main(["run", "3", "--profile", "quick", "--out", str(tmp_path)]) == 0
    assert done == ["3_classification"], "smaller profiles leave it to the notebooks"


def test_what_was_trained_beforehand_is_there_for_the_notebook(monkeypatch, tmp_path):
    """In the process of its own that the command starts."""
    config = rx.SineRegression(outer_iterations=20, curve_points=1, curve_tasks=2, eval_tasks=4)
    monkeypatch.setattr(plan, "steps", lambda **_: [plan.Step("1_sine_regression", "tiny", [config])])
    found = []
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: found.append(rx.find_record(config, tmp_path)))
    assert main(["run", "1", "--profile", "paper", "--out", str(tmp_path)]) == 0
    assert found[0].status == "finished" and found[0].made["data"] == rx.presets.SINE_WAVES


def test_a_step_that_fails_does_not_stop_those_after_it(monkeypatch, tmp_path, capsys):
    done = []

    def out_of_memory_once(configs, *_, **__):
        done.append(configs)
        if len(done) == 1:
            raise jax.errors.JaxRuntimeError("out of memory: 12 GiB")
        if len(done) == 3:
            raise ValueError("not a matter of memory")

    monkeypatch.setattr(plan, "run", out_of_memory_once)
    sine, longer = [rx.SineRegression()], [rx.SineRegression(outer_iterations=40_000)]
    plan.train([plan.Step("1", "a", sine), plan.Step("1", "b", longer)], None, None, tmp_path)
    assert done == [sine, longer] and "RuntimeError: out of memory: 12 GiB" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not a matter of memory"):
        plan.train([plan.Step("1", "a", sine)], None, None, tmp_path)


def test_each_order_of_tasks_has_a_speed_of_its_own(monkeypatch):
    monkeypatch.setattr(bench, "paper_speed", lambda name, devices, order: {"exact": 1e11, "parallel": 4e11}[order])
    (exact,) = rx.presets.classification_runs("omniglot-5way-reptile", "paper", 1)
    parallel = dataclasses.replace(exact, order="parallel")
    rows = plan.table([plan.Step("3", "", [config]) for config in (exact, parallel)])
    assert rows["Hours here"][0] == pytest.approx(4 * rows["Hours here"][1])


def test_images_are_loaded_where_a_step_needs_them(monkeypatch, tmp_path):
    (few_shot,) = rx.presets.classification_runs(
        "omniglot-5way-reptile", "smoke", 1, dataset="glyphs", train_classes=400
    )
    asked = []
    monkeypatch.setattr(
        plan, "run", lambda configs, shared, origin, **_: asked.append((configs, np.shape(shared), origin))
    )
    plan.train([plan.Step("3", "a", [few_shot]), plan.Step("1", "b", [rx.SineRegression()])], None, None, tmp_path)
    glyphs = rx.datasets.draw_glyphs()
    assert asked == [
        ([few_shot], glyphs.images.shape, glyphs.origin),
        ([rx.SineRegression()], (), rx.presets.SINE_WAVES),
    ]


def test_what_is_left_is_counted_in_operations_and_hours(no_clock):
    (config,) = rx.presets.classification_runs("omniglot-5way-reptile", "paper", 1)
    rows = plan.table([plan.Step("3_classification", "5-way", [config])])
    row = rows.iloc[0]
    assert row["Runs"] == row["To do"] == 1
    assert row["Outer iterations"] == 100_000
    assert row["Images (millions)"] == pytest.approx(100_000 * 5 * 5 * 10 / 1e6)
    training = 100_000 * 3.93e9
    # 50 steps on five images, then five batches of the support and one image, and one of five.
    image = 2 * sum(flops.omniglot_layers(5))
    evaluation = 12_000 * (2 * 250 * (3.93e9 / 250) + (5 * 7 + 5 * 27) * image)
    assert row["TFLOP"] == pytest.approx((training + evaluation) / 1e12, rel=0.01)
    assert row["Hours here"] == pytest.approx((training + evaluation) / 1e11 / 3600, rel=0.01)
    assert no_clock == [("omniglot-5way", None)]
    assert rows.iloc[-1]["What"] == "all" and rows.iloc[-1]["TFLOP"] == row["TFLOP"]


def test_what_is_done_or_begun_is_left_out(no_clock, home):
    done, begun, fresh = (
        rx.SineRegression(outer_iterations=n, curve_points=1, curve_tasks=2, eval_tasks=4) for n in (20, 500, 30)
    )
    rx.run([done], publish=True, figures=home / "elsewhere")
    path = store._state_path(begun)
    path.parent.mkdir(parents=True)
    path.write_bytes(json.dumps({"iteration": 400}).encode() + b"\n")
    assert [store.iterations_left(config, home / "elsewhere") for config in (done, begun, fresh)] == [None, 100, 30]
    rows = plan.table([plan.Step("1", "a", [done, begun]), plan.Step("1", "b", [begun, fresh])], 2, home / "elsewhere")
    assert rows["To do"].tolist() == [1, 1, 2], "a run of two steps counts for the first"
    assert rows["Runs"].tolist() == [2, 1, 3]
    assert rows["Outer iterations"].tolist() == [100, 30, 130]
    assert no_clock == [("sine", 2)]
    assert plan.table([plan.Step("1", "a", [done])], None, home / "elsewhere")["TFLOP"].tolist() == [0, 0]
    assert len(no_clock) == 1, "nothing to do needs no calibration"


def test_the_command_prints_it_and_executes_nothing(no_clock, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    assert main(["run", "3", "--profile", "paper", "--dry-run", "-p", "train", "['omniglot-20way-reptile']"]) == 0
    printed = capsys.readouterr().out
    assert "omniglot-20way-reptile" in printed and "600,000" in printed and "Hours here" in printed
    assert "mini-imagenet" not in printed and "Figure" not in printed
    assert main(["run", "--profile", "paper", "--dry-run", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "plan.md").read_text()
    assert "| omniglot-20way-reptile " in table and "600,000" in table and (tmp_path / "plan.json").exists()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Figure 1", "mini-imagenet-5way-reptile", "Figure 4c", "maml"))
    assert np.all([name in printed for name in rx.presets.TRAININGS])
