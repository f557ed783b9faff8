"""What every dataset of images by class shares: its type, its cache, its description."""

import errno
import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from PIL import Image

from .. import places


class DataError(ValueError):
    """Data that is there but is not what it should be; the message names the file, what was expected, what to do."""


class Unavailable(DataError):
    """Data that is nowhere to be had; the message says where it was looked for and how to get it."""


@dataclass(frozen=True)
class ImageClasses:
    """Images by class, as bytes.

    - `images`: shape `(class, drawing, height, width, channel)`; in drawings 0 is ink and 255 paper.
    - `classes`: a name for each class.
    - `name`: the dataset's.
    - `origin`: what the data is and how it was reduced, kept in the records of runs.
    """

    images: UInt8[np.ndarray, "class drawing height width channel"]
    classes: tuple[str, ...]
    name: str
    origin: str


def cached(name: str, make: Callable[[], UInt8[np.ndarray, "..."]]) -> UInt8[np.ndarray, "..."]:
    """The array that `make()` returns, kept as `cache/NAME.npy` in the data directory with its checksum.

    Two processes do not make it at once; a file that is cut short or damaged is made anew, with a warning; a
    directory that cannot be written to costs the cache, with a warning, not the data.
    """
    path = places.data_directory() / "cache" / f"{name}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            array = _read(path)
            if array is None:
                array = make()
                _write(path, array)
            return array
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC):
            raise
        warnings.warn(f"no cache of decoded images: {error}", stacklevel=2)
        return make()


def _checksum(array: np.ndarray) -> str:
    return hashlib.md5(array.tobytes(), usedforsecurity=False).hexdigest()


def _read(path: Path) -> np.ndarray | None:
    checksum = path.with_suffix(".md5")
    if not path.exists() or not checksum.exists():
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        array = None
    if array is None or _checksum(array) != checksum.read_text():
        warnings.warn(f"{path} is damaged; decoding the images again", stacklevel=4)
        return None
    return array


def _write(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(".part.npy")
    np.save(partial, array)
    path.with_suffix(".md5").unlink(missing_ok=True)
    partial.replace(path)
    path.with_suffix(".md5").write_text(_checksum(array))


def describe(data: ImageClasses) -> str:
    """A few lines on a dataset for people to read."""
    count, drawings, height, width, channels = data.images.shape
    size = f"{height}×{width}" + (f"×{channels}" if channels > 1 else "")
    return (
        f"{data.name}: {count:,} classes of {drawings} images, {size}, bytes"
        f" {data.images.min()} to {data.images.max()}\n"
        f"  {data.origin}\n"
        f"  classes {data.classes[0]} … {data.classes[-1]}"
    )


def contact_sheet(data: ImageClasses, path: str | os.PathLike, classes: int = 12, drawings: int = 20) -> None:
    """Write a PNG with a row for each of some classes, spread evenly over the dataset."""
    rows = np.linspace(0, len(data.classes) - 1, min(classes, len(data.classes))).astype(int)
    chosen = np.pad(data.images[rows, :drawings], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in chosen], axis=0)
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(partial, format="PNG")
    partial.replace(path)
