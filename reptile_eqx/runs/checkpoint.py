"""A run under way, and its files: the checkpoint, and what its final measurements have seen so far."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..files import data_directory
from .configuration import Configuration, Measurement, run_name
from .processes import as_json, read, write


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

    `diverged` says where the loss or a parameter stopped being finite, and is empty while all are. `commits` are those
    that had a part in it, in order.
    """

    config: Configuration
    state: PyTree = None
    iteration: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    diverged: str = ""
    commits: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The checkpoint's."""
        return state_path(self.config)

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
        kept = {name: getattr(self, name) for name in ("iteration", "seconds", "curve", "diverged", "commits")}
        content = io.BytesIO()
        content.write(as_json(kept | {"config": self._settings}).encode() + b"\n")
        eqx.tree_serialise_leaves(content, self.state)
        write(self.path, content.getvalue())

    def resume(self) -> bool:
        """Take up the checkpoint where there is one; `state` already has its shapes and dtypes."""
        content = read(self.path)
        if content is None:
            return False
        file = io.BytesIO(content)
        kept = self._header(file.readline())
        if kept is None:
            return False
        here = self.commits
        for name, value in kept.items():
            setattr(self, name, value)
        self.commits += [commit for commit in here if commit not in self.commits]
        self.state = jax.device_get(eqx.tree_deserialise_leaves(file, self.state))
        return True

    def saved_iteration(self) -> int:
        """How far the checkpoint on disk is; 0 where there is none."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            kept = self._header(file.readline())
        return kept["iteration"] if kept else 0

    @property
    def _settings(self) -> dict[str, Any]:
        """The configuration as JSON keeps it."""
        return json.loads(as_json(dataclasses.asdict(self.config)))

    def _header(self, line: bytes) -> dict[str, Any] | None:
        """A checkpoint's first line; `None` where it is of another training, made before a default was changed.

        A curve that was measured otherwise than this run asks for is left behind.
        """
        kept, settings = json.loads(line), self._settings
        differing = {name for name, value in kept.pop("config", {}).items() if settings.get(name) != value}
        if differing - set(self.config.measured):
            return None
        if differing - set(self.config.counts):
            kept["curve"] = []
        return kept

    def _seen_path(self, measurement: Measurement) -> Path:
        # Of these parameters and no others. Tasks are numbered, so that more of them only add to the same file.
        asked = {name: self._settings[name] for name in self.config.measured if name not in self.config.counts}
        digest = hashlib.sha256(json.dumps([measurement.name, asked], sort_keys=True).encode())
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
        with np.load(io.BytesIO(content), allow_pickle=False) as leaves:
            return list(leaves.values())
