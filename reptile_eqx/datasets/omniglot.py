"""Omniglot (Lake et al. 2011): 1,623 handwritten characters from 50 alphabets, each drawn by 20 people."""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import requests
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from ..files import data_directory
from ..nn import OmniglotNetwork
from .common import DataError, Facts, ImageClasses, Unavailable, cached, candidates, filter_named, fingerprint

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
    the two published zips or unpacked; then the zips are downloaded. Decoded once into a cache.

    **Arguments:**

    - `directory`: holds `omniglot/`, or is that folder.
    - `resample`: "nearest", which the authors used and keeps pixels 0 or 255, or "antialiased".
    - `download`: whether to download the zips where there is no copy.

    **Returns:** images of shape `(1623, 20, 28, 28, 1)`; raises `Unavailable` where Omniglot is nowhere to be had and
    `DataError` where a copy is not whole.
    """
    filter_named(resample)
    folder = _find(directory) or _download(directory, download)
    sources = [_source(folder, part) for part in _PARTS]
    files = [
        str(file.relative_to(folder))
        for source in sources
        for file in ([source] if source.is_file() else sorted(source.rglob("*.png")))
    ]
    images, _ = cached(
        f"omniglot-{resample}-{fingerprint(folder, files)}",
        FACTS.shape,
        lambda write: write(_decode(sources, resample)),
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
        if any((folder / f"{part}.zip").is_file() or (folder / part).is_dir() for part in _PARTS):
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

    for part, md5 in _PARTS.items():
        try:
            pooch.retrieve(f"{_URL}{part}.zip", f"md5:{md5}", fname=f"{part}.zip", path=folder, progressbar=True)
        except (requests.RequestException, OSError) as error:
            raise Unavailable(f"{how}. The download failed: {error}") from error
    return folder


def _source(folder: Path, part: str) -> Path:
    for path in (folder / f"{part}.zip", folder / part):
        if path.exists():
            if not os.access(path, os.R_OK):
                raise DataError(f"{path} cannot be read: give yourself the right to read it")
            return path
    raise DataError(f"{folder} has no {part}.zip and no folder {part}; expected one of them: copy it there")


def _decode(sources: list[Path], resample: str) -> UInt8[np.ndarray, "class drawing 28 28 1"]:
    images, problems = [], []
    with tqdm(total=FACTS.shape[0] * _DRAWINGS, desc="decoding Omniglot", unit="image") as bar:
        for part, source in zip(_PARTS, sources, strict=True):
            drawings = _drawings(source, part)
            for alphabet, count in sorted(ALPHABETS[part].items()):
                for number in range(1, count + 1):
                    found = drawings.pop((alphabet, f"character{number:02d}"), {})
                    images.append(_character(source, alphabet, number, found, resample, problems))
                    bar.update(_DRAWINGS)
            problems += [f"{'/'.join(extra)} in {source.name} is not one of Omniglot's" for extra in drawings]
    if problems:
        listed = "\n  ".join(problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise DataError(
            f"this copy of Omniglot is not whole ({sources[0].parent}):\n  {listed}\n"
            "Replace it by the published zips, or remove it to have them downloaded."
        )
    return np.stack(images)


def _character(source, alphabet, number, found, resample, problems):
    """One character's drawings, shape `(20, 28, 28, 1)`; what is wrong with them is added to `problems`."""
    name = f"{source.name}: {alphabet}/character{number:02d}"
    if len(found) != _DRAWINGS:
        problems.append(f"{name} has {len(found)} drawings; expected {_DRAWINGS}")
        return np.zeros((_DRAWINGS, 28, 28, 1), np.uint8)
    reduced = np.zeros((_DRAWINGS, 28, 28, 1), np.uint8)
    for i, (file, content) in enumerate(sorted(found.items())):
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if image.size != (_SIDE, _SIDE):
                    width, height = image.size
                    problems.append(f"{name}/{file} is {width}×{height} pixels; expected {_SIDE}×{_SIDE}")
                    continue
                small = image.convert("1" if resample == "nearest" else "L").resize((28, 28), filter_named(resample))
                reduced[i, :, :, 0] = np.asarray(small.convert("L"))
        except (OSError, SyntaxError, ValueError) as error:
            problems.append(f"{name}/{file} is no readable image ({error})")
    return reduced


def _drawings(source: Path, part: str) -> dict[tuple[str, str], dict[str, bytes]]:
    """Files by alphabet and character; raises `DataError` for missing alphabets and unreadable archives."""
    by_character: dict[tuple[str, str], dict[str, bytes]] = {}
    for name, content in _files(source):
        parts = PurePosixPath(name).parts
        if len(parts) >= 4 and parts[-4] == part and parts[-1].endswith(".png") and "__MACOSX" not in parts:
            by_character.setdefault((parts[-3], parts[-2]), {})[parts[-1]] = content
    missing = sorted(ALPHABETS[part].keys() - {alphabet for alphabet, _ in by_character})
    if missing:
        raise DataError(
            f"{source} lacks {len(missing)} of its {len(ALPHABETS[part])} alphabets: {', '.join(missing)}. "
            f"Expected {part}/ALPHABET/characterNN/XXXX_YY.png: get the published {part}.zip"
        )
    return by_character


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every PNG in a zip or below a folder. Nothing is unpacked."""
    if source.is_dir():
        for path in sorted(source.rglob("*.png")):
            yield path.relative_to(source.parent).as_posix(), path.read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".png"):
                    yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{source} is no whole zip archive ({error}): its download or copy was cut short or damaged; get it again"
        ) from error
