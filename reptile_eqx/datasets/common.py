"""What every dataset of images by class shares: its type, the facts about it, its cache, its description."""

import errno
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
from filelock import FileLock
from jaxtyping import Array, UInt8
from PIL import Image

from .. import files

# Arrays of at least so many bytes are mapped into memory rather than read.
_MAPPED = 2**28

FILTERS = {"nearest": Image.Resampling.NEAREST, "antialiased": Image.Resampling.LANCZOS}
"""How images of another size are reduced."""

Block = UInt8[np.ndarray, "..."]


class DataError(ValueError):
    """Data that is there but is not what it should be; the message names the file, what was expected, what to do."""


class Unavailable(DataError):
    """Data that is nowhere to be had; the message says where it was looked for and how to get it."""


class Facts(NamedTuple):
    """What holds of a dataset, whoever has a copy of it.

    - `title`: its name as readers know it.
    - `shape`: of its images, `(class, drawing, height, width, channel)`.
    - `split`: how many classes there are to train on, to choose settings by, and to evaluate on, in this order.
    - `shuffled`: whether a training's seed shuffles the classes before they are split; otherwise they lie in the
      published order.
    - `turned`: whether a class to train on also counts three more times, turned by 90°, 180° and 270°.
    - `network`: makes the paper's network for such images, `network(ways, key=key)`.
    """

    title: str
    shape: tuple[int, int, int, int, int]
    split: tuple[int, int, int]
    shuffled: bool
    turned: bool
    network: Callable[..., eqx.Module]


class ImageClasses(eqx.Module):
    """Images by class, as bytes: a pytree whose only leaf is the images.

    - `images`: shape `(class, drawing, height, width, channel)`; in drawings 0 is ink and 255 paper. Not to be
      written to: a large array is mapped from its file, and read from there as it is used. With `counts`, those of all
      classes one after another, `(drawing, height, width, channel)`.
    - `classes`: a name for each class.
    - `name`: the dataset's.
    - `origin`: what the data is and how it was reduced, kept in the records of runs.
    - `facts`: its `Facts`; `None` for pictures of one's own.
    - `counts`: how many each class has, where that differs.
    """

    images: UInt8[np.ndarray | Array, "*drawings height width channel"]
    classes: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    origin: str = eqx.field(static=True)
    facts: Facts | None = eqx.field(static=True)
    counts: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def of_class(self, position: int) -> UInt8[np.ndarray | Array, "drawing height width channel"]:
        """The images of one class."""
        if self.counts is None:
            return self.images[position]
        begin = sum(self.counts[:position])
        return self.images[begin : begin + self.counts[position]]


def candidates(name: str, directory: str | os.PathLike | None) -> list[Path]:
    """Where a dataset is looked for, in this order: `NAME/` in the directory that somebody named (`directory`, else
    `$REPTILE_DATA`), that directory itself, `NAME/` in the project's data directory.

    Raises `DataError` where the named directory is not there or cannot be read.
    """
    named = directory or os.environ.get("REPTILE_DATA")
    given = Path(named).expanduser() if named else None
    if given is not None and not given.is_dir():
        raise DataError(
            f"the data directory {given} does not exist or is no directory; expected a folder that holds {name}/: "
            "correct `data` or $REPTILE_DATA, or unset it"
        )
    if given is not None and not os.access(given, os.R_OK | os.X_OK):
        raise DataError(f"the data directory {given} cannot be read: give yourself the right to read it")
    return [*([given / name, given] if given is not None else []), files.data_directory() / name]


def filter_named(resample: str) -> Image.Resampling:
    """One of `FILTERS`; raises `ValueError` for another name."""
    if resample not in FILTERS:
        raise ValueError(f"`resample` is {resample!r}; expected {' or '.join(FILTERS)}")
    return FILTERS[resample]


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} cannot be read ({error.strerror}): give yourself the right to read it"
    )


