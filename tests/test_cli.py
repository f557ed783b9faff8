"""The command: notebooks through papermill, one failure among them, data described, mistakes named."""

import json
import subprocess
import sys

import nbformat
import pytest

from reptile_eqx.cli import main


def notebook(path, *sources, parameters="profile = 'quick'"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
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
    assert "1 of 2 notebooks executed" in printed.out
    assert "Failed: 1_failing.ipynb" in printed.out
    assert "made-5.txt" in printed.out
    assert (out / "made-5.txt").read_text() == "smoke"
    executed = json.loads((out / "notebooks" / "2_sound.ipynb").read_text())
    assert executed["cells"][-1]["execution_count"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "17"], "no notebook '17'; there are 1_sine_regression"),
        (["run", "1", "-p", "shot", "5"], "no notebook has a parameter shot"),
        (["run", "--devices", "0"], "--devices is how many cores or GPUs to use, at least 1; given 0"),
        (["run", "3", "-p", "outer_iterations", "0"], "`outer_iterations` is 0; expected a whole number, 1 or more"),
        (
            ["run", "3", "--dry-run", "-p", "train", "omniglot-20way-reptile"],
            "`train` is a list of trainings, such as ['omniglot-5way-reptile']; given 'omniglot-20way-reptile'",
        ),
        (["run", "3", "-p", "train", "['omniglot-20']"], "no training 'omniglot-20'; there are omniglot-5way-reptile"),
        (["run", "--profile", "fast"], "invalid choice: 'fast'"),
        (["run", "3", "-p", "seeds", "[0, 0]"], "seeds (0 or greater, each once) to train; given [0, 0]"),
        (["run", "3", "--dry-run", "-p", "train", "[]"], "these notebooks train nothing that is planned"),
        (["data", "imagenet"], "unknown dataset imagenet; there are omniglot, mini-imagenet, glyphs"),
        ([], "required"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


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


def test_a_parameter_of_another_type_is_named_too():
    """In a process of its own, without jaxtyping's checks, which would find it first."""
    command = [sys.executable, "-m", "reptile_eqx", "run", "3", "-p", "seeds", "abc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "`seeds` is how many, or which, seeds to train, such as 3 or [0, 2]; given 'abc'" in done.stderr


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


def test_missing_data_is_a_status_and_an_explanation(tmp_path, capsys):
    assert main(["data", "omniglot", "--directory", str(tmp_path / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().err
