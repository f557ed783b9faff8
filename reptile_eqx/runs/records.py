"""What is kept of finished runs, and of what they were made with."""

import dataclasses
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from .. import files
from .configuration import Configuration, run_name
from .processes import as_json


@dataclass(frozen=True)
class Record:
    """What is kept of a finished run.

    - `name`: the run's name and the hash of its configuration.
    - `kind`, `config`: the configuration's class and fields.
    - `status`: "finished"; "diverged" where the loss or a parameter stopped being finite, "not finite" where all of
      these are and something that was measured is not.
    - `curve`: what was measured along training, each with its `iteration`.
    - `results`: what was measured at the end.
    - `made`: data, device, processor, versions, the commits that had a part in it, date, how many runs were trained at
      once, seconds of the turns that this one had and of compilation; `digests` of the data and of the parameters'
      shapes; where it diverged, if it did.
    - `more`: what a later version of this package has added.
    """

    name: str
    kind: str
    config: dict[str, Any]
    status: str
    curve: list[dict[str, Any]]
    results: dict[str, Any]
    made: dict[str, Any]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def plain(config: Configuration) -> dict[str, Any]:
    """A configuration's fields as a record keeps them."""
    return json.loads(as_json(dataclasses.asdict(config)))


def record_folders(figures: str | os.PathLike | None = None) -> list[Path]:
    """Where records may lie: with the figures asked for, with the project's own, and with the states."""
    folders = [Path(figures)] if figures else []
    return [folder / "runs" for folder in (*folders, files.figures_directory(), files.data_directory())]


def read_record(path: Path) -> Record:
    """The record in a file; raises `ValueError` where there is none. What a later version has added is kept."""
    content = files.regular(path)
    if content is None:
        raise ValueError("it is not there")

    def refuse(word):
        raise ValueError(f"it has {word}, which is no JSON")

    kept = json.loads(content.decode(), parse_constant=refuse)
    fields = {field.name: field.type for field in dataclasses.fields(Record) if field.name != "more"}
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), _TYPES[name]) for name in fields):
        raise ValueError(f"its {', '.join(fields)} are not all there, as a record has them")
    if not all(isinstance(point, dict) and type(point.get("iteration")) is int for point in kept["curve"]):
        raise ValueError("its curve is no list of points with an `iteration`")
    if kept["status"] not in ("finished", "diverged", "not finite"):
        raise ValueError(f"its status is {kept['status']!r}; expected finished, diverged or not finite")
    if not isinstance(kept.get("more", {}), dict) or not isinstance(kept["made"].get("date", ""), str):
        raise ValueError("its `more` or its date is none")
    own = {name: kept.pop(name) for name in fields}
    return Record(**own, more=kept.pop("more", {}) | kept)


_TYPES = {"name": str, "kind": str, "config": dict, "status": str, "curve": list, "results": dict, "made": dict}


def _records_in(folder: Path, pattern: str) -> Iterator[Record]:
    """The records in a folder, by name; a file that is none is passed over, with a warning that names it."""
    for path in sorted(folder.glob(pattern)):
        try:
            yield read_record(path)
        except (ValueError, RecursionError) as error:
            warnings.warn(f"{path} is passed over, as {error}: remove it, or get it again", stacklevel=2)


def find_record(
    config: Configuration, figures: str | os.PathLike | None = None, digests: Mapping[str, str] | None = None
) -> Record | None:
    """The newest record of a configuration that was run before, here or elsewhere; `None` where there is none.

    `figures` is another folder of figures where to look. With `digests` (`digests.of_run`) the run read that data and
    trained parameters of those shapes; without, whatever data that was.
    """
    pattern = f"{glob.escape(run_name(config))}*.json"
    found = [record for folder in record_folders(figures) for record in _records_in(folder, pattern)]
    # A default that was changed since makes another run of the same name.
    same = [record for record in found if plain(config).items() >= record.config.items()]
    read = [record for record in same if digests in (None, record.made.get("digests"))]
    return max(read, key=lambda record: record.made.get("date", ""), default=None)


def record_path(folder: Path, config: Configuration, digests: Mapping[str, str]) -> Path:
    """Where a record is to be written: `NAME-HASH.json`, or where a run on other data has that, one with a digest."""
    path = folder / f"{run_name(config)}.json"
    try:
        return path if read_record(path).made.get("digests") == digests else _apart(path, digests)
    except ValueError:
        return path if not os.path.lexists(path) else _apart(path, digests)


def _apart(path, digests):
    text = as_json(digests, sort_keys=True)
    return path.with_name(f"{path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json")


def every_record(figures: str | os.PathLike | None = None) -> Iterator[Record]:
    """All records that there are; arguments as `find_record` has them."""
    for folder in record_folders(figures):
        yield from _records_in(folder, "*.json")


def environment(devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """What something is made with: device, the CPU's model, versions, commit, date."""
    devices = list(devices or jax.devices())
    packages = ("reptile-eqx", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "processor": _processor(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "commit": commit(),
        "date": files.now(),
    }


def _processor() -> str:
    """The CPU's model as its maker names it, where the system says."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def commit() -> str:
    """The checkout's commit, with `+` where files other than `figures/` differ from it; empty outside a checkout."""
    if not files.in_checkout() or shutil.which("git") is None:
        return ""

    def git(*arguments):
        command = ["git", "-C", str(files.CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
