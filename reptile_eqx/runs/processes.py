"""Several processes that work together: what they agree on, and what the first one alone does.

Each runs the same Python and comes to the same decisions: what only one of them can know (files, the time) the first
one tells the others, and it alone writes and prints.
"""

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..files import explained, regular, replacing, unsealed


def as_json(value: Any, **options: Any) -> str:
    """`json.dumps` that takes the numbers and arrays of NumPy and JAX for what they hold, and writes `null` for a
    number that is not finite, as JSON has no word for it.

    Raises `TypeError` for anything else that JSON does not know.
    """

    def plain(leaf):
        if isinstance(leaf, dict):
            return {name: plain(some) for name, some in leaf.items()}
        if isinstance(leaf, list | tuple):
            return [plain(some) for some in leaf]
        if isinstance(leaf, np.generic | np.ndarray | jax.Array):
            return plain(np.asarray(leaf).tolist())
        if isinstance(leaf, float) and not math.isfinite(leaf):
            return None
        if leaf is None or isinstance(leaf, str | bool | int | float):
            return leaf
        raise TypeError(f"a record keeps numbers, texts, lists and dictionaries of them; given {leaf!r}")

    return json.dumps(plain(value), allow_nan=False, **options)


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


def read(path: Path, kind: str) -> bytes | None:
    """What was `sealed` in a file, as the first process finds it, in every process; `None` where there is none.

    A file that is damaged, or no such file, is `set_aside`.
    """
    content = _unsealed(path, kind) if first_process() else None
    if jax.process_count() == 1 or not agree(content is not None):
        return content
    return _from_first(content or b"")


def _unsealed(path: Path, kind: str) -> bytes | None:
    try:
        content = regular(path)
        return None if content is None else unsealed(kind, content)
    except ValueError as error:
        set_aside(path, error)
        return None


def set_aside(path: Path, why: Exception) -> None:
    """Give what cannot be used another name, with a warning; what it was for is made anew."""
    taken = [path.with_name(f"{path.name}.damaged{i}") for i in ("", *range(2, 100))]
    aside = next((name for name in taken if not os.path.lexists(name)), taken[-1])
    if first_process():
        with explained(path):
            path.replace(aside)
    warnings.warn(f"{path} is not used, as {why}; it is kept as {aside.name}, and made anew", stacklevel=2)


def _from_first(content: bytes) -> bytes:
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    own = np.frombuffer(content, np.uint8) if first_process() else np.zeros(length, np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()
