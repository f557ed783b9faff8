"""Mini-ImageNet (Vinyals et al. 2016): 100 classes of 600 ImageNet pictures, split as by Ravi & Larochelle (2017)."""

import csv
import functools
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..bars import tqdm
from ..nn import MiniImageNetNetwork
from . import pictures
from .archives import Location, Sources, contents, files_below, is_image
from .cache import cached, fingerprint
from .common import Block, DataError, Facts, ImageClasses, Unavailable, candidates, filter_named
from .problems import Problems

_SIDE = 84
FACTS = Facts("Mini-ImageNet", (100, 600, 84, 84, 3), (64, 16, 20), False, False, MiniImageNetNetwork)

_SPLITS = ("train", "val", "test")

# Several times what a list of all pictures has.
_MOST_OF_A_LIST = 2**24


# Where each image lies, by split, class and file name; one that is nowhere has no locations.
_Listing = dict[str, dict[str, dict[str, list[Location]]]]


def load_mini_imagenet(
    directory: str | os.PathLike | None = None, *, resample: str = "antialiased", verify: bool = False
) -> ImageClasses:
    """Mini-ImageNet from a copy that somebody has: 64 training classes, then 16 for validation, then 20 for testing,
    each split sorted by WNID, each class by file name.

    Looked for in `directory`, or else in the directory that `$REPTILE_DATA` names, then in the project's `data/`, as
    `train.csv`, `val.csv` and `test.csv` with the images anywhere below, in folders or in zips; or, without lists, as
    folders `train/`, `val/` and `test/` of class folders. There is no download. A copy is checked whole, image by
    image, and decoded once into a cache.

    **Arguments:**

    - `directory`: holds `mini-imagenet/`, or is that folder.
    - `resample`: how images that are not 84×84 are resized, with a warning: "antialiased", as copies of 84×84 were
      made, or "nearest", as the paper's authors resized full pictures.
    - `verify`: whether the cache's digest is compared in any case, which takes seconds, rather than once a day.

    **Returns:** images of shape `(100, 600, 84, 84, 3)`, mapped from the cache; raises `Unavailable` where there is no
    copy and `DataError`, with what is wrong, where a copy is not whole.
    """
    filter_named(resample)
    folder = find_mini_imagenet(directory)
    files = _files(folder)
    images, facts = cached(
        f"mini-imagenet-{resample}",
        FACTS.shape,
        functools.partial(_decode, folder, files, resample),
        source=fingerprint(folder, files),
        verify=verify,
    )
    sizes = f"{_SIDE}×{_SIDE} as they came"
    if facts["resized"]:
        smallest, largest = (f"{width}×{height}" for width, height in (facts["smallest"], facts["largest"]))
        total = images.shape[0] * images.shape[1]
        sizes = f"{facts['resized']:,} of {total:,} resized to {_SIDE}×{_SIDE} by {resample} resampling"
        sizes += f" (the copy's are {smallest} to {largest})"
        warnings.warn(f"Mini-ImageNet's images: {sizes}", stacklevel=2)
    if facts["converted"]:
        sizes += f", {facts['converted']:,} converted to RGB"
    return ImageClasses(
        images=images,
        classes=tuple(facts["classes"]),
        name="mini-imagenet",
        origin="Mini-ImageNet, {} training, {} validation and {} test classes".format(*FACTS.split)
        + f" by {facts['layout']}; images {sizes}",
        facts=FACTS,
    )


def _has_lists(folder: Path) -> bool:
    return any(os.path.lexists(folder / f"{split}.csv") for split in _SPLITS)


