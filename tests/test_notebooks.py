"""Every cell of every notebook, at smoke scale, by itself and from another directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from reptile_eqx.paper.catalogue import Scale, entries
from reptile_eqx.paper.section_8 import entries as section_8
from reptile_eqx.runs.configuration import run_name

ROOT = Path(__file__).parent.parent
MADE = {
    "1_sine_regression": [
        "figure-1-sine",
        "sine-loss-by-steps",
        "sine-initialisations",
        "sine-summary",
        "sine-maml-settings",
        "claims-1-sine",
    ],
    "2_analysis": [
        "analysis-expansion",
        "analysis-coefficients",
        "analysis-coefficients-breaking",
        "analysis-inner-products",
        "analysis-distance",
        "figure-2-manifolds",
        "claims-2-analysis",
    ],
    "3_classification": [
        "omniglot-task",
        "omniglot-5way-learning-curves",
        "table-1-mini-imagenet",
        "table-2-omniglot",
        "here-accuracy",
        "here-omniglot-5way-reptile",
        "claims-3-tables",
    ],
    "4_ablations": [
        "figure-3-gradient-combinations",
        "figure-4-overlap",
        "ablation-hyper-parameters",
        "ablation-momentum",
        "ablation-adam-state",
        "ablation-joint-training",
        "ablation-order",
        "ablation-order-gain",
        "ablation-precision",
        "ablation-precision-gain",
        "claims-4-figure-3",
        "claims-4-figure-4",
        "claims-4-table-3",
        "claims-4-faster",
    ],
    "5_your_own_tasks": [
        "own-pictures-learning",
        "own-pictures-answers",
        "own-coordinates-steps",
        "own-coordinates-pictures",
        "own-series-steps",
        "own-series-forecast",
        "own-head-alone",
    ],
    "6_playground": [],
    "7_open_questions": [
        "open-depth",
        "open-gap-published",
        "open-gap",
        "open-ordinary",
        "open-fine-tuning",
        "open-bandit",
        "open-navigation",
        "open-navigation-paths",
        "open-density",
        "open-density-samples",
        *(
            f"claims-7-{name}"
            for name in ("depth", "gap", "ordinary", "fine-tuning", "bandit", "navigation", "density")
        ),
    ],
}


@pytest.mark.parametrize("name", sorted(MADE))
def test_smoke(name, tmp_path, monkeypatch):
    """Executed by plain papermill, without data or network, from a directory that has nothing to do with it."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {
        "REPTILE_DATA": "",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,  # They share programs.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{name}.ipynb"), "out.ipynb"]
    done = subprocess.run(
        [*command, "-p", "profile", "smoke", "-k", "python3"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for cell in json.loads(Path("out.ipynb").read_text())["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                assert len(output["metadata"]["image/png"]["alt"]) > 40, "pictures are described in words"
    figures = Path(os.environ["REPTILE_HOME"]) / "figures" / "smoke"
    for stem in MADE[name]:
        kinds = {path.suffix for path in figures.glob(f"{stem}.*")}
        assert kinds >= {".png", ".svg", ".json"} or kinds >= {".md", ".csv", ".tex", ".json"}, stem
        how = json.loads((figures / f"{stem}.json").read_text())
        assert how["made"]["versions"]["jax"]
        assert all(run["made"]["versions"]["jax"] for run in how["runs"])
    used = {"2_analysis": ("Figure 1",)}.get(name, ())  # of another notebook's
    smoke = Scale("smoke", dataset="glyphs")
    every = [*entries(smoke).values(), *section_8.entries(smoke).values()]
    listed = [e for e in every if e.notebook == name or e.name in used]
    made = {path.stem for path in (Path(os.environ["REPTILE_HOME"]) / "data" / "runs").glob("*.json")}
    assert made == {run_name(config) for entry in listed for config in entry.configs}, "what the catalogue lists"
    table = figures / "table-2-omniglot.md"
    if table.exists():
        assert (figures / "table-1-mini-imagenet.md").read_text().count("not run") == 8
        assert "not run here: Mini-ImageNet not found" in Path("out.ipynb").read_text()
        assert "made-up glyphs, not Omniglot" in table.read_text()
        assert "4 of 100,000 iterations, 2 seeds, 4 tasks" in table.read_text()
