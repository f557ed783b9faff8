"""The files of folders and zips that strangers made: regular ones only, within limits, and nothing is unpacked."""

import copy
import io
import os
import threading
import zipfile
from contextlib import ExitStack
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from .common import DataError
from .problems import Problems

# No picture comes near this, nor a zip's directory of a million of them; what does would only fill the memory.
MOST_BYTES = 2**28


class Location(NamedTuple):
    """Where a file lies below a folder: by itself, or as the member of a zip."""

    file: str
    member: str | None = None

    def __str__(self) -> str:
        return self.file if self.member is None else f"{self.file}:{self.member}"

    @property
    def path(self) -> str:
        """Its folders and name, in the zip where it is in one."""
        return self.member or self.file


def is_image(name: str) -> bool:
    """Whether a name is that of a JPEG or PNG; a Mac's copies hold a `._NAME` beside each, which is none."""
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and "/._" not in f"/{name}"


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}): give yourself the right to read it")


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


def contents(path: Path, most: int | None = None) -> bytes:
    """A file's bytes; raises `DataError` where it is no regular one, cannot be read or has more than `most` bytes."""
    size = _size(path)
    if size > (most or MOST_BYTES):
        raise DataError(f"has {size:,} bytes; expected {most or MOST_BYTES:,} at most")
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error


def _size(path: Path) -> int:
    """A regular file's size: a named pipe would be waited for, a device read for ever."""
    try:
        if path.is_file():
            return path.stat().st_size
        if path.is_dir():
            raise DataError("is a folder; expected a file")
        if path.exists():
            raise DataError("is no regular file")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    raise DataError("is a link that leads nowhere" if path.is_symlink() else "is not there")


class _Frugal(io.BufferedReader):
    """A file of a zip, whose directory is read at once and as long as it says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_BYTES:
            raise zipfile.BadZipFile(f"its directory has {size:,} bytes; expected {MOST_BYTES:,} at most")
        return super().read(size)


class Sources:
    """Files below a folder, and the members of those that are zips; a context that closes the zips.

    What is wrong with a zip as a whole is added to `problems`: no whole zip, a member that points outside it, two of
    one name.

    - `zips`: those that could be opened.
    - `images`: where JPEGs and PNGs lie, by their names.
    """

    def __init__(self, folder: Path, files: list[str], problems: Problems):
        self._folder, self._problems = folder, problems
        self._members: dict[Location, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self.zips: list[str] = []
        self._open, self._lock = ExitStack(), threading.Lock()
        for file in files:
            if file.lower().endswith(".zip"):
                self._list(file)
        self.images = [Location(file) for file in files if is_image(file)]
        self.images += [location for location in self._members if is_image(location.path)]

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def _list(self, file: str) -> None:
        try:
            _size(self._folder / file)
            reader = self._open.enter_context(_Frugal(io.FileIO(self._folder / file)))
            archive = self._open.enter_context(zipfile.ZipFile(reader))
        except (DataError, OSError) as error:
            self._problems.add(file, f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error)
            return
        except Exception as error:  # what a damaged zip makes of zipfile is no closed list
            self._problems.add(file, f"is no whole zip archive ({error}): get it again, it was cut short or damaged")
            return
        self.zips.append(file)
        for member in archive.infolist():
            path = PureWindowsPath(member.filename)  # to which / and \ are separators
            location = Location(file, path.as_posix())
            if path.anchor or ".." in path.parts:
                self._problems.add(location, f"points outside the archive: get {file} from somebody else")
            elif member.is_dir():
                continue
            elif location in self._members:
                self._problems.add(location, "is in the archive twice: pack it anew")
            else:
                self._members[location] = archive, member

    def read(self, location: Location) -> bytes:
        """A file's or member's bytes, on any thread; raises `DataError` where they cannot be read whole."""
        if location.member is None:
            return contents(self._folder / location.file)
        archive, member = self._members[location]
        if member.flag_bits & 0x41:
            raise DataError("is encrypted: pack it anew without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise DataError("is neither stored nor deflated: pack it anew as usual")
        if member.file_size > MOST_BYTES:
            raise DataError(f"has {member.file_size:,} bytes; expected {MOST_BYTES:,} at most")
        longer = copy.copy(member)
        longer.file_size += 1  # or what is beyond the declared size would be left out unseen
        try:
            with self._lock, archive.open(longer) as opened:
                content = opened.read(longer.file_size)
        except Exception as error:  # what a damaged zip makes of zipfile is no closed list
            raise DataError(f"cannot be read ({str(error) or type(error).__name__})") from error
        if len(content) != member.file_size:
            raise DataError(f"has another size than the {member.file_size:,} bytes that it declares")
        return content