def find_mini_imagenet(directory: str | os.PathLike | None = None) -> Path:
    """The folder that `load_mini_imagenet` would read; raises its `Unavailable` where there is none."""
    looked = []
    for folder in candidates("mini-imagenet", directory):
        if _has_lists(folder) or all((folder / split).is_dir() for split in _SPLITS):
            return folder
        looked.append(folder)
    without = " (which is there, but has neither the lists nor the folders described below)"
    where = " nor in ".join(f"{folder}{without if folder.is_dir() else ''}" for folder in looked)
    raise Unavailable(
        f"Mini-ImageNet is not in {where}.\n"
        "It is 60,000 pictures of 100 of ImageNet's classes. ImageNet's terms forbid passing them on, so there is no "
        "download: ask for access at https://image-net.org/download, or whoever has a copy under those terms. Which "
        "pictures they are is in Ravi & Larochelle's train.csv, val.csv and test.csv: "
        "https://github.com/twitter-research/meta-learning-lstm, data/miniImagenet.\n"
        "Make a folder mini-imagenet/ of either\n"
        "  train.csv, val.csv, test.csv   and the images, of any size, in folders or zips anywhere below, or\n"
        "  train/, val/, test/            with 64, 16 and 20 class folders of 600 images each,\n"
        "and set REPTILE_DATA to the folder that holds mini-imagenet/."
    )


def _files(folder: Path) -> list[str]:
    """Lists, zips and images below a folder, relative to it, in a fixed order."""
    lists = {f"{split}.csv" for split in _SPLITS}
    return [f for f in files_below(folder) if is_image(f) or f.lower().endswith(".zip") or f in lists]


def _decode(folder: Path, files: list[str], resample: str, write: Callable[[Block], object]) -> dict:
    """Decode all images, a class at a time, and hand each class to `write`.

    **Returns:** facts on the copy; raises `DataError` with what is wrong.
    """
    problems = Problems()
    with Sources(folder, files, problems) as sources:
        by_lists = _has_lists(folder)
        listing = _from_lists(folder, sources.images, problems) if by_lists else _from_folders(sources.images)
        _check(listing, problems)
        sizes, converted = _decode_listed(listing, functools.partial(_image, sources, resample), write, problems)
    if problems:
        raise problems.error(
            f"this copy of Mini-ImageNet is not whole ({folder}); what is wrong with it ({len(problems):,})",
            "Nothing of it was kept: mend or replace what is named, then start again.",
        )
    return {
        "layout": "the lists train.csv, val.csv and test.csv" if by_lists else "the folders train/, val/ and test/",
        "classes": [label for split in _SPLITS for label in sorted(listing[split])],
        "resized": sum(size != (_SIDE, _SIDE) for size in sizes),
        "converted": converted,
        "smallest": min(sizes, key=math.prod),
        "largest": max(sizes, key=math.prod),
    }


def _decode_listed(
    listing: _Listing, decode: Callable, write: Callable[[Block], object], problems: Problems
) -> tuple[list[tuple[int, int]], int]:
    """Every image's size as it came, and how many were not RGB; what is wrong is added to `problems`."""
    sizes, converted = [], 0
    total = sum(len(images) for split in listing.values() for images in split.values())
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=total, desc="decoding Mini-ImageNet", unit="image") as bar,
    ):
        for split in _SPLITS:
            for label, images in sorted(listing[split].items()):
                there = {name: found for name, found in sorted(images.items()) if found}
                pixels = []
                for name, image in zip(there, pool.map(decode, there.values()), strict=True):
                    if isinstance(image, DataError):
                        problems.add(f"{split}: {label}/{name}", image)
                        continue
                    pixels.append(image.pixels)
                    sizes.append(image.size)
                    converted += image.mode != "RGB"
                if not problems:
                    write(np.stack(pixels)[None])
                bar.update(len(images))
    return sizes, converted


def _from_folders(locations: list[Location]) -> _Listing:
    """Images that lie as SPLIT/WNID/FILENAME."""
    listing: _Listing = {split: {} for split in _SPLITS}
    for location in locations:
        parts = location.file.split("/")
        if location.member is None and len(parts) == 3 and parts[0] in listing:
            listing[parts[0]].setdefault(parts[1], {})[parts[2]] = [location]
    return listing


