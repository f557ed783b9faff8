"""What is kept of finished runs, and of what they were made with."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
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
    - `status`: "finished", or "diverged" where the loss or a parameter stopped being finite.
    - `curve`: what was measured along training, each with its `iteration`.
    - `results`: what was measured at the end.
    - `made`: data, device, processor, versions, the commits that had a part in it, date, how many runs were trained at
      once, seconds of the turns that this one had and of compilation; where it diverged, if it did.
    """

    name: str
    kind: str
    config: dict[str, Any]
    status: str
    curve: list[dict[str, Any]]
    results: dict[str, Any]
    made: dict[str, Any]


def plain(config: Configuration) -> dict[str, Any]:
    """A configuration's fields as a record keeps them."""
    return json.loads(as_json(dataclasses.asdict(config)))


def record_folders(figures: str | os.PathLike | None = None) -> list[Path]:
    """Where records may lie: with the figures asked for, with the project's own, and with the states."""
    folders = [Path(figures)] if figures else []
    return [folder / "runs" for folder in (*folders, files.figures_directory(), files.data_directory())]


def read_record(path: Path) -> Record:
    """The record in a file."""
    return Record(**json.loads(path.read_text()))


def find_record(config: Configuration, figures: str | os.PathLike | None = None) -> Record | None:
    """The record of a configuration that was run before, here or elsewhere; `None` where there is none.

    `figures` is another folder of figures, whose records go before others.
    """
    for folder in record_folders(figures):
        path = folder / f"{run_name(config)}.json"
        if path.exists():
            record = read_record(path)
            # A default that was changed since makes another run of the same name.
            if plain(config).items() >= record.config.items():
                return record
    return None


def every_record(figures: str | os.PathLike | None = None) -> Iterator[Record]:
    """All records that there are; arguments as `find_record` has them."""
    for folder in record_folders(figures):
        yield from map(read_record, sorted(folder.glob("*.json")))


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