def files_below(folder: Path) -> list[str]:
    """All files below a folder, relative to it, in a fixed order; links are followed once.

    Raises `DataError` where a folder cannot be read.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        within = os.path.relpath(root, folder)
        found += [name if within == "." else f"{within}/{name}" for name in sorted(names)]
    return found


def fingerprint(folder: str | os.PathLike, names: Iterable[str]) -> str:
    """Changes when a file below `folder` does: from names, sizes and times, as hashing takes longer.

    The time is that of the last change of a file's status, which no program can set to what it likes.
    """
    seen = hashlib.sha256()
    for name in names:
        path = os.path.join(folder, name)
        # A link that leads nowhere is found out when its image is read.
        status = os.stat(path) if os.path.exists(path) else os.lstat(path)
        seen.update(os.fsencode(f"{name} {status.st_size} {status.st_ctime_ns}\n"))
    return seen.hexdigest()[:12]


def cached(
    name: str, shape: tuple[int, ...], make: Callable[[Callable[[Block], None]], dict | None], *, verify: bool = False
) -> tuple[UInt8[np.ndarray, "..."], dict]:
    """The array that `make` writes and the facts that it returns, kept as `cache/NAME.npy` and `.json` in the data
    directory.

    Two processes do not make it at once; a file that is cut short or damaged is made anew, with a warning; a
    directory that cannot be written to costs the cache, with a warning, not the data.

    **Arguments:**

    - `shape`: the array's shape.
    - `make`: called with a function that appends a block along the first axis; what it raises leaves no cache.
    - `verify`: whether the checksum of an array of 256 MB or more is compared too. Such an array is mapped rather
      than read, and at other times only its size and header are checked; smaller ones are always compared.
    """
    path = files.data_directory() / "cache" / f"{name}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path, shape, verify)
            if found is None:
                _write(path, shape, make)
                found = _read(path, shape, verify=False)
            if found is not None:
                return found
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC):
            raise
        warnings.warn(f"no cache of decoded images: {error}", stacklevel=2)
    array, filled = np.empty(shape, np.uint8), 0

    def append(block):
        nonlocal filled
        array[filled : filled + len(block)] = block
        filled += len(block)

    return array, make(append) or {}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read(path: Path, shape: tuple[int, ...], verify: bool) -> tuple[np.ndarray, dict] | None:
    about = path.with_suffix(".json")
    if not path.exists() or not about.exists():
        return None
    mapped = math.prod(shape) >= _MAPPED
    try:
        kept = json.loads(about.read_text())
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        whole = path.stat().st_size == kept["bytes"] and array.shape == shape and array.dtype == np.uint8
        if whole and (verify or not mapped):
            whole = _checksum(path) == kept["md5"]
    except (ValueError, EOFError, KeyError):
        whole = False
    if not whole:
        warnings.warn(f"{path} is damaged; decoding the images again", stacklevel=4)
        return None
    return array, kept["facts"]


def _write(path: Path, shape: tuple[int, ...], make: Callable[[Callable[[Block], None]], dict | None]) -> None:
    """Write block by block, so that no more than a block is in memory."""
    header, about = {"descr": "|u1", "fortran_order": False, "shape": shape}, path.with_suffix(".json")

    def append(block):
        file.write(np.ascontiguousarray(block).data)

    with files.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        expected = file.tell() + math.prod(shape)
        facts = make(append) or {}
        if file.tell() != expected:
            raise ValueError(f"{path.stem}: {file.tell()} bytes were made for the shape {shape}, not {expected}")
        about.unlink(missing_ok=True)
    with files.replacing(about) as file:
        file.write(json.dumps({"bytes": expected, "md5": _checksum(path), "facts": facts}).encode())


def describe(data: ImageClasses) -> str:
    """A few lines on a dataset for people to read."""
    height, width, channels = data.images.shape[-3:]
    drawings = data.images.shape[1] if data.counts is None else f"{min(data.counts)} to {max(data.counts)}"
    size = f"{height}×{width}" + (f"×{channels}" if channels > 1 else "")
    return (
        f"{data.name}: {len(data.classes):,} classes of {drawings} images, {size}\n"
        f"  {data.origin}\n"
        f"  classes {data.classes[0]} … {data.classes[-1]}"
    )


def contact_sheet(data: ImageClasses, path: str | os.PathLike, classes: int = 12, drawings: int = 20) -> None:
    """Write a PNG with a row for each of some classes, spread evenly over the dataset."""
    rows = np.linspace(0, len(data.classes) - 1, min(classes, len(data.classes))).astype(int)
    drawings = min(drawings, data.images.shape[1] if data.counts is None else max(data.counts))
    framed = [
        np.pad(data.of_class(int(i))[:drawings], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128) for i in rows
    ]
    blank = np.full((drawings, *framed[0].shape[1:]), 128, np.uint8)
    sheet = np.concatenate([np.concatenate([*row, *blank[len(row) :]], axis=1) for row in framed], axis=0)
    with files.replacing(Path(path)) as file:
        Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(file, format="PNG")
