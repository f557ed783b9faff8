"""Processes that end when they should: this one at a signal, in good order, and with it the one that it started."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Stopped(KeyboardInterrupt):
    """What `stoppable` raises; its argument is the signal's number."""


stopping = threading.Event()
"""Set as soon as `stoppable` has raised."""


@contextmanager
def stoppable() -> Generator[None]:
    """Raise `Stopped` at Ctrl-C and at SIGTERM, so that all is left in good order; at a second one end at once."""
    before = {}
    stopping.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, handler)


def _stop(number, _):
    for some in (signal.SIGINT, signal.SIGTERM):
        signal.signal(some, signal.SIG_DFL)
    stopping.set()
    raise Stopped(number)


def call(function: Callable[..., Any], *arguments: Any) -> int:
    """Call a function in a fresh process and wait for it; returns the process's exit status.

    The status is 0 where the function returned, 1 where it raised, and -n where signal n ended the process. An
    interrupt from the keyboard is for this process alone: where one, or anything else, ends the waiting, the other
    process is killed.
    """
    work = pickle.dumps((function, arguments))
    process = multiprocessing.get_context("spawn").Process(target=_begin, args=(work,))
    # What is ignored here is ignored in a process that starts meanwhile, from its first moment on.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        process.join()
    finally:
        process.kill()
        process.join()
    return process.exitcode or 0


def result(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """What a function returns, or raises, in a fresh process (`call`).

    Raises `RuntimeError` where that process ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        if status := call(_answer, answer, function, arguments, settings):
            raise RuntimeError(f"a process that was to answer ended with status {status}")
        returned, raised = pickle.loads(answer.read_bytes())
    if raised is not None:
        raise raised
    return returned


def _answer(path, function, arguments, settings):
    try:
        found = function(*arguments, **settings), None
    except Exception as error:
        found = None, error
    path.write_bytes(pickle.dumps(found))


def _begin(work: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function, arguments = pickle.loads(work)  # imports what the function needs, so not before
    try:
        function(*arguments)
    except OSError as error:
        sys.exit(f"reptile-eqx: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
