"""Omniglot (Lake et al. 2011): 1,623 handwritten characters from 50 alphabets, each drawn by 20 people."""

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests
from jaxtyping import UInt8

from ..bars import tqdm
from ..files import data_directory
from ..nn import OmniglotNetwork
from . import pictures
from .archives import MOST_BYTES, Location, Sources, files_below, is_image
from .cache import cached, fingerprint
from .common import Block, DataError, Facts, ImageClasses, Unavailable, candidates, filter_named
from .problems import Problems

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# MD5 of the published zips.
_PARTS = {
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
_DRAWINGS = 20
_SIDE = 105

_LISTED = [line.split() for line in (Path(__file__).parent / "omniglot.txt").read_text().splitlines()]
ALPHABETS = {part: {name: int(count) for of, name, count in _LISTED if of == part} for part in _PARTS}
"""Characters of each alphabet, by part."""

FACTS = Facts("Omniglot", (1623, 20, 28, 28, 1), (1200, 0, 423), True, True, OmniglotNetwork)


def load_omniglot(
    directory: str | os.PathLike | None = None, *, resample: str = "nearest", download: bool = True
) -> ImageClasses:
    """Omniglot, reduced to 28×28: all 1,623 characters, background and evaluation sets together, 20 drawings each.

    Looked for in `directory`, or else in the directory that `$REPTILE_DATA` names, then in the project's `data/`, as
    the two published zips or unpacked; then the zips are downloaded. Decoded once into a cache, with a warning where a
    zip is whole but not the published one.

    **Arguments:**

    - `directory`: holds `omniglot/`, or is that folder.
    - `resample`: "nearest", which the authors used and keeps pixels 0 or 255, or "antialiased".
    - `download`: whether to download the zips where there is no copy.

    **Returns:** images of shape `(1623, 20, 28, 28, 1)`; raises `Unavailable` where Omniglot is nowhere to be had and
    `DataError` where a copy is not whole.
    """
    filter_named(resample)
    folder = _find(directory) or _download(directory, download)
    files = _files(folder)
    images, _ = cached(
        f"omniglot-{resample}",
        FACTS.shape,
        functools.partial(_decode, folder, files, resample),
        source=fingerprint(folder, files),
    )
    return ImageClasses(
        images=images,
        classes=tuple(
            f"{alphabet}/character{number:02d}"
            for part in _PARTS
            for alphabet, count in sorted(ALPHABETS[part].items())
            for number in range(1, count + 1)
        ),
        name="omniglot",
        origin=f"Omniglot, all 1,623 characters, 28×28 by {resample} reduction",
        facts=FACTS,
    )


def _find(directory: str | os.PathLike | None) -> Path | None:
    """The first place that has something of Omniglot."""
    for folder in candidates("omniglot", directory):
        if any(os.path.lexists(folder / f"{part}{ending}") for part in _PARTS for ending in (".zip", "")):
            return folder
    return None


def _download(directory: str | os.PathLike | None, allowed: bool) -> Path:
    folder = data_directory() / "omniglot"
    where = " nor in ".join(map(str, candidates("omniglot", directory)))
    how = (
        f"Omniglot is not in {where}. Put images_background.zip and images_evaluation.zip "
        f"(from {_URL}) into a folder omniglot/, and set REPTILE_DATA to the folder that holds it"
    )
    if not allowed:
        raise Unavailable(f"{how}, or allow the download")
    import pooch  # which warns in a notebook without ipywidgets, so only when it is needed

    pooch.get_logger().setLevel("WARNING")  # The bar tells of downloads, which a notebook would show in red.
    for part, md5 in _PARTS.items():
        try:
            with tqdm(desc=f"downloading {part}", unit="B", unit_scale=True) as bar:
                url, name = f"{_URL}{part}.zip", f"{part}.zip"
                pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, progressbar=bar)
        except (requests.RequestException, OSError, ValueError) as error:
            raise Unavailable(f"{how}. The download failed: {error}") from error
    return folder


