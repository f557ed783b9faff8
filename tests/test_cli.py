"""The command: notebooks through papermill, one failure among them, data described, mistakes named."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

import reptile_eqx as rx
from reptile_eqx import cli, notebooks
from reptile_eqx.cli import main


def notebook(path, *sources, parameters="profile = 'quick'", tags=("parameters",), kernel="python3"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": kernel, "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return str(path)


def test_one_failing_notebook_does_not_stop_the_others_and_the_status_tells(tmp_path, capsys):
    failing = notebook(tmp_path / "1_failing.ipynb", "raise ValueError('too few shots')")
    sound = notebook(
        tmp_path / "2_sound.ipynb", "open(f'{figures}/made-{shots}.txt', 'w').write(profile)",
        parameters="profile = 'quick'\nshots = 1\nfigures = None",
    )  # fmt: skip
    out = tmp_path / "out"
    status = main(["run", failing, sound, "--profile", "smoke", "-p", "shots", "5", "--out", str(out)])
    printed = capsys.readouterr()
    assert status == 1
    assert "ValueError: too few shots" in printed.err
    assert "[1/2] 1_failing\n1_failing failed: ValueError: too few shots\n" in printed.err
    assert "1 of 2 notebooks executed" in printed.out
    assert "Failed: 1_failing;" in printed.out
    assert "made-5.txt" not in printed.out and printed.out.endswith(f"See {out / 'notebooks'}\n")
    assert (out / "made-5.txt").read_text() == "smoke"
    executed = json.loads((out / "notebooks" / "2_sound.ipynb").read_text())
    assert executed["cells"][-1]["execution_count"] is not None


FINDS = """
open(f"{figures}/here-cells.md", "w").write("**Trained here**")
for name, verdict, scale in (("one", "holds", ""), ("two", "does not hold", "a tenth")):
    open(f"{figures}/claims-{name}.csv", "w").write("Statement,Verdict,Scale\\n" + f"it is so,{verdict},{scale}\\n" * 2)
"""


def test_what_was_found_is_told_at_the_end_and_files_only_when_asked(tmp_path, capsys):
    finding, out = notebook(tmp_path / "finding.ipynb", FINDS, parameters="figures = None"), tmp_path / "out"
    assert main(["run", finding, "--out", str(out)]) == 0
    first = capsys.readouterr()
    assert first.err == "\n[1/1] finding\n", "nothing that is not for who runs it"
    assert first.out.startswith(
        """
**Trained here**

What the paper says:
  finding, claims-one: 2 hold, 0 do not, 0 cannot be told
  finding, claims-two: 0 hold, 2 do not, 0 cannot be told, at a smaller scale than the paper's

1 of 1 notebooks executed"""
    )
    (out / "README.md").write_text("All of it")
    assert main(["run", finding, "--out", str(out), "--verbose"]) == 0
    again = capsys.readouterr()
    assert re.fullmatch(r"\n\[1/1\] finding, about \d+ s\n", again.err)
    assert "  claims-one.csv\n" in again.out and again.out.endswith(f"See {out / 'README.md'}\n")


@pytest.mark.parametrize(("profile", "below"), [("smoke", "smoke"), ("quick", "quick"), ("paper", "")])
def test_only_paper_writes_beside_what_is_published(profile, below, tmp_path, home, monkeypatch):
    executed = []
    monkeypatch.setattr("reptile_eqx.cli._train_apart", lambda *_: None)
    monkeypatch.setattr(
        "reptile_eqx.notebooks.execute", lambda _, __, executed_to, ___: executed.append(executed_to) or ""
    )
    assert main(["run", "1", "--profile", profile]) == 0
    assert executed == [home / "figures" / below / "notebooks" / "1_sine_regression.ipynb"]


def test_executed_notebooks_keep_what_was_said_and_no_bars(tmp_path):
    bars = """
import sys, warnings
from reptile_eqx.bars import tqdm
print("read, not trained", file=sys.stderr)
for _ in tqdm(range(3), desc="a bar"):
    pass
