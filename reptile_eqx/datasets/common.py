"""What every dataset of images by class shares: its type, the facts about it, its place, its description."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from .. import files

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
    - `network`: makes the paper's network for such images, `network(ways, key=key)`, or with
      `average_features=True` one whose head takes each filter's mean.
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


def candidates(name: str, directory: str | os.PathLike | None) -> Iterator[Path]:
    """Where a dataset is looked for, in this order: `NAME/` in the directory that somebody named (`directory`, else
    `$REPTILE_DATA`), that directory itself, `NAME/` in the project's data directory.

    Raises `DataError` where the named directory, or one of those `NAME`, is none or cannot be read.
    """
    named_by = "`directory`" if directory else "$REPTILE_DATA"
    named = directory or os.environ.get("REPTILE_DATA")
    try:
        given = files.expanded(named, named_by) if named else None
    except ValueError as error:
        raise DataError(str(error)) from error
    if given is not None and not os.path.isdir(given):
        raise DataError(
            f"the data directory {given} does not exist or is no directory; expected a folder that holds {name}/: "
            f"correct {named_by}, or leave it out"
        )
    places = [*([given / name, given] if given is not None else []), files.data_directory() / name]
    for place in places:
        if os.path.lexists(place) and not os.path.isdir(place):
            raise DataError(f"{place} is no folder and leads to none; expected the folder of {name}: move it away")
        if os.path.isdir(place) and not os.access(place, os.R_OK | os.X_OK):
            raise DataError(f"the folder {place} cannot be read: give yourself the right to read it")
        yield place


def filter_named(resample: str) -> Image.Resampling:
    """One of `FILTERS`; raises `ValueError` for another name."""
    if resample not in FILTERS:
        raise ValueError(f"`resample` is {resample!r}; expected {' or '.join(FILTERS)}")
    return FILTERS[resample]


def describe(data: ImageClasses) -> str:
    """A few lines on a dataset for people to read."""
    height, width, channels = data.images.shape[-3:]
    drawings = data.images.shape[1] if data.counts is None else f"{min(data.counts)} to {max(data.counts)}"
    size = f"{height}×{width}" + (f"×{channels}" if channels > 1 else "")
    text = (
        f"{data.name}: {len(data.classes):,} classes of {drawings} images, {size}\n"
        f"  {data.origin}\n"
        f"  classes {data.classes[0]} … {data.classes[-1]}"
    )
    return text.encode(errors="replace").decode()  # a folder's name may hold bytes that do not print


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
