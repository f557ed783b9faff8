"""Where the project keeps its data, its runs and its figures."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def in_checkout() -> bool:
    """Whether this package is imported from a checkout of the project rather than from an installed wheel."""
    return (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "notebooks").is_dir()


def home() -> Path | None:
    """The folder of `data/` and `figures/`: `$REPTILE_HOME` where it is set, else the checkout, if there is one."""
    if named := os.environ.get("REPTILE_HOME"):
        return Path(named).expanduser()
    return CHECKOUT if in_checkout() else None


def data_directory() -> Path:
    """Where downloads, caches and run states go: `data/` at home, or the user's cache for an installed wheel."""
    if home():
        return home() / "data"
    import pooch  # which warns in a notebook without ipywidgets, so only when it is needed

    return Path(pooch.os_cache("reptile-eqx"))


def figures_directory() -> Path:
    """Where figures, tables and published records go: `figures/` at home, else in the working directory."""
    return (home() or Path.cwd()) / "figures"


def given_data_directory(directory: str | os.PathLike | None = None) -> Path | None:
    """The directory of data that somebody named: `directory`, else `$REPTILE_DATA`, else `None`."""
    named = directory or os.environ.get("REPTILE_DATA")
    return Path(named).expanduser() if named else None
