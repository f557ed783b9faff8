"""The command's processes: they end together, whatever ends the first of them, and say so where they can."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_cli import notebook

from reptile_eqx import children, cli

TRAIN = """
import os, sys, time


def train(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    from reptile_eqx import children, cli

    cli._run = lambda _: lambda: children.call(train, sys.argv[1])
    sys.exit(cli.main(["run"]))
"""
LINE = (
    "reptile-eqx was stopped. What was trained until its last checkpoint is kept: the same command goes on from there."
)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # One that has ended and that nobody has asked about counts as gone.
    stat = f"/proc/{process}/stat"
    return not os.path.exists(stat) or open(stat).read().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return found


def started(command, tmp_path):
    """A command in a process group of its own, and the process that it started, once that says who it is."""
    pipes: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    # Tests that run in the background of a script inherit that Ctrl-C is ignored.
    parent = subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)
    pid = tmp_path / "pid"
    return parent, int(wait_for(lambda: pid.exists() and pid.read_text()))


def training(tmp_path):
    (tmp_path / "command.py").write_text(TRAIN)
    return [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "pid")]


def executing(tmp_path):
    work = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    long = notebook(tmp_path / "long.ipynb", "'shown'", work)
    return [sys.executable, "-m", "reptile_eqx", "run", long, "--out", str(tmp_path / "out")]


MEASURE = """
import os, sys, time


def measure(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    from reptile_eqx import children, cli

    cli._bench = lambda _: lambda: children.result(measure, sys.argv[1])
    sys.exit(cli.main(["bench"]))
"""


def measuring(tmp_path):
    (tmp_path / "command.py").write_text(MEASURE)
    return [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "pid")]


@pytest.mark.parametrize(
    ("doing", "number", "to_all"),
    [
        (measuring, signal.SIGKILL, False),
        (measuring, signal.SIGTERM, False),
        (training, signal.SIGKILL, False),
        (training, signal.SIGTERM, False),
        (training, signal.SIGINT, True),
        (executing, signal.SIGKILL, False),
        (executing, signal.SIGINT, False),
    ],
)
def test_no_process_is_left(doing, number, to_all, tmp_path):
    parent, child = started(doing(tmp_path), tmp_path)
    (os.killpg if to_all else os.kill)(parent.pid, number)
    _, said = parent.communicate(timeout=20)
    wait_for(lambda: not alive(child), 5)
    if number != signal.SIGKILL:
        assert parent.returncode == 128 + number
        assert said.splitlines()[-1] == LINE and "Traceback" not in said, said
        if doing is executing:
            assert "'shown'" in str(json.loads((tmp_path / "out" / "notebooks" / "long.ipynb").read_text())["cells"])


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_answers_with_what_its_function_returns_or_raises():
    assert children.result(divmod, 7, 2) == (3, 1)
    assert children.result(sorted, [1, 2], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        children.result(divmod, 7, 0)
    with pytest.raises(RuntimeError, match="ended with status -9"):
        children.result(killed)


def test_a_training_that_dies_by_itself_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("reptile_eqx.paper.plan.train", killed)
    call = children.call
    monkeypatch.setattr(children, "call", lambda function, *_: call(function))
    cli._train_apart([], {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Training was ended by signal 9, as the system does where memory runs out" in said
