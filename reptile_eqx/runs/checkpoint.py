"""A run under way, and its files: the checkpoint, and what its final measurements have seen so far."""

import hashlib
import io
import json
import sys
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
from filelock import FileLock, Timeout
from jaxtyping import PyTree

from ..files import data_directory, now
from .configuration import Configuration, Measurement, run_name
from .processes import as_json, first_process, read, write


def state_path(config: Configuration) -> Path:
    """Where a run's checkpoint lies: `data/runs/NAME-HASH/state.eqx`."""
    return data_directory() / "runs" / run_name(config, training_only=True) / "state.eqx"


def skeleton(make: Callable[[], PyTree]) -> tuple[PyTree, PyTree]:
    """What `make()` would return, without computing it: its arrays as shapes and dtypes, and all else it consists of.

    `eqx.combine(arrays, rest)` makes one of the two again, from shapes or from real arrays.
    """
    return eqx.partition(eqx.filter_eval_shape(make), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


@dataclass
class Training:
    """A run under way: the arrays of its `training.State`, on the host, and its learning curve so far.

    `path` is its checkpoint's. `settings` is what the run is, as JSON has it: a checkpoint of other
    settings is not its own. `diverged` says where the loss or a parameter stopped being finite, and is empty while all
    are. `commits` are those that had a part in it, in order.
    """

    config: Configuration
    path: Path
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
        """Put a new checkpoint in the place of the old one: a line of JSON, then the arrays."""
        arrays = io.BytesIO()
        eqx.tree_serialise_leaves(arrays, self.state)
        kept = {name: getattr(self, name) for name in ("iteration", "seconds", "curve", "diverged", "commits")}
        kept |= {"config": self.settings, "sha256": hashlib.sha256(arrays.getvalue()).hexdigest()}
        write(self.path, as_json(kept).encode() + b"\n" + arrays.getvalue())

    def resume(self) -> bool:
        """Take up the checkpoint where there is one; `state` already has its shapes and dtypes.

        A damaged one is set aside under another name, with a warning, and the training starts anew.
        """
        content = read(self.path)
        if content is None:
            return False
        try:
            kept, arrays = _parsed(content)
            if not self._is_own(kept):
                return False
            like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.state)
            self.state = jax.device_get(eqx.tree_deserialise_leaves(io.BytesIO(arrays), like))
        except (ValueError, EOFError, RuntimeError) as error:
            self._set_aside(error)
            return False
        here = self.commits
        for name in ("iteration", "seconds", "curve", "diverged", "commits"):
            setattr(self, name, kept[name])
        self.commits += [commit for commit in here if commit not in self.commits]
        return True

    def saved_iteration(self) -> int:
        """How far the checkpoint on disk is; 0 where there is none that is whole."""
        if not self.path.exists():
            return 0
        try:
            kept, _ = _parsed(self.path.read_bytes())
            return kept["iteration"] if self._is_own(kept) else 0
        except ValueError:
            return 0

    def differing(self) -> dict[str, tuple[Any, Any]]:
        """By setting, what the checkpoint on disk has and what this run has, where they differ but in `counts`."""
        content = read(self.path)
        try:
            kept = {} if content is None else _parsed(content)[0].get("config", {})
        except ValueError:
            return {}  # It is damaged, which `resume` tells.
        names = kept.keys() - set(self.config.counts)
        return {
            name: (kept[name], self.settings.get(name))
            for name in sorted(names)
            if kept[name] != self.settings.get(name)
        }

    def _is_own(self, kept: dict[str, Any]) -> bool:
        """Whether a checkpoint is of this training, not of one made before a default was changed.

        A curve that was measured otherwise than this run asks for is left behind.
        """
        differing = {name for name, value in kept.get("config", {}).items() if self.settings.get(name) != value}
        if differing - set(self.config.counts):
            kept["curve"] = []
        return not differing - set(self.config.measured)

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_suffix(".damaged")
        if first_process():
            self.path.replace(aside)
        warnings.warn(f"{self.path} is damaged ({error}): kept as {aside.name}, and training starts anew", stacklevel=4)

    def _seen_path(self, measurement: Measurement) -> Path:
        # Of these parameters and no others. Tasks are numbered, so that more of them only add to the same file.
        asked = {name: self.settings[name] for name in self.config.measured if name not in self.config.counts}
        digest = hashlib.sha256(as_json([measurement.name, asked], sort_keys=True).encode())
        for leaf in jax.tree.leaves(self.state):
            digest.update(np.asarray(leaf).tobytes())
        return self.path.with_name(f"seen-{digest.hexdigest()[:10]}.npz")

    def save_seen(self, measurement: Measurement, values: PyTree[np.ndarray]) -> None:
        """Keep what a final measurement has seen so far, with a leading axis of tasks."""
        content = io.BytesIO()
        np.savez(content, *jax.tree.leaves(values))
        write(self._seen_path(measurement), content.getvalue())

    def load_seen(self, measurement: Measurement) -> list[np.ndarray] | None:
        """The leaves of what `save_seen` kept, or `None` where there is nothing."""
        content = read(self._seen_path(measurement))
        if content is None:
            return None
        path = self._seen_path(measurement)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as leaves:
                return list(leaves.values())
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            warnings.warn(f"{path} is damaged ({error}): what it had seen is measured again", stacklevel=2)
            return None


def _parsed(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A checkpoint's header and its arrays; raises `ValueError` where they are not those that were written."""
    line, arrays = content.split(b"\n", 1) if b"\n" in content else (content, b"")
    kept = json.loads(line)
    if not isinstance(kept, dict) or not {"iteration", "seconds", "curve", "diverged", "commits"} <= kept.keys():
        raise ValueError("its first line is not a checkpoint's")
    # Earlier checkpoints have no digest.
    if kept.get("sha256", "") not in ("", hashlib.sha256(arrays).hexdigest()):
        raise ValueError("its arrays are not those that were written")
    return kept, arrays


@contextmanager
def locked(paths: Iterable[Path]) -> Generator[None]:
    """Hold these checkpoints against other processes. Of several that work together the first one does."""
    with ExitStack() as locks:
        for path in sorted(paths) if first_process() else ():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            try:
                locks.enter_context(lock.acquire(timeout=0))
            except Timeout:
                print(f"{now()}: waiting for another process that trains {path.parent.name}", file=sys.stderr)
                locks.enter_context(lock.acquire())
        yield
