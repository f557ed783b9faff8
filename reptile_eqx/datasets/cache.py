"""Decoded images, kept on disk: made once, checked when they are read, made anew where they are not as they were."""

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .. import files
from .archives import contents
from .common import Block, DataError

# Arrays of at least so many bytes are mapped into memory rather than read.
_MAPPED = 2**28

# For so long what is mapped need not be read whole to be checked again.
_DAY = 24 * 60 * 60


def fingerprint(folder: str | os.PathLike, names: Iterable[str]) -> str:
    """Which folder it is, and a word that changes when a file below it does: `FOLDER-FILES`, 8 and 12 letters.

    From names, sizes and times, as hashing takes longer. The time is that of the last change of a file's status, which
    no program can set to what it likes. Raises `DataError` where a file may not even be looked at.
    """
    seen = hashlib.sha256()
    for name in names:
        path = os.path.join(folder, name)
        try:
            # What is wrong with a link that leads nowhere is found out when its image is read.
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): give yourself the right to read it") from error
        seen.update(os.fsencode(f"{name} {status.st_size} {status.st_ctime_ns}\n"))
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder)))
    return f"{place.hexdigest()[:8]}-{seen.hexdigest()[:12]}"


def cached(
    name: str,
    shape: tuple[int, ...],
    make: Callable[[Callable[[Block], None]], dict | None],
    *,
    source: str | None = None,
    verify: bool = False,
) -> tuple[UInt8[np.ndarray, "..."], dict]:
    """The array that `make` writes and the facts that it returns, kept as `cache/NAME-SOURCE.npy` and `.about` in the
    data directory.

    Two processes do not make it at once. What lies there and is not what was written is made anew, with a warning; a
    place that cannot be written to costs the cache, with a warning, not the data. What was made of the same folder when
    its files were others is removed.

    **Arguments:**

    - `shape`: the array's shape.
    - `make`: called with a function that appends a block along the first axis; what it raises leaves no cache.
    - `source`: the `fingerprint` of what it is made from, if it is made from files.
    - `verify`: whether the digest of an array of 256 MB or more is compared in any case. Such an array is mapped rather
      than read, and compared once a day; smaller ones are always compared.
    """
    path = files.data_directory() / "cache" / f"{name}{f'-{source}' if source else ''}.npy"
    try:
        with files.explained(path), files.held(path, f"decoding {name}"):
            found = _read(path, shape, verify)
            if found is None:
                _write(path, shape, make)
                if source:
                    _remove_others(path)
                found = _read(path, shape, verify=False)
            if found is not None:
                return found
    except OSError as error:
        warnings.warn(f"no cache of decoded images: {error}", stacklevel=2)
    array, filled = np.empty(shape, np.uint8), 0

    def append(block):
        nonlocal filled
        array[filled : filled + len(block)] = block
        filled += len(block)

    return array, make(append) or {}


def _about(path: Path) -> Path:
    return path.with_suffix(".about")


def _read(path: Path, shape: tuple[int, ...], verify: bool) -> tuple[np.ndarray, dict] | None:
    """The array and the facts; without them where there are none, or where, with a warning, others are there."""
    if not os.path.lexists(path):
        return None
    mapped = math.prod(shape) >= _MAPPED
    try:
        if not path.is_file():
            raise ValueError("is no regular file")
        kept = json.loads(files.unsealed("cache", contents(_about(path))))
        of, offset = (path.name, list(shape)), kept["offset"]
        if (kept["name"], kept["shape"]) != of or path.stat().st_size != offset + math.prod(shape):
            raise ValueError("has another array's size or facts")
        if verify or not mapped or not _verified(path):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != kept["sha256"]:
                    raise ValueError("has another digest than it was written with")
            with contextlib.suppress(OSError):  # in a place that cannot be written to it is verified each time
                os.utime(_about(path))
        if mapped:
            return np.memmap(path, np.uint8, "r", offset, shape), kept["facts"]
        return np.fromfile(path, np.uint8, offset=offset).reshape(shape), kept["facts"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        warnings.warn(f"{path} is damaged; decoding the images again ({error})", stacklevel=4)
        return None


def _verified(path: Path) -> bool:
    """Whether the digest was compared since the array last changed, and in a day: the time of `.about` tells."""
    at = _about(path).stat().st_mtime
    return path.stat().st_ctime <= at and 0 <= time.time() - at < _DAY


def _write(path: Path, shape: tuple[int, ...], make: Callable[[Callable[[Block], None]], dict | None]) -> None:
    """Write block by block, so that no more than a block is in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    digest, offset = hashlib.sha256(), len(header.getvalue())
    for place in (path, _about(path)):
        if place.is_dir() and not place.is_symlink():
            place.rename(place.with_name(f"{place.name}.{secrets.token_hex(4)}.aside"))
    with files.replacing(path) as file:

        def append(block):
            content = np.ascontiguousarray(block).data
            digest.update(content)
            file.write(content)

        append(np.frombuffer(header.getvalue(), np.uint8))
        facts = make(append) or {}
        if file.tell() != offset + math.prod(shape):
            raise ValueError(f"{path.stem}: {file.tell() - offset} bytes were made for the shape {shape}")
        kept = {"name": path.name, "shape": shape, "offset": offset, "sha256": digest.hexdigest(), "facts": facts}
        with files.replacing(_about(path)) as about:
            about.write(files.sealed("cache", json.dumps(kept).encode()))
    os.utime(_about(path))  # later than the array's last change: what was just written is verified


def _remove_others(path: Path) -> None:
    """Remove what was made of the same folder when its files were others; who has it mapped keeps it."""
    of_folder, _, of_files = path.stem.rpartition("-")
    for other in path.parent.glob(f"{of_folder}-{'?' * len(of_files)}.*"):
        with contextlib.suppress(OSError):
            written = other.suffix != files.PARTIAL or time.time() - other.stat().st_mtime > _DAY
            if written and not other.name.startswith(path.stem):
                other.unlink()