"""
    assert main(["run", notebook(tmp_path / "bars.ipynb", bars), "--out", str(tmp_path)]) == 0
    executed = json.loads((tmp_path / "notebooks" / "bars.ipynb").read_text())
    outputs = [output for cell in executed["cells"] for output in cell["outputs"]]
    assert [output["name"] for output in outputs] == ["stderr"] and "widgets" not in executed["metadata"]
    assert "".join(outputs[0]["text"]).strip() == "read, not trained"


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"reptile-eqx {rx.__version__}\n"


def mistake(arguments, capsys):
    """What is said of a mistake: one line."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    said = capsys.readouterr().err
    assert raised.value.code == 2, said
    assert said.count("\n") == 1 and said.endswith("\n"), said
    return said


WHOLE = "expected a whole number, 1 or more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("run 17", "no notebook '17'; there are 1_sine_regression"),
        ("run 1 -p shot 5", "no notebook has a parameter shot; there are devices, figures"),
        ("run --devices 0", f"`devices` is 0; {WHOLE}"),
        ("run --devices x", "argument --devices: expected a whole number; given 'x'"),
        ("run 1 -p devices x", f"`devices` is 'x'; {WHOLE}"),
        ("run 1 -p devices 2.5", f"`devices` is 2.5; {WHOLE}"),
        ("run 1 -p devices True", f"`devices` is True; {WHOLE}"),
        ("run 1 --devices 1 -p devices 1", "--devices and -p devices are the same: give one of the two"),
        ("run 1 --out x -p figures y", "--out and -p figures are the same: give one of the two"),
        ("run 3 -p outer_iterations 0", f"`outer_iterations` is 0; {WHOLE}"),
        ("run 3 -p outer_iterations nan", f"`outer_iterations` is 'nan'; {WHOLE}"),
        ("run 3 -p outer_iterations 2.5", f"`outer_iterations` is 2.5; {WHOLE}"),
        ("run 3 -p outer_iterations 1e999", f"`outer_iterations` is inf; {WHOLE}"),
        ("run 3 -p outer_iterations 9000000000", f"`outer_iterations` is 9000000000; {WHOLE}"),
        ("run 5 -p iterations [1]", f"`iterations` is [1]; {WHOLE}"),
        ("run 3 -p seeds [0,0]", "seeds (0 or greater, each once) to train; given [0, 0]"),
        ("run 3 -p seeds [1.5]", "`seeds` is 1.5; expected a whole number"),
        ("run 3 -p seeds {}", "`seeds` is how many, or which, seeds to train, such as 3 or [0, 2]; given {}"),
        ("run 3 -p seeds abc", "`seeds` is how many, or which, seeds to train, such as 3 or [0, 2]; given 'abc'"),
        ("run 3 -p seeds 1000000000", "`seeds` is 1000000000; expected a whole number"),
        ("run 3 --dry-run -p train omniglot-20way-reptile", "such as ['omniglot-5way-reptile']; given 'omniglot-20way"),
        ("run 3 -p train ['omniglot-20']", "no training 'omniglot-20'; there are omniglot-5way-reptile"),
        ("run 3 -p train [[]]", "`train` is a list of trainings, such as ['omniglot-5way-reptile']; given [[]]"),
        ("run 3 -p train 5", "`train` is a list of trainings, such as ['omniglot-5way-reptile']; given 5"),
        ("run 3 -p settings 5", "`settings` is fields of the runs, such as {'meta_batch_size': 2}; given 5"),
        ("run 3 -p settings {'shots':1}", "`settings` has shots, which no run has; there are adam_b1"),
        ("run 3 --dry-run -p train []", "these notebooks train nothing that is planned"),
        ("run --profile fast", "invalid choice: 'fast'"),
        ("run -p profile fast", "unknown profile 'fast'; there are smoke, quick, paper"),
        ("run -p profile None", "unknown profile None; there are smoke, quick, paper"),
        ("run -p profile []", "unknown profile []; there are smoke, quick, paper"),
        ("run --profile smoke -p profile quick", "--profile and -p profile are the same: give one of the two"),
        ("run 3 -p data FILE", "FILE, which is no folder that is there"),
        ("run 3 -p data ~no-one-here", "`data` is ~no-one-here, and there is no such home"),
        ("run 3 -p data 5", "`data` is 5; expected a folder"),
        ("run 5 -p pictures nowhere", "nowhere, which is no folder that is there"),
        ("run 1 -p figures FILE", "FILE is a file where a folder should be: move it, or name another place"),
        ("run 1 --out FILE", "FILE is a file where a folder should be: move it, or name another place"),
        ("run 1 --out FILE/below", "FILE is a file where a folder should be: move it, or name another place"),
        ("run 1 --dry-run --out FILE", "FILE is a file where a folder should be: move it, or name another place"),
        ("run 1 --out ~no-one-here", "~no-one-here, and there is no such home: name a folder"),
        ("run 1 --out ", "expected a path; given ''"),
        ("run 1 --out LINK", "LINK is a link that leads nowhere: mend or remove it"),
        ("run FOLDER", "FOLDER is no notebook that can be read (it is a folder): expected a file that Jupyter wrote"),
        ("run FILE", "FILE is no notebook that can be read"),
        ("run FILE.py", "no notebook that can be read"),
        ("run BINARY", "no notebook that can be read"),
        ("run JSON", "no notebook that can be read"),
        ("run LIST", "no notebook that can be read"),
        ("run CELLS", "no notebook that can be read"),
        ("run KERNEL", "asks for the kernel 'fortran', which is not installed here"),
        ("run UNTAGGED -p shots 5", "no notebook has a parameter shots; no cell has the tag `parameters`"),
        ("data imagenet", "unknown dataset imagenet; there are omniglot, mini-imagenet, glyphs"),
        ("data glyphs --sheet FILE/sheet.png", "FILE is a file where a folder should be"),
        ("data glyphs --sheet FOLDER", "a folder of that name is in its place"),
        ("data glyphs --sheet ", "expected a path; given ''"),
        ("data --directory FILE", "--directory is FILE, which does not exist or is no folder"),
        ("bench --only x", "nothing called x to measure; there are sine"),
        ("bench --repeats 0", "`repeats` is 0; expected 1 or more"),
        ("bench --repeats 1.5", "expected a whole number; given '1.5'"),
        ("bench --seconds nan", "`seconds` is nan; expected 1 or more"),
        ("bench --order x", "`order` is 'x'; expected"),
        ("bench --out FILE", "FILE is a file where a folder should be"),
    ],
)
def test_mistakes_are_named_in_one_line_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "LINK").symlink_to("nowhere-at-all")
    for name, content in {
        "FILE": b"", "FILE.py": b"import os\n", "BINARY": bytes(range(256)), "JSON": b'{"a": 1}', "LIST": b"[1]",
        "CELLS": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    notebook(tmp_path / "KERNEL", kernel="fortran")
    notebook(tmp_path / "UNTAGGED", tags=())
    assert message in mistake(arguments.split(" ") if arguments else [], capsys)


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("FILE", "FILE is a file where a folder should be"),
        ("LINK", "LINK is a link that leads nowhere"),
        ("~no-one-here", "$REPTILE_HOME is ~no-one-here, and there is no such home"),
    ],
)
@pytest.mark.parametrize("command", ["run 1", "run 1 --out out"])
def test_a_home_that_is_none_is_named(command, home, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_bytes(b"")
    (tmp_path / "LINK").symlink_to("nowhere-at-all")
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    monkeypatch.setenv("REPTILE_HOME", home if home.startswith("~") else str(tmp_path / home))
    assert message in mistake(command.split(), capsys)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("JAX_PLATFORMS", "nonsense", "Unable to initialize backend 'nonsense'"),
        ("XLA_FLAGS", "--nonsense", "Unknown flag in XLA_FLAGS: --nonsense"),
    ],
)
def test_what_jax_does_not_start_with_is_named(name, value, message, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    said = mistake(["run", "1", "--profile", "smoke"], capsys)
    assert message in said and f"{name}={value}" in said


def test_more_devices_than_there_are_is_a_mistake(capsys):
    cores = os.cpu_count() or 1
    assert f"`devices` is {cores + 1}, and this machine has {cores} cores" in mistake(
        ["bench", "--devices", str(cores + 1)], capsys
    )


def test_whole_numbers_are_taken_as_scripts_write_them(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, parameters, **__: given.update(parameters))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    typed = "run 3 --devices 1.0 -p outer_iterations 2e1 -p seeds None -p data data --out out"
    assert main(typed.split()) == 0
    assert given.pop("outer_iterations") == 20
    assert given == {"profile": "quick", "devices": 1, "data": str(tmp_path / "data"), "figures": str(tmp_path / "out")}


def test_old_and_odd_notebooks_are_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"metadata": {}, "cells": [
        {"cell_type": "code", "language": "python", "metadata": {}, "outputs": [], "collapsed": False,
         "input": "import sys; open('by.txt', 'w').write(sys.executable)"}]}]}  # fmt: skip
    (tmp_path / "-old {x}.txt").write_text(json.dumps(old))
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "another", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert main(["run", "--out", "out", "--", "-old {x}.txt"]) == 0
    assert (tmp_path / "by.txt").read_text() == sys.executable
    executed = json.loads((tmp_path / "out" / "notebooks" / "-old {x}.txt").read_text())
    assert executed["metadata"]["kernelspec"]["name"] == "python3" and str(tmp_path) not in json.dumps(executed)


