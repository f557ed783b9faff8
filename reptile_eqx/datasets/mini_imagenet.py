"""Mini-ImageNet (Vinyals et al. 2016): 100 classes of 600 ImageNet pictures, split as by Ravi & Larochelle (2017)."""

import csv
import functools
import math
import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ..nn import MiniImageNetNetwork
from . import pictures
from .common import (
    Block,
    DataError,
    Facts,
    ImageClasses,
    Unavailable,
    cached,
    candidates,
    files_below,
    filter_named,
    fingerprint,
)

_SIDE = 84
FACTS = Facts("Mini-ImageNet", (100, 600, 84, 84, 3), (64, 16, 20), False, False, MiniImageNetNetwork)

_SPLITS = ("train", "val", "test")


class _Location(NamedTuple):
    """Where an image lies below the dataset's folder: a file, or a member of a zip."""

    file: str
    member: str | None = None

    def __str__(self) -> str:
        return self.file if self.member is None else f"{self.file}:{self.member}"


# Where each image lies, by split, class and file name; one that is nowhere has no locations.
_Listing = dict[str, dict[str, dict[str, list[_Location]]]]


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
    - `verify`: whether the cache's checksum is compared too, which takes seconds.

    **Returns:** images of shape `(100, 600, 84, 84, 3)`, mapped from the cache; raises `Unavailable` where there is no
    copy and `DataError`, listing all that is wrong, where a copy is not whole.
    """
    filter_named(resample)
    folder = find_mini_imagenet(directory)
    files = _files(folder)
    images, facts = cached(
        f"mini-imagenet-{resample}-{fingerprint(folder, files)}",
        FACTS.shape,
        functools.partial(_decode, folder, files, resample),
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
    return any((folder / f"{split}.csv").is_file() for split in _SPLITS)


def find_mini_imagenet(directory: str | os.PathLike | None = None) -> Path:
    """The folder that `load_mini_imagenet` would read; raises its `Unavailable` where there is none."""
    looked = candidates("mini-imagenet", directory)
    for folder in looked:
        if _has_lists(folder) or all((folder / split).is_dir() for split in _SPLITS):
            return folder
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
    return [f for f in files_below(folder) if _is_image(f) or f.lower().endswith(".zip") or f in lists]


def _is_image(name: str) -> bool:
    # A Mac's archives hold a "._NAME" beside each file.
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and "/._" not in f"/{name}"


def _decode(folder: Path, files: list[str], resample: str, write: Callable[[Block], object]) -> dict:
    """Decode all images, a class at a time, and hand each class to `write`.

    **Returns:** facts on the copy; raises `DataError` with everything that is wrong.
    """
    problems: list[str] = []
    with ExitStack() as stack:
        archives = _open_archives(folder, files, problems)
        for archive in archives.values():
            stack.enter_context(archive)
        locations = _locations(files, archives, problems)
        by_lists = _has_lists(folder)
        listing = _from_lists(folder, locations, problems) if by_lists else _from_folders(locations)
        _check(listing, problems)
        decode = functools.partial(_image, functools.partial(_content, folder, archives, threading.Lock()), resample)
        sizes, converted = _decode_listed(listing, decode, write, problems)
    if problems:
        listed = "\n  ".join(problems)
        raise DataError(
            f"this copy of Mini-ImageNet is not whole ({folder}); all that is wrong with it ({len(problems):,}):\n"
            f"  {listed}\n"
            "Nothing of it was kept: mend or replace what is named, then start again."
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
    listing: _Listing, decode: Callable, write: Callable[[Block], object], problems: list[str]
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
                        problems.append(f"{split}: {label}/{name} {image}")
                        continue
                    pixels.append(image.pixels)
                    sizes.append(image.size)
                    converted += image.mode != "RGB"
                if not problems:
                    write(np.stack(pixels)[None])
                bar.update(len(images))
    return sizes, converted


def _open_archives(folder: Path, files: list[str], problems: list[str]) -> dict[str, zipfile.ZipFile]:
    archives = {}
    for file in files:
        if file.lower().endswith(".zip"):
            try:
                archives[file] = zipfile.ZipFile(folder / file)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
                problems.append(f"{file} is no whole zip archive ({error}): its download was cut short or damaged")
    return archives


def _locations(files: list[str], archives: dict[str, zipfile.ZipFile], problems: list[str]) -> list[_Location]:
    """Every image in the folder and its zips. Nothing is unpacked; members that point outside are refused."""
    found = [_Location(file) for file in files if _is_image(file)]
    for file, archive in archives.items():
        for member in archive.namelist():
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                problems.append(f"{file} has a member {member} that points outside it; expected WNID/FILENAME")
            elif _is_image(member):
                found.append(_Location(file, member))
    return found


def _from_folders(locations: list[_Location]) -> _Listing:
    """Images that lie as SPLIT/WNID/FILENAME."""
    listing: _Listing = {split: {} for split in _SPLITS}
    for location in locations:
        parts = location.file.split("/")
        if location.member is None and len(parts) == 3 and parts[0] in listing:
            listing[parts[0]].setdefault(parts[1], {})[parts[2]] = [location]
    return listing


def _from_lists(folder: Path, locations: list[_Location], problems: list[str]) -> _Listing:
    """Images that `train.csv`, `val.csv` and `test.csv` name.

    One that lies in a folder of its class goes before others of its name; one in another class's folder is not it.
    """
    lists = {split: _read_list(folder / f"{split}.csv", problems) for split in _SPLITS}
    labels = {label for rows in lists.values() for _, label in rows}
    by_name: dict[str, list[tuple[str, _Location]]] = {}
    for location in locations:
        path = PurePosixPath(location.member or location.file)
        by_name.setdefault(path.name, []).append((path.parent.name, location))
    listing: _Listing = {split: {} for split in _SPLITS}
    for split, rows in lists.items():
        for name, label in rows:
            found = by_name.get(name, [])
            own = [location for parent, location in found if parent == label]
            listing[split].setdefault(label, {})[name] = own or [p for parent, p in found if parent not in labels]
    return listing


def _read_list(path: Path, problems: list[str]) -> list[tuple[str, str]]:
    """File names and labels; what is wrong with the list is added to `problems`."""
    try:
        header, *lines = csv.reader(path.read_text("utf-8-sig").splitlines())
    except FileNotFoundError:
        problems.append(f"{path.name} is not there; expected the three lists, or none of them")
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path.name} cannot be read as a list ({error})")
        return []
    except ValueError:
        header, lines = [], []
    if header != ["filename", "label"]:
        problems.append(f"{path.name} begins with {','.join(header)!r}; expected the header 'filename,label'")
        return []
    rows: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        if len(line) != 2 or not all(line):
            problems.append(f"{path.name}, line {number}, is {','.join(line)!r}; expected a file name and a label")
        elif (row := (line[0], line[1])) in rows:
            problems.append(f"{path.name}, line {number}, repeats line {rows[row]}: {','.join(line)}")
        else:
            rows[row] = number
    return list(rows)


def _check(listing: _Listing, problems: list[str]) -> None:
    """Counts of classes and images, each class in one split, each image there and one class's only."""
    splits: dict[str, str] = {}
    owners: dict[_Location, str] = {}
    for split, expected in zip(_SPLITS, FACTS.split, strict=True):
        if len(listing[split]) != expected:
            problems.append(f"{split} has {len(listing[split])} classes; expected {expected}")
        for label, images in sorted(listing[split].items()):
            if splits.setdefault(label, split) != split:
                problems.append(f"{split}: class {label} is in {splits[label]} too")
            if len(images) != FACTS.shape[1]:
                problems.append(f"{split}: {label} has {len(images)} images; expected {FACTS.shape[1]}")
            missing = [name for name, found in sorted(images.items()) if not found]
            if len(missing) == len(images):
                problems.append(f"{split}: {label} has none of its {len(images)} images there")
            else:
                problems += [f"{split}: {label}/{name} is not there" for name in missing]
            for name, found in images.items():
                owner = owners.setdefault(found[0], label) if found else label
                if owner != label:
                    problems.append(f"{split}: {label}/{name} is listed as {owner}'s too")


