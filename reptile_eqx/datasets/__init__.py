"""Images by class, from disk, from a download, or drawn by a program where there is neither."""

import os
import warnings

from . import glyphs, mini_imagenet, omniglot
from .common import DataError, Facts, ImageClasses, Unavailable, contact_sheet, describe
from .folders import Split, folder, split
from .glyphs import draw_glyphs
from .mini_imagenet import find_mini_imagenet, load_mini_imagenet
from .omniglot import load_omniglot

__all__ = [
    "FACTS", "DataError", "Facts", "ImageClasses", "Split", "Unavailable", "contact_sheet", "describe", "draw_glyphs",
    "find_mini_imagenet", "folder", "load", "load_mini_imagenet", "load_omniglot", "split",
]  # fmt: skip

FACTS = {"omniglot": omniglot.FACTS, "mini-imagenet": mini_imagenet.FACTS, "glyphs": glyphs.FACTS}
"""The datasets that `load` knows, and what holds of each without a copy of it."""


def __dir__() -> list[str]:
    return __all__


def load(
    name: str, directory: str | os.PathLike | None = None, *, fall_back: bool = False, verify: bool = False
) -> ImageClasses:
    """A dataset by its name, "omniglot", "mini-imagenet" or "glyphs".

    **Arguments:**

    - `name`: which dataset.
    - `directory`: where to look first, instead of the directory that `$REPTILE_DATA` names; it holds `omniglot/` and
      `mini-imagenet/`.
    - `fall_back`: whether glyphs, with a warning, may stand in for an Omniglot that is nowhere to be had. Data that is
      there but damaged is an error all the same, and nothing stands in for Mini-ImageNet.
    - `verify`: whether the digest of a large cache is compared in any case, which takes seconds, not once a day.

    **Returns:** `ImageClasses`; raises `Unavailable` where the data is nowhere to be had, `DataError` where it is
    damaged, `ValueError` for an unknown name.
    """
    if name not in FACTS:
        folder_there = f". A folder of pictures is for datasets.folder({name!r})" if os.path.isdir(name) else ""
        raise ValueError(f"unknown dataset {name!r}; there are {', '.join(FACTS)}{folder_there}")
    if name == "glyphs":
        return draw_glyphs()
    if name == "mini-imagenet":
        return load_mini_imagenet(directory, verify=verify)
    try:
        return load_omniglot(directory)
    except Unavailable as error:
        if not fall_back:
            raise
        warnings.warn(f"made-up glyphs stand in for Omniglot: {error}", stacklevel=2)
        return draw_glyphs()