def test_files_that_come_and_go_while_they_are_listed(tmp_path, monkeypatch):
    """As another command on the same folder has them."""
    from reptile_eqx import notebooks

    for name in ("a.png", "b.md", "b.md.host-1-2.part"):
        (tmp_path / name).write_text("")
    (tmp_path / "gone.md").symlink_to("vanished")
    assert [path.name for path in notebooks.made_since(tmp_path, 0.0)] == ["a.png", "b.md"]


def test_a_reader_who_has_read_enough_is_no_error():
    command = [sys.executable, "-m", "reptile_eqx", "data", "glyphs"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_data_that_nobody_can_download_is_asked_for_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REPTILE_DATA", str(tmp_path))
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    with pytest.raises(SystemExit) as raised:
        main(["run", "--profile", "paper"])
    assert raised.value.code == 2
    assert (
        "this takes Mini-ImageNet (which `run 1 2 4` does without" in (said := capsys.readouterr().err)
        and str(tmp_path) in said
    )


@pytest.mark.parametrize("command", [[], ["run"], ["data"]])
def test_help_says_what_and_shows_examples(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    printed = capsys.readouterr().out
    assert "run" in printed if not command else "examples:" in printed


def test_data_is_described_and_drawn(tmp_path, capsys):
    assert main(["data", "glyphs", "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "600 classes of 20 images" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_missing_data_is_a_status_and_an_explanation(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPTILE_DATA", str(tmp_path / "nowhere"))
    assert main(["data", "omniglot"]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "own", "told"), [("cpu", "", True), ("cpu", "--of=mine", False), ("gpu", "", False)]
)
def test_smoke_on_a_cpu_compiles_quickly_where_no_flags_are_set(platform, own, told, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "_platform", lambda devices: platform)
    monkeypatch.setattr(notebooks, "execute", lambda *_: seen.append(os.environ.get("XLA_FLAGS", "")) or "")
    monkeypatch.delenv("XLA_FLAGS")
    if own:
        monkeypatch.setenv("XLA_FLAGS", own)
    assert main(["run", "1", "--profile", "smoke", "--out", str(tmp_path)]) == 0
    assert ["optimization_level=0" in flags for flags in seen] == [told] and seen[0].startswith(own)
