"""Where the project keeps its data, its runs and its figures."""

import os
from pathlib import Path

import pooch

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The checkout this package is imported from, or the working directory for an installed wheel."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "notebooks" / "1_sine_regression.ipynb").is_file() else Path.cwd()


def data_directory() -> Path:
    """Where downloads, caches and run states go: the checkout's `data/`, or the user's cache for an installed wheel."""
    checkout = root() / "data"
    return checkout if root() == _PACKAGE.parent else Path(pooch.os_cache("reptile-eqx"))


def figures_directory() -> Path:
    """Where figures, tables and run records go: `$REPTILE_FIGURES` where it is set, else `figures/` under `root()`."""
    return Path(os.environ.get("REPTILE_FIGURES") or root() / "figures")


def given_data_directory(directory: str | os.PathLike | None = None) -> Path | None:
    """The directory of data that somebody named: `directory`, else `$REPTILE_DATA`, else `None`."""
    named = directory or os.environ.get("REPTILE_DATA")
    return Path(named).expanduser() if named else None
