"""Files: where the project keeps them, and how they are written, held and checked."""

import datetime
import errno
import glob
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

CHECKOUT = Path(__file__).resolve().parent.parent


def in_checkout() -> bool:
    """Whether this package is imported from a checkout of the project rather than from an installed wheel."""
    return (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "notebooks").is_dir()


def home() -> Path | None:
    """The folder of `data/` and `figures/`: `$REPTILE_HOME` where it is set, else the checkout, if there is one."""
    if named := os.environ.get("REPTILE_HOME"):
        return expanded(named, "$REPTILE_HOME")
    return CHECKOUT if in_checkout() else None


def expanded(path: str | os.PathLike, named_by: str) -> Path:
    """A path whose `~` is a home; raises `ValueError`, saying what `named_by` the path, where it is nobody's."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{named_by} is {os.fspath(path)}, and there is no such home: name a folder") from error


def data_directory() -> Path:
    """Where downloads, caches and run states go: `data/` at home, or the user's cache for an installed wheel."""
    if place := home():
        return place / "data"
    import pooch  # which warns in a notebook without ipywidgets, so only when it is needed

    return Path(pooch.os_cache("reptile-eqx"))


def figures_directory() -> Path:
    """Where figures, tables and published records go: `figures/` at home, else in the working directory."""
    return (home() or Path.cwd()) / "figures"


class Unwritable(OSError):
    """A file that could not be written, or a place that is none; the message says which, why, and what to do."""

    def __init__(self, error: OSError, message: str):
        super().__init__(error.errno, message)

    def __str__(self) -> str:
        return str(self.strerror)


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn an `OSError` on the way to writing `path` into one that a reader can act on."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        raise Unwritable(error, f"{path} cannot be written: {_reason(path, error)}") from error


def _reason(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"{error.strerror}. Free some space there ({data_directory() / 'cache'} can be made again) and start "
            "again: what was kept so far is whole, and training goes on from it"
        )
    for place in (*reversed(path.parents), path):
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a link that leads nowhere: mend or remove it"
        if place != path and os.path.exists(place) and not os.path.isdir(place):
            return f"{place} is a file where a folder should be: move it, or name another place"
    if os.path.isdir(path):
        return "a folder of that name is in its place: move it, or name another place"
    return f"{error.strerror}. Give yourself the right to write there, or name another place ($REPTILE_HOME)"


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write `path` anew into, beside it, that takes its place when all is written: nobody reads half of it.

    Its folder is made where it is not there. Where something goes wrong, the old file stays, and nothing beside it;
    what a killed process left beside it is removed. Raises `Unwritable`.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path)
        partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        file = partial.open("xb")
    try:
        with file:
            try:
                yield file
            except OSError as error:
                if error.errno in _FULL:
                    raise Unwritable(error, f"{path} cannot be written: {_reason(path, error)}") from error
                raise
            with explained(path):
                file.flush()
                os.fsync(file.fileno())
        with explained(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


PARTIAL = ".part"
"""How the names of files end that are being written."""


def _remove_orphans(path: Path) -> None:
    """Remove what processes of this machine that are no more were writing in the place of `path`."""
    if os.name != "posix":  # elsewhere a signal of 0 is no question
        return
    for orphan in path.parent.glob(f"{glob.escape(path.name)}.{glob.escape(socket.gethostname())}-*{PARTIAL}"):
        owner = orphan.name.removesuffix(PARTIAL).split("-")[-2]
        if owner.isdecimal() and not _lives(int(owner)):
            orphan.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def held(path: Path, doing: str) -> Generator[None]:
    """Hold the lock beside `path` against other processes; who has to wait for one says what it is `doing`.

    Raises `Unwritable` where no lock can be put there.
    """
    with explained(path.with_suffix(".lock")):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{now()}: waiting for another process, which is {doing}", file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def sealed(kind: str, content: bytes) -> bytes:
    """Bytes under a line that says what they are and has their digest, for `unsealed`."""
    return f"reptile-eqx {kind}, sha256 {hashlib.sha256(content).hexdigest()}\n".encode() + content


def unsealed(kind: str, content: bytes) -> bytes:
    """What `sealed` was given; raises `ValueError` where it is something else, or not all of it."""
    line, _, rest = content.partition(b"\n")
    begin = f"reptile-eqx {kind}, sha256 ".encode()
    if not line.startswith(begin):
        raise ValueError(f"it is no {kind} of this version: its first line does not say so")
    if line != sealed(kind, rest).partition(b"\n")[0]:
        raise ValueError("it is damaged or cut short: its digest is not the one it was written with")
    return rest


def regular(path: Path) -> bytes | None:
    """A file's bytes, or `None` where there is none; raises `ValueError` for what is there and cannot be read.

    A named pipe would be waited for, and a device read for ever.
    """
    try:
        if path.is_file():
            return path.read_bytes()
        if path.exists() or path.is_symlink():
            raise ValueError("it is a folder" if path.is_dir() else "it is no regular file, or a link to nothing")
        return None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
