"""A run under way, and its files: the checkpoint, and what its final measurements have seen so far."""

import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..files import data_directory, explained, held, now, regular, sealed, unsealed
from .configuration import Configuration, Measurement, run_name
from .digests import digest
from .processes import as_json, first_process, read, set_aside, write

_CHECKPOINT, _SEEN = "checkpoint", "measured values"


def state_path(config: Configuration, data: str) -> Path:
    """Where a run's checkpoint lies: `data/runs/NAME-HASH-DATA/state.eqx`, by the digest of the data that it reads."""
    name = run_name(config, training_only=True) + (f"-{data[:8]}" if data else "")
    return data_directory() / "runs" / name / "state.eqx"


def skeleton(make: Callable[[], PyTree]) -> tuple[PyTree, PyTree]:
    """What `make()` would return, without computing it: its arrays as shapes and dtypes, and all else it consists of.

    `eqx.combine(arrays, rest)` makes one of the two again, from shapes or from real arrays.
    """
    return eqx.partition(eqx.filter_eval_shape(make), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


@dataclass
class Training:
    """A run under way: the arrays of its `training.State`, on the host, and its learning curve so far.

    `path` is its checkpoint's; `None` keeps none. `settings` is what the run is, as JSON has it: a checkpoint of other
    settings is not its own. `diverged` says where the loss or a parameter stopped being finite, and is empty while all
    are. `commits` are those that had a part in it, in order.
    """

    config: Configuration
    path: Path | None
    settings: dict[str, Any]
    state: PyTree = None
    iteration: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    diverged: str = ""
    commits: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.diverged) or self.iteration >= self.config.outer_iterations

    @property
    def stops(self) -> list[int]:
        """The iterations at which the learning curve is measured."""
        points = self.config.curve_points
        return sorted({round(self.config.outer_iterations * (i + 1) / points) for i in range(points)})

    def next_stop(self) -> int:
        """The iteration up to which training runs without a measurement."""
        return next((stop for stop in self.stops if stop > self.iteration), self.config.outer_iterations)

    def save(self) -> None:
        """Put a new checkpoint in the place of the old one: a line of JSON, then the arrays, sealed."""
        if self.path is None:
            return
        arrays = io.BytesIO()
        eqx.tree_serialise_leaves(arrays, self.state)
        kept = {name: getattr(self, name) for name in _KEPT} | {"config": self.settings, "date": now()}
        write(self.path, sealed(_CHECKPOINT, as_json(kept).encode() + b"\n" + arrays.getvalue()))

    def resume(self) -> bool:
        """Take up the checkpoint where there is one; `state` already has its shapes and dtypes.

        One that is damaged, or has a state of other shapes, is set aside, and the training starts anew.
        """
        if self.path is None or (content := read(self.path, _CHECKPOINT)) is None:
            return False
        try:
            kept, arrays = _parsed(content)
            if not self._is_own(kept):
                return False
            like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.state)
            self.state = jax.device_get(eqx.tree_deserialise_leaves(io.BytesIO(arrays), like))
        except (ValueError, EOFError, RuntimeError) as error:
            set_aside(self.path, error)
            return False
        here = self.commits
        for name in _KEPT:
            setattr(self, name, kept[name])
        self.commits += [commit for commit in here if commit not in self.commits]
        return True

    def forget(self) -> None:
        """Remove the checkpoint, or set aside what is in its place."""
        if self.path is not None and first_process():
            if self.path.is_dir():
                set_aside(self.path, ValueError("it is a folder"))
            with explained(self.path):
                self.path.unlink(missing_ok=True)

    def kept(self) -> dict[str, Any]:
        """What the checkpoint on disk says of itself; empty where there is none that is whole."""
        try:
            content = None if self.path is None else regular(self.path)
            return {} if content is None else _parsed(unsealed(_CHECKPOINT, content))[0]
        except ValueError:
            return {}  # `resume` tells.

    def saved_iteration(self) -> int:
        """How far the checkpoint on disk is; 0 where there is none that is whole."""
        kept = self.kept()
        return kept["iteration"] if kept and self._is_own(kept) else 0

    def differing(self) -> dict[str, tuple[Any, Any]]:
        """By setting, what the checkpoint on disk has and what this run has, where they differ but in `counts`."""
        there = self.kept().get("config", {})
        names = there.keys() - set(self.config.counts)
        return {
            name: (there[name], self.settings.get(name))
            for name in sorted(names)
            if there[name] != self.settings.get(name)
        }

    def _is_own(self, kept: dict[str, Any]) -> bool:
        """Whether a checkpoint is of this training, not of one made before a default was changed.

        A curve that was measured otherwise than this run asks for is left behind.
        """
        differing = {name for name, value in kept["config"].items() if self.settings.get(name) != value}
        if differing - set(self.config.counts):
            kept["curve"] = []
        return not differing - set(self.config.measured)

    def _seen_path(self, folder: Path, measurement: Measurement) -> Path:
        # Of these parameters and no others. Tasks are numbered, so that more of them only add to the same file.
        asked = {name: self.settings[name] for name in self.config.measured if name not in self.config.counts}
        text = as_json([measurement.name, asked], sort_keys=True)
        return folder / f"seen-{digest(map(np.asarray, jax.tree.leaves(self.state)), text)[:10]}.npz"

    def save_seen(self, measurement: Measurement, values: PyTree[np.ndarray]) -> None:
        """Keep what a final measurement has seen so far, with a leading axis of tasks."""
        if self.path is not None:
            content = io.BytesIO()
            np.savez(content, *jax.tree.leaves(values))
            write(self._seen_path(self.path.parent, measurement), sealed(_SEEN, content.getvalue()))

    def load_seen(self, measurement: Measurement, like: Callable[[], PyTree]) -> PyTree[np.ndarray] | None:
        """What `save_seen` kept, or `None` where there is nothing; `like()` is what one task gives, of this structure.
        It is asked for where something was kept, as it traces the measurement."""
        if self.path is None or (content := read(self._seen_path(self.path.parent, measurement), _SEEN)) is None:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                leaves = list(arrays.values())
        except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            set_aside(self._seen_path(self.path.parent, measurement), error)
            return None
        expected, structure = jax.tree.flatten(like())
        if [(x.shape[1:], x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in expected]:
            name = f"{self.config.name}, {measurement.name}"
            warnings.warn(
                f"{name}: its code has changed since tasks were measured; all are measured anew", stacklevel=2
            )
            return None
        return jax.tree.unflatten(structure, leaves)


_KEPT = ("iteration", "seconds", "curve", "diverged", "commits")


def _parsed(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A checkpoint's header and its arrays; raises `ValueError` for something else."""
    line, _, arrays = content.partition(b"\n")
    kept = json.loads(line)
    right = isinstance(kept, dict) and all(type(kept.get(name)) in types for name, types in _TYPES.items())
    if not right or kept["iteration"] < 0 or not all(isinstance(commit, str) for commit in kept["commits"]):
        raise ValueError("its first line is not a checkpoint's")
    points: list[Any] = [point.get("iteration") if isinstance(point, dict) else None for point in kept["curve"]]
    if any(type(point) is not int for point in points) or points != sorted({*points, -1})[1:]:
        raise ValueError("its curve is none")
    return kept, arrays


_TYPES = {
    "iteration": (int,), "seconds": (int, float), "curve": (list,), "diverged": (str,), "commits": (list,),
    "config": (dict,), "date": (str,),
}  # fmt: skip


@contextmanager
def locked(paths: Iterable[Path | None]) -> Generator[None]:
    """Hold these checkpoints against other processes. Of several that work together the first one does."""
    with ExitStack() as locks:
        for path in sorted(path for path in paths if path) if first_process() else ():
            locks.enter_context(held(path, f"training {path.parent.name}"))
        yield