def _files(folder: Path) -> list[str]:
    """The zips, and the images of a part without a zip, relative to the folder."""
    files = []
    for part in _PARTS:
        if os.path.lexists(folder / f"{part}.zip"):
            files.append(f"{part}.zip")
        elif (folder / part).is_dir():
            files += [f"{part}/{name}" for name in files_below(folder / part) if is_image(name)]
        else:
            raise DataError(f"{folder} has no {part}.zip and no folder {part}; expected one of them: copy it there")
    return files


def _decode(folder: Path, files: list[str], resample: str, write: Callable[[Block], object]) -> None:
    """Decode all drawings, a character at a time, and hand each to `write`; raises `DataError` for what is wrong."""
    problems = Problems()
    with Sources(folder, files, problems) as sources:
        found = {} if problems else _by_character(sources.images, problems)
        if not problems:
            _decode_found(found, sources, resample, write, problems)
    others = [file for file in sources.zips if _is_another(folder / file)]
    if problems:
        for file in others:
            problems.add(file, "is not the published one: its MD5 is another")
        raise problems.error(
            f"this copy of Omniglot is not whole ({folder}); what is wrong with it ({len(problems):,})",
            "Replace it by the published zips, or remove it to have them downloaded.",
        )
    if others:
        named = " and ".join(str(folder / file) for file in others)
        warnings.warn(f"not as published, by the MD5, though all is there that Omniglot has: {named}", stacklevel=5)


def _is_another(path: Path) -> bool:
    """Whether a zip is not the published one, which has 10 MB."""
    if path.stat().st_size > MOST_BYTES:
        return True
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != _PARTS[path.stem]


_Drawings = dict[tuple[str, str, str], dict[str, Location]]


def _by_character(locations: list[Location], problems: Problems) -> _Drawings:
    """Where drawings lie, by part, alphabet and character, then by name."""
    found: _Drawings = {}
    for location in locations:
        *_, part, alphabet, character, name = "", "", "", *location.path.split("/")
        of_source = location.file.split("/")[0].removesuffix(".zip") == part
        if of_source and name.endswith(".png") and "__MACOSX" not in location.path:
            drawings = found.setdefault((part, alphabet, character), {})
            if name in drawings:
                problems.add(location, f"is there a second time (as {drawings[name]})")
            drawings[name] = location
    for part, alphabets in ALPHABETS.items():
        missing = sorted(alphabets.keys() - {alphabet for of, alphabet, _ in found if of == part})
        if missing:
            listed = ", ".join(missing)
            problems.add(part, f"lacks {len(missing)} of its {len(alphabets)} alphabets: {listed}")
    return found


def _decode_found(
    found: _Drawings, sources: Sources, resample: str, write: Callable[[Block], object], problems: Problems
) -> None:
    """Every character's drawings; what is wrong is added to `problems`."""
    characters = [
        (part, alphabet, f"character{number:02d}")
        for part, alphabets in ALPHABETS.items()
        for alphabet, count in sorted(alphabets.items())
        for number in range(1, count + 1)
    ]
    for character in tqdm(characters, desc="decoding Omniglot", unit="character"):
        drawings, images = found.pop(character, {}), []
        if len(drawings) != _DRAWINGS:
            problems.add("/".join(character), f"has {len(drawings)} drawings; expected {_DRAWINGS}")
        for _, location in sorted(drawings.items()):
            try:
                images.append(_image(sources.read(location), resample))
            except DataError as error:
                problems.add(location, error)
        if not problems:
            write(np.stack(images)[None])
    for character in found:
        problems.add("/".join(character), "is not one of Omniglot's")


def _image(content: bytes, resample: str) -> UInt8[np.ndarray, "28 28 1"]:
    image = pictures.opened(content, ("PNG",), (_SIDE, _SIDE))
    with pictures.decoding():
        small = image.convert("1" if resample == "nearest" else "L").resize((28, 28), filter_named(resample))
        return np.asarray(small.convert("L"))[..., None]