def _from_lists(folder: Path, locations: list[Location], problems: Problems) -> _Listing:
    """Images that `train.csv`, `val.csv` and `test.csv` name.

    One that lies in a folder of its class goes before others of its name; one in another class's folder is not it.
    """
    lists = {split: _read_list(folder / f"{split}.csv", problems) for split in _SPLITS}
    labels = {label for rows in lists.values() for _, label in rows}
    by_name: dict[str, list[tuple[str, Location]]] = {}
    for location in locations:
        *_, parent, name = "", *location.path.split("/")
        by_name.setdefault(name, []).append((parent, location))
    listing: _Listing = {split: {} for split in _SPLITS}
    for split, rows in lists.items():
        for name, label in rows:
            found = by_name.get(name, [])
            own = [location for parent, location in found if parent == label]
            listing[split].setdefault(label, {})[name] = own or [p for parent, p in found if parent not in labels]
    return listing


def _read_list(path: Path, problems: Problems) -> list[tuple[str, str]]:
    """File names and labels; what is wrong with the list is added to `problems`."""
    try:
        text = contents(path, _MOST_OF_A_LIST).decode("utf-8-sig")
        header, *lines = [*csv.reader(text.splitlines())] or [[]]
    except DataError as error:
        problems.add(path.name, f"{error}; expected the three lists, or none of them")
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        problems.add(path.name, f"cannot be read as a list ({error})")
        return []
    if header != ["filename", "label"]:
        problems.add(path.name, f"begins with {','.join(header)!r}; expected the header 'filename,label'")
        return []
    rows: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        if len(line) != 2 or not all(line):
            problems.add(f"{path.name}, line {number},", f"is {','.join(line)!r}; expected a file name and a label")
        elif (row := (line[0], line[1])) in rows:
            problems.add(f"{path.name}, line {number},", f"repeats line {rows[row]} ({','.join(line)})")
        else:
            rows[row] = number
    return list(rows)


def _check(listing: _Listing, problems: Problems) -> None:
    """Counts of classes and images, each class in one split, each image there and one class's only."""
    splits: dict[str, str] = {}
    owners: dict[Location, str] = {}
    for split, expected in zip(_SPLITS, FACTS.split, strict=True):
        if len(listing[split]) != expected:
            problems.add(split, f"has {len(listing[split])} classes; expected {expected}")
        for label, images in sorted(listing[split].items()):
            if splits.setdefault(label, split) != split:
                problems.add(f"{split}: class {label}", f"is in {splits[label]} too")
            if len(images) != FACTS.shape[1]:
                problems.add(f"{split}: {label}", f"has {len(images)} images; expected {FACTS.shape[1]}")
            missing = [name for name, found in sorted(images.items()) if not found]
            if len(missing) == len(images):
                problems.add(f"{split}: {label}", f"has none of its {len(images)} images there")
            elif len(missing) > 3:
                what = f"lacks {len(missing)} of its {len(images)} images (the first is {missing[0]})"
                problems.add(f"{split}: {label}", what)
            else:
                for name in missing:
                    problems.add(f"{split}: {label}/{name}", "is not there")
            for name, found in images.items():
                owner = owners.setdefault(found[0], label) if found else label
                if owner != label:
                    problems.add(f"{split}: {label}/{name}", f"is listed as '{owner}' too")


class _Decoded(NamedTuple):
    """An image as RGB bytes of shape `(84, 84, 3)`, and its size and mode as it came."""

    pixels: UInt8[np.ndarray, "84 84 3"]
    size: tuple[int, int]
    mode: str


def _image(sources: Sources, resample: str, locations: list[Location]) -> _Decoded | DataError:
    """The image that lies in one location, or in several as the same bytes; or what is wrong with it."""
    where = " and ".join(map(str, locations))
    try:
        content, *others = {sources.read(location) for location in locations}
        if others:
            raise DataError("differs from place to place: remove what is wrong")
        image = pictures.opened(content, ("JPEG", "PNG"))
        with pictures.decoding():
            rgb = image.convert("RGB")
            small = rgb if image.size == (_SIDE, _SIDE) else rgb.resize((_SIDE, _SIDE), filter_named(resample))
            return _Decoded(np.asarray(small), image.size, image.mode)
    except DataError as error:
        return DataError(f"{error} (in {where})")
