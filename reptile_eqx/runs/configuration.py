"""What a run must say of itself, and what it is called."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..checks import MOST_ITERATIONS, MOST_SEED, whole
from ..training import Learner, State
from .processes import as_json

Numbers = Mapping[str, Any]
"""By field, arrays: values that a compiled program takes as arguments, so that other values need no other program."""


class Measurement(NamedTuple):
    """Something measured on a trained state: `measure(state, key)` for each of `tasks` keys, then summarised.

    `measure` is part of a compiled program and returns a pytree of arrays; `summarise` turns that pytree, with a
    leading axis of tasks, into what a record keeps (JSON). One name stands for one `measure`, along training and at the
    end. A GPU takes up to `at_once` tasks at a time, which bounds its memory.
    """

    name: str
    tasks: int
    measure: Callable[[State, PRNGKeyArray], PyTree[Array]]
    summarise: Callable[[PyTree[np.ndarray]], Any]
    at_once: int = 500


@runtime_checkable
class Configuration(Protocol):
    """What `run` trains: a frozen dataclass whose fields are all that a result depends on, one seed of it.

    - `numbers`: the fields that may differ between runs of one compiled program, `seed` among them.
    - `measured`: the fields that matter to measurements alone, so that runs which differ in them share a training.
    - `counts`: of these, the fields that say only how many tasks are measured at the end.
    - `name`: what the run is called; `run_name` adds what tells it from others of that name.
    - `seed`, `outer_iterations`: which training this is, and how long.
    - `curve_points`: at how many evenly spaced iterations the learning curve is measured.
    - `precision`: of matrix products, as `jax.default_matmul_precision` takes it.

    Code that was changed under the same fields is not seen, but for the shapes of the parameters: give the class a
    field such as `version: int = 1`, and another default with each change of what it computes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    numbers: ClassVar[tuple[str, ...]]
    measured: ClassVar[tuple[str, ...]]
    counts: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def outer_iterations(self) -> int: ...
    @property
    def curve_points(self) -> int: ...
    @property
    def precision(self) -> str: ...

    def learner(self, data: PyTree, numbers: Numbers) -> Learner:
        """The training, on `data` (any pytree of arrays). Of `numbers` it takes these values, never its own fields."""
        ...

    def measurements(self, data: PyTree, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """What is measured along training or, with `final`, at its end; arguments as `learner` has them."""
        ...


def check(config: Configuration) -> None:
    """Raises `ValueError` for a configuration that makes no run: numbers that are none, a name that is no file's."""
    for name, least, most in (
        ("seed", 0, MOST_SEED),
        ("outer_iterations", 0, MOST_ITERATIONS),
        ("curve_points", 0, MOST_ITERATIONS),
    ):
        value = getattr(config, name)
        if not isinstance(whole(name, value, least, most), type(value)) and not isinstance(value, np.integer):
            raise ValueError(f"`{name}` is {value!r}; expected the integer {int(value)}")
    if not re.fullmatch(r"\w[^/\\\0]{0,199}", config.name):
        raise ValueError(f"a run is called {config.name!r}; expected the name of a file, without / and up to 200 long")


def numbers_of(config: Configuration) -> dict[str, np.ndarray]:
    """A configuration's own `numbers`: its seed as uint32, others in JAX's default floating-point type."""
    return {
        name: np.asarray(getattr(config, name), np.uint32 if name == "seed" else jnp.result_type(float))
        for name in config.numbers
    }


def same_program(config: Configuration) -> Hashable:
    """Equal for configurations that one compiled program can train: those that differ in their `numbers` alone."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    shapes = {name: np.shape(fields[name]) for name in config.numbers}
    return type(config), tuple((fields | shapes).items())


def run_name(config: Configuration, *, training_only: bool = False) -> str:
    """`NAME-HASH` of a configuration; with `training_only`, without its `measured`, which only measurements depend on.

    Only fields that differ from their defaults are hashed, so that a field added later, whose default is what was
    done before, leaves the names of earlier runs as they were.
    """
    changed = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != f.default and not (training_only and f.name in config.measured)
    }
    text = as_json([type(config).__name__, changed], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
