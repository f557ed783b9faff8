"""Several processes that work together: what they agree on, and what the first one alone does.

Each runs the same Python and comes to the same decisions: what only one of them can know (files, the time) the first
one tells the others, and it alone writes and prints.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..files import replacing


def as_json(value: Any, **options: Any) -> str:
    """`json.dumps` that takes the numbers and arrays of NumPy and JAX for what they hold.

    Raises `TypeError` for anything else that JSON does not know.
    """

    def plain(leaf):
        if isinstance(leaf, np.generic | np.ndarray | jax.Array):
            return np.asarray(leaf).tolist()
        raise TypeError(f"a record keeps numbers, texts, lists and dictionaries of them; given {leaf!r}")

    return json.dumps(value, default=plain, **options)


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