class _Decoded(NamedTuple):
    """An image as RGB bytes of shape `(84, 84, 3)`, and its size and mode as it came."""

    pixels: UInt8[np.ndarray, "84 84 3"]
    size: tuple[int, int]
    mode: str


def _content(folder: Path, archives: dict[str, zipfile.ZipFile], lock: threading.Lock, location: _Location) -> bytes:
    """A file's or member's bytes; raises `DataError` where they cannot be read. The lock is the archives'."""
    try:
        if location.member is None:
            return pictures.contents(folder / location.file)
        size = archives[location.file].getinfo(location.member).file_size
        if size <= pictures.MOST_BYTES:
            with lock:
                return archives[location.file].read(location.member)
    except DataError as error:
        raise DataError(f"{error}, in {location}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"cannot be read ({error}), in {location}") from error
    raise DataError(f"has {size:,} bytes, more than any picture, in {location}")


def _image(content: Callable[[_Location], bytes], resample: str, locations: list[_Location]) -> _Decoded | DataError:
    """The image that lies in one location, or in several as the same bytes; or what is wrong with it."""
    try:
        contents = {content(location) for location in locations}
        if len(contents) > 1:
            raise DataError(f"differs between {' and '.join(map(str, locations))}: remove what is wrong")
        return _pixels(contents.pop(), resample)
    except DataError as error:
        return error


def _pixels(content: bytes, resample: str) -> _Decoded:
    """Decode a whole JPEG or PNG, or raise `DataError`."""
    image = pictures.opened(content, ("JPEG", "PNG"))
    rgb = image.convert("RGB")
    small = rgb if image.size == (_SIDE, _SIDE) else rgb.resize((_SIDE, _SIDE), filter_named(resample))
    return _Decoded(np.asarray(small), image.size, image.mode)
