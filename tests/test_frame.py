"""The frame: what the README says is what runs, and environments agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import reptile_eqx as rx
from reptile_eqx.paper import own
from reptile_eqx.runs import devices

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


PAGES = ("README.md", "figures/README.md", "figures/speed.md")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_conda_and_pip_ask_for_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {package for name in ("notebooks", "test") for package in extras[name]} | set(project["dependencies"])
    wanted.add(f"python{project['requires-python']}")
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert wanted == {entry for entry in listed if isinstance(entry, str)} - {"pip"}


def test_ci_runs_the_two_commands_of_the_readme():
    """CI takes its commands out of the README; here, that it finds both, whole and in one line each."""
    ci = (ROOT / ".ci" / "run").read_text()
    comments = re.findall(r'command_after "(.*?)"', ci)
    assert comments == ["make the figures", "pass the tests", "check what you changed"]
    lines = blocks("bash")[0].splitlines()
    assert README.count("# check what you changed\n.venv/bin/pip install") == 1 and 'bash -c "$checks' in ci
    for comment, ending in zip(comments[:2], ("reptile-eqx run", "pytest"), strict=True):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"# {comment}"))
        assert lines[at + 1].startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert lines[at + 1].endswith(ending)
    assert sum(not line.startswith("#") for line in lines) == 2
    assert 'bash -c "$figures' in ci and 'bash -c "$tests"' in ci


def test_the_examples_of_the_readme_run_and_are_short(tmp_path, monkeypatch):
    pretrained, example, pictures = blocks("python")
    assert all(len([line for line in block.splitlines() if line.strip()]) <= 20 for block in (example, pictures))
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(pretrained, namespace)
    assert namespace["classifier"](namespace["images"]).tolist() == [0, 1, 2, 3, 4]
    few = ("folder=", "tasks=2, final_tasks=2, folder=")  # measured on few tasks, or the tests would take minutes
    exec(example.replace("2000", "20").replace(*few), namespace)
    assert namespace["state"].iteration == 20
    assert namespace["adapted"].layers[0].weight.shape == (32, 1)
    own.write_pictures(rx.datasets.draw_glyphs(), tmp_path / "pictures", 30)
    exec(
        pictures.replace("2000", "2").replace(*few).replace("jax.random.key(0)", "jax.random.key(0), count=3"),
        namespace,
    )
    assert rx.load("mine.eqx").steps == 50


def test_importing_the_package_does_not_start_jax():
    code = (
        "import reptile_eqx, jax; from jax._src import xla_bridge as b; assert not b._backends, b._backends; "
        "print(len(reptile_eqx.use_devices(3)), len(jax.devices()), len(reptile_eqx.use_devices(3)))"
    )
    environment = {"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "3", "3"], done.stderr


def test_notebooks_are_committed_without_outputs_and_with_one_parameters_cell():
    import nbformat

    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = nbformat.read(path, 4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code), path
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1, path
        assert sum(cell.cell_type == "markdown" for cell in cells) >= 4, path


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_the_committed_files(page):
    """As committed: a run of one's own replaces the files, not the page."""
    text = (ROOT / page).read_text()
    shown = re.findall(r"<!-- (figures/\S+\.md) -->\n(.*?\n)\n(?!\|)(?!\*\*)", text, re.DOTALL)
    assert len(shown) == text.count("<!-- figures/") >= 1
    for name, table in shown:
        git = ["git", "-C", str(ROOT), "show", f":{name}"]
        assert subprocess.run(git, capture_output=True, text=True, check=True).stdout == table, name


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there_and_every_picture_has_words(page):
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text()
    headings = [
        re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^##+ (.*)$", text, re.M)
    ]
    for picture, words, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)]+)\)", text):
        known = target[1:] in headings if target.startswith("#") else (folder / target).exists()
        assert target.startswith("https://") or known, target
        assert not picture or len(words) > 20, target


def test_the_front_page_is_short_and_can_be_cited():
    assert len(README.splitlines()) <= 185
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == project["version"] and cited["license"] == project["license"]


def test_the_warning_where_a_gpu_is_left_idle(monkeypatch):
    monkeypatch.setattr(devices, "_nvidia_gpu", lambda: True)
    monkeypatch.setattr(devices, "_cpu_on_purpose", lambda: False)
    with pytest.warns(UserWarning, match=r"NVIDIA GPU.*reptile-eqx\[cuda\]"):
        devices.use_devices(2)
    with pytest.raises(RuntimeError, match="asked for 64 devices, but JAX has 2"):
        devices.use_devices(64)
    with pytest.raises(ValueError, match="`devices` is 0; expected a whole number, 1 or more"):
        devices.use_devices(0)
