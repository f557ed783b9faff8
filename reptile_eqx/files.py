"""Files: where the project keeps them, and the one way to write them."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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
    if place := home():
        return place / "data"
    import pooch  # which warns in a notebook without ipywidgets, so only when it is needed

    return Path(pooch.os_cache("reptile-eqx"))


def figures_directory() -> Path:
    """Where figures, tables and published records go: `figures/` at home, else in the working directory."""
    return (home() or Path.cwd()) / "figures"


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write `path` anew into, beside it, that takes its place when all is written: nobody reads half of it.

    Its folder is made where it is not there. Where something goes wrong, the old file stays, and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
