"""Files: where the project keeps them, JSON, the one way to write them, and what several processes agree on.

Where several processes work together, each runs the same Python and comes to the same decisions: what only one of them
can know (files, the time) the first one tells the others, and it alone writes and prints.
"""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jax.experimental import multihost_utils

CHECKOUT = Path(__file__).resolve().parent.parent


def in_checkout() -> bool:
    """Whether this package is imported from a checkout of the project rather than from an installed wheel."""
    return (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "notebooks").is_dir()


def home() -> Path | None:
    """The folder of `data/` and `figures/`: `$REPTILE_HOME` where it is set, else the checkout, if there is one."""
    if named := os.environ.get("REPTILE_HOME"):
        return Path(named).expanduser()
    return CHECKOUT if in_checkout() else None


def data_directory() -> Path:
    """Where downloads, caches and run states go: `data/` at home, or the user's cache for an installed wheel."""
    if place := home():
        return place / "data"
    import pooch  # which warns in a notebook without ipywidgets, so only when it is needed

    return Path(pooch.os_cache("reptile-eqx"))


def figures_directory() -> Path:
    """Where figures, tables and published records go: `figures/` at home, else in the working directory."""
    return (home() or Path.cwd()) / "figures"


def given_data_directory(directory: str | os.PathLike | None = None) -> Path | None:
    """The directory of data that somebody named: `directory`, else `$REPTILE_DATA`, else `None`."""
    named = directory or os.environ.get("REPTILE_DATA")
    return Path(named).expanduser() if named else None


def as_json(value: Any, **options: Any) -> str:
    """`json.dumps` that takes the numbers and arrays of NumPy and JAX for what they hold.

    Raises `TypeError` for anything else that JSON does not know.
    """

    def plain(leaf):
        if isinstance(leaf, np.generic | np.ndarray | jax.Array):
            return np.asarray(leaf).tolist()
        raise TypeError(f"a record keeps numbers, texts, lists and dictionaries of them; given {leaf!r}")

    return json.dumps(value, default=plain, **options)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write `path` anew into, beside it, that takes its place when all is written: nobody reads half of it.

    Its folder is made where it is not there. Where something goes wrong, the old file stays, and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write bytes, or a text in UTF-8, by `replacing` the file. Of several processes the first one writes."""
    if first_process():
        with replacing(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)


def first_process() -> bool:
    """Whether this process is the one that writes files and prints; the only one there is, as a rule."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """What the first process has as `value` (anything that JSON can hold), in every process."""
    return value if jax.process_count() == 1 else json.loads(_from_first(json.dumps(value).encode()))


def read(path: Path) -> bytes | None:
    """A file's content as the first process finds it, in every process; `None` where it finds none."""
    content = path.read_bytes() if first_process() and path.exists() else None
    if jax.process_count() == 1 or not agree(content is not None):
        return content
    return _from_first(content or b"")


def _from_first(content: bytes) -> bytes:
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    own = np.frombuffer(content, np.uint8) if first_process() else np.zeros(length, np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()
