"""Pictures in folders, one folder a class: any formats, sizes and modes, any numbers of pictures."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import ImageOps

from .. import checks
from ..bars import tqdm
from ..files import expanded
from .archives import contents, files_below
from .cache import cached, fingerprint
from .common import Block, DataError, ImageClasses, filter_named
from .pictures import decoding, opened, plain
from .problems import Problems

_NO_PICTURES = {"thumbs.db", "desktop.ini"}
_AT_ONCE = 256
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def folder(
    path: str | os.PathLike,
    size: int | Sequence[int] = 84,
    *,
    grey: bool = False,
    crop: bool = False,
    resample: str = "antialiased",
    skip: bool = False,
) -> ImageClasses:
    """Pictures of one's own: every folder at or below `path` that has pictures in it is a class.

    They are decoded once, on all cores, into a cache. Hidden files and `Thumbs.db` are passed over; any other file in a
    class's folder that is no whole picture is an error that counts all of them and lists some of each kind. Of an
    animation the first frame is taken, of 16 bits a channel the upper 8; what is transparent becomes white. A linked
    folder is read where it is first met.

    **Arguments:**

    - `path`: the folder of folders. A class is named by its folder below `path`.
    - `size`: of the images made, one number or `(height, width)`.
    - `grey`: one channel instead of three.
    - `crop`: cut the middle out of a picture of another shape, rather than squeeze all of it into `size`.
    - `resample`: how they are resized: "antialiased", or "nearest".
    - `skip`: leave out what is no whole picture, and say so in `origin`.

    **Returns:** images of shape `(class, drawing, height, width, channel)` or, where classes differ in how many they
    have, `(drawing, height, width, channel)` with `counts`; classes and their files in the order of their names.
    Raises `DataError` where there is no such folder, fewer than two classes, or something that is no picture.
    """
    try:
        root = expanded(path, "`path`")
    except ValueError as error:
        raise DataError(str(error)) from error
    if not os.path.isdir(root):
        there = "leads to no folder" if os.path.lexists(root) else "does not exist, or may not be looked at"
        what = "is a file; expected a folder: unpack it" if os.path.isfile(root) else there
        raise DataError(f"{root} {what}. Pictures of one's own lie as FOLDER/CLASS/PICTURE")
    sides = np.atleast_1d(size).tolist()
    sides = sides * 2 if np.ndim(size) == 0 else sides
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 10_000 for side in sides):
        raise ValueError(f"`size` is {size!r}; expected a number of pixels, 1 or more, or (height, width)")
    height, width = sides
    filter_named(resample)
    files = sorted(filter(_may_be_picture, files_below(root)), key=_class_then_name)
    name = f"folder-{height}x{width}-{'grey' if grey else 'rgb'}-{'crop-' * crop}{resample}"
    shape = (len(files), height, width, 1 if grey else 3)
    image = functools.partial(_image, root, (height, width), grey, crop, resample)
    images, facts = cached(
        name,
        shape,
        functools.partial(_decode, root, files, image, np.zeros(shape[1:], np.uint8), skip),
        source=fingerprint(root, files),
    )
    wrong = {file for file, _ in facts["problems"]}
    if wrong and not skip:
        raise _not_pictures(root, facts["problems"])
    there = [file for file in files if file not in wrong]
    if wrong:
        images = images[[file not in wrong for file in files]]
    counts = {label: len(list(some)) for label, some in groupby(there, os.path.dirname)}
    if len(counts) < 2:
        raise DataError(
            f"{root} has {len(there)} pictures in {len(counts)} classes; tasks are drawn from two or more, each a "
            "folder of pictures: FOLDER/CLASS/PICTURE"
        )
    of_one_size = len(set(counts.values())) == 1
    skipped = f", {len(wrong)} files skipped that are no pictures" if wrong else ""
    return ImageClasses(
        images=images.reshape(len(counts), -1, *shape[1:]) if of_one_size else images,
        classes=tuple(counts),
        name=root.resolve().name,
        origin=f"{len(there):,} pictures of {len(counts):,} classes from folders, {height}×{width} by {resample} "
        f"resizing{' of the middle' if crop else ''}{skipped}",
        facts=None,
        counts=None if of_one_size else tuple(counts.values()),
    )


class Split(NamedTuple):
    """Positions of the classes to train on, to choose settings by, and to evaluate on."""

    training: Int[np.ndarray, " class"]
    validation: Int[np.ndarray, " class"]
    evaluation: Int[np.ndarray, " class"]


def split(data: ImageClasses, shares: Sequence[float | int] = (0.64, 0.16, 0.2), seed: int = 0) -> Split:
    """A dataset's classes in random order, in three parts: no class is in two of them.

    `shares` are three parts of the whole that add up to 1, by default Mini-ImageNet's, or three numbers of classes that
    add up to all of them. A part above 0 has a class at least. This is not the split of the published initialisations
    (`load_pretrained(…).unseen`). Raises `ValueError` for other shares, and for those that leave nothing to train on.
    """
    count, seed = len(data.classes), checks.whole("seed", seed, 0)
    if np.ndim(shares) != 1 or not all(isinstance(s, int | float | np.number) and np.isfinite(s) for s in shares):
        raise ValueError(f"`shares` are three numbers, such as (0.64, 0.16, 0.2); given {shares!r}")
    whole = count if sum(shares) == count else 1
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - whole) > 1e-6 or not shares[0]:
        raise ValueError(
            f"`shares` are three numbers that add up to 1, or to the {count} classes, the first above 0; given "
            f"{tuple(shares)}"
        )
    wanted = [max(1, round(share * count / whole)) if share else 0 for share in shares[1:]]
    if sum(wanted) >= count:
        raise ValueError(f"{count} classes cannot be split as {tuple(shares)}: none would be left to train on")
    order, left = np.random.default_rng(seed).permutation(count), count - sum(wanted)
    return Split(*(np.sort(part) for part in np.split(order, [left, left + wanted[0]])))


def _class_then_name(file):
    *folders, name = file.split("/")
    return folders, name


def _may_be_picture(file):
    name = os.path.basename(file).lower()
    return "/." not in f"/{file}" and name not in _NO_PICTURES and ("/" in file or name.endswith(_ENDINGS))


def _image(root, size, grey, crop, resample, file):
    """One picture's bytes, or what is wrong with it."""
    try:
        if "/" not in file:
            raise DataError("lies in no class's folder")
        image = opened(contents(root / file))
        with decoding():
            image = plain(image, grey=grey)
            if image.size != size[::-1]:
                resized = functools.partial(ImageOps.fit, image) if crop else image.resize
                image = resized(size[::-1], filter_named(resample))
            return np.asarray(image).reshape(*size, -1)
    except DataError as error:
        return error


def _decode(
    root: Path, files: list[str], image: Callable, blank: Block, skip: bool, write: Callable[[Block], object]
) -> dict:
    """Hand the pictures to `write`, `blank` in the place of what is none, and return what is wrong with those."""
    problems = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(files), desc="decoding", unit="picture") as bar:
        for begin in range(0, len(files), _AT_ONCE):
            some = files[begin : begin + _AT_ONCE]
            found = list(pool.map(image, some))
            problems += [(file, str(one)) for file, one in zip(some, found, strict=True) if isinstance(one, DataError)]
            write(np.stack([blank if isinstance(one, DataError) else one for one in found]))
            bar.update(len(some))
    if problems and not skip:
        raise _not_pictures(root, problems)
    return {"problems": problems}


def _not_pictures(root, found):
    problems = Problems()
    for file, what in found:
        problems.add(file, what)
    return problems.error(
        f"{len(problems):,} files in {root} are no whole pictures",
        "Mend or remove them, or leave them out with skip=True.",
    )
