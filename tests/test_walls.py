"""The three wings: who may import whom, what an importer needs, and what Tab shows."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import reptile_eqx as rx

PACKAGE = Path(rx.__file__).parent
MAY_IMPORT = {"library": {"library"}, "runs": {"library", "runs"}, "paper": {"library", "runs", "paper"}}


def wing(module):
    """Of a module by its dotted name below the package."""
    first = module.split(".")[0]
    return first if first in ("runs", "paper") else "library"


def imported(path):
    """What a module imports of this package, anywhere in it, as dotted names below the package."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            yield from ([".".join(base)] if base else [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.split(".")[0] == "reptile_eqx" for name in names), f"{path} imports by an absolute name"


def test_no_wing_imports_what_stands_on_it():
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        here = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if here not in ("__init__", "__main__", "cli"):
            for module in imported(path):
                assert wing(module) in MAY_IMPORT[wing(here)], f"{here} imports {module}"
                checked += 1
    assert checked > 100


# pip's extra `notebooks`, by the names that are imported.
EXTRA = (
    "jupyterlab",
    "ipykernel",
    "ipywidgets",
    "anywidget",
    "papermill",
    "nbclient",
    "nbformat",
    "matplotlib",
    "pandas",
    "tabulate",
)
CORE_ALONE = f"""
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, Refused())
"""
TRAINS = """
import jax, jax.numpy as jnp, optax
import reptile_eqx as rx
from reptile_eqx.nn import sine_network

assert "paper" not in vars(rx) and "reptile_eqx.paper" not in sys.modules
gradient = rx.reptile(rx.mean_squared_error, optax.sgd(0.02), steps=2, batch_size=5)
learner = rx.Learner(sine_network, rx.SineWaves(), gradient, rx.annealed_sgd(0.1, 3))
state, _ = rx.train(learner, rx.start(learner, jax.random.key(0)), 3)
assert state.iteration == 3
trained = rx.load_pretrained("omniglot-5way")
images = jax.random.uniform(jax.random.key(0), (5, 28, 28, 1))
task = rx.Task((images, jnp.arange(5)), (images, jnp.arange(5)))
given = (trained.loss, trained.optimiser, trained.model, trained.inner, task, jax.random.key(1))
found = rx.few_shot_accuracy(*given, steps=5, batch_size=5)
config = rx.paper.experiments.SineRegression(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2)
assert rx.run([config])[0].status == "finished" and 0 <= found.transductive <= 1
rx.paper.catalogue.entries(rx.paper.catalogue.Scale("paper"))
for name in ("tables", "plots"):
    try:
        getattr(rx.paper, name)
    except ImportError as error:
        print(error)
"""


def alone(program, *arguments):
    command = [sys.executable, "-c", CORE_ALONE + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_core_trains_and_evaluates_without_what_notebooks_need():
    done = alone(TRAINS)
    assert done.returncode == 0, done.stderr
    told = "which the extra `notebooks` has: pip install 'reptile-eqx[notebooks]'"
    assert done.stdout.splitlines() == [
        f"reptile_eqx.paper.tables needs pandas, {told}",
        f"reptile_eqx.paper.plots needs matplotlib, {told}",
    ]


@pytest.mark.parametrize(("command", "status"), [("run", 2), ("bench", 2), ("data", 0)])
def test_the_command_says_which_extra_is_missing(command, status):
    done = alone("from reptile_eqx.cli import main\nsys.exit(main(sys.argv[1:]))", command, *["glyphs"] * (status == 0))
    assert done.returncode == status, done.stderr
    assert ("pip install 'reptile-eqx[notebooks]'" in done.stderr) == (status == 2)


def test_tab_shows_the_librarys_names():
    assert set(dir(rx)) == set(rx.__all__) and all(getattr(rx, name) is not None for name in rx.__all__)
    assert not [name for name in dir(rx) if name.startswith("_")]
    assert rx.__version__ == importlib.metadata.version("reptile-eqx")
    assert dir(rx.nn) == sorted(rx.nn.__all__) and dir(rx.datasets) == sorted(rx.datasets.__all__)
    there = [path for path in (PACKAGE / "paper").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert set(dir(rx.paper)) == {path.stem for path in there} - {"__init__"}
