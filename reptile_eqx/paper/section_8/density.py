"""Few-shot density modelling, Section 8's last question: how probable are new drawings of a character never seen?

A task is a character of Omniglot, its examples are drawings, and the loss is bits per pixel under a small `PixelCNN`.
There are no labels to permute, so joint training, which a classifier or a sine wave leaves with nothing to learn, is a
strong baseline here: it learns what drawings have in common. The expectation, before anything was trained: it is ahead
before adaptation, and Reptile after it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from ...checks import number, whole
from ...datasets import ImageClasses
from ...evaluation import adaptation, mean_and_interval
from ...few_shot import FewShot
from ...inner import adapt
from ...meta import joint_training, reptile
from ...optimisers import annealed_sgd, reference_adam
from ...runs.configuration import Measurement, Numbers
from ...runs.records import Record
from ...tasks import Task
from ...training import Learner
from ..catalogue import PROFILES, Scale
from ..claims import Claims
from ..comparisons import in_pairs
from ..experiments import split_classes
from ..statistics import finished, over_seeds, written
from .pixelcnn import PixelCNN, bits_per_pixel, sample
from .variants import SPLITS

METHODS = {"Random initialisation": "random", "Joint training": "joint", "Reptile": "reptile"}
"""Algorithms as readers know them, and as `FewShotDensity` does."""

_QUERIES = 5
_SHOWN_CHARACTERS, _SHOWN_DRAWINGS = 3, 5


@dataclass(frozen=True)
class FewShotDensity:
    """A PixelCNN of Omniglot's drawings, and its bits per pixel on unseen characters, adapted to a few drawings.

    `algorithm` is "reptile", "joint" or "random" (no training, and `outer_iterations` = 0). Reptile takes
    `inner_iterations` steps on one character in each outer iteration; joint training one step, on `inner_batch_size`
    drawings of as many characters, so that it has `inner_iterations` times as many outer iterations for as many
    drawings. All use the paper's Adam, whose state rolls on; joint training's step size is the product of both.

    The seed shuffles the characters: the first `train_classes` are trained on, the next `validation_classes` are to
    choose settings on, and the rest is reported on. `held_out` says which of the latter two is measured.
    Adaptation takes full-batch steps, at each of the `eval_learning_rates` that are there for each of `eval_shots`;
    what is reported is after `eval_steps` of them, at the first.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = (
        "eval_shots", "eval_tasks", "eval_inner_iterations", "eval_learning_rates", "eval_steps", "held_out"
    )  # fmt: skip
    counts: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    precision: ClassVar[str] = "float32"

    algorithm: str = "reptile"
    train_classes: int = 1100
    validation_classes: int = 100
    channels: int = 16
    layers: int = 6
    learning_rate: float = 3e-3
    inner_batch_size: int = 5
    inner_iterations: int = 5
    training_shots: int = 10
    outer_step_size: float = 1.0
    outer_iterations: int = 800
    seed: int = 0
    curve_points: int = 2
    curve_tasks: int = 8
    eval_shots: tuple[int, ...] = (1, 5)
    eval_tasks: int = 25
    eval_inner_iterations: int = 16
    eval_learning_rates: tuple[tuple[float, ...], ...] = ((3e-3,), (3e-3,))
    eval_steps: tuple[int, ...] = (16, 16)
    held_out: str = "evaluation"

    def __post_init__(self):
        for field in fields(self):
            given = getattr(self, field.name)
            if field.type is int:
                whole(field.name, given, 0)
            elif field.type is float:
                number(field.name, given)
        for name, known in (("algorithm", METHODS.values()), ("held_out", ("validation", "evaluation"))):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; expected {' or '.join(known)}")
        if (self.algorithm == "random") != (self.outer_iterations == 0):
            raise ValueError(f"`outer_iterations` is {self.outer_iterations}; expected 0 for random, and only for it")
        for name in ("eval_learning_rates", "eval_steps"):
            if len(getattr(self, name)) != len(self.eval_shots):
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected one for each of {self.eval_shots} shots")
        if max(self.eval_steps) > self.eval_inner_iterations:
            raise ValueError(f"`eval_steps` is {self.eval_steps}; expected {self.eval_inner_iterations} at most")

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"density-{self.algorithm}-{self.outer_iterations}-seed{self.seed}"

    def tasks(
        self, data: ImageClasses, numbers: Numbers, part: str, *, ways: int = 1, shots: int, queries: int = 0
    ) -> Callable[[Array], Task]:
        """Drawings of one character, or of `ways`, of the `part` "training", "validation" or "evaluation"."""
        parts = split_classes(data, numbers["seed"], self.train_classes, self.validation_classes)
        classes = dict(zip(SPLITS, parts, strict=True))[part]
        of_class = FewShot(data.images, classes, ways, shots, queries)

        def drawings(key):
            return Task(*(None if some is None else _ink(some[0]) for some in of_class(key)))

        return drawings

    def learner(self, data: ImageClasses, numbers: Numbers) -> Learner:
        """The training that this configuration describes."""
        adam = reference_adam(numbers["learning_rate"])
        if self.algorithm == "joint":
            gradient = joint_training(bits_per_pixel, adam, batch_size=self.inner_batch_size)
            tasks = self.tasks(data, numbers, "training", ways=self.inner_batch_size, shots=1)
        else:
            gradient = reptile(bits_per_pixel, adam, steps=self.inner_iterations, batch_size=self.inner_batch_size)
            tasks = self.tasks(data, numbers, "training", shots=self.training_shots)
        return Learner(
            lambda key: PixelCNN(data.images.shape[2:4], channels=self.channels, layers=self.layers, key=key),
            tasks,
            gradient,
            annealed_sgd(numbers["outer_step_size"], max(1, self.outer_iterations)),
        )

    def measurements(self, data: ImageClasses, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """Bits per pixel of other drawings after 0 to `eval_inner_iterations` steps, by step size and step; at the end
        also drawings that the model makes up, before and after adaptation to five."""

        def at(shots, rates):
            tasks = self.tasks(data, numbers, self.held_out, shots=shots, queries=_QUERIES)

            def bits(state, key):
                task = tasks(key)

                def adapted(rate):
                    given = bits_per_pixel, reference_adam(rate), state.model, task, self.eval_inner_iterations
                    return adaptation(*given, lambda model: bits_per_pixel(model, task.query), state.inner)

                return jax.lax.map(adapted, jnp.array(rates))

            count = self.eval_tasks if final else self.curve_tasks
            return Measurement(f"{shots}-shot", count, bits, _rounded)

        along = tuple(map(at, self.eval_shots, self.eval_learning_rates))
        if not final or self.held_out == "validation":
            return along
        optimiser = reference_adam(self.eval_learning_rates[-1][0])
        tasks = self.tasks(data, numbers, self.held_out, shots=_SHOWN_DRAWINGS)

        def before(state, key):
            return sample(state.model, key, _SHOWN_DRAWINGS)

        def shown(state, key):
            support = tasks(key).support
            batches = jnp.broadcast_to(support, (self.eval_steps[-1], *support.shape))
            model = adapt(bits_per_pixel, optimiser, state.model, state.inner, batches).model
            return {"support": support, "after": sample(model, key, _SHOWN_DRAWINGS)}

        return (
            *along,
            Measurement("before", 1, before, packed),
            Measurement("shown", _SHOWN_CHARACTERS, shown, lambda values: {k: packed(v) for k, v in values.items()}),
        )


def _ink(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Ink 1 and paper 0, of pictures in which ink is 0 and paper 1."""
    return (x < 0.5).astype(x.dtype)


def _rounded(values):
    summary = mean_and_interval(values)
    return summary | {name: np.round(summary[name], 6).tolist() for name in ("mean", "ci95")}


def packed(drawings: np.ndarray) -> str | list[Any]:
    """Square drawings of zeros and ones, `(…, height, width, 1)`, as nested lists of texts, eight pixels a byte."""
    if drawings.ndim > 3:
        return [packed(some) for some in drawings]
    return np.packbits(drawings.astype(bool)).tobytes().hex()


def unpacked(text: str) -> np.ndarray:
    """A drawing of `packed`, `(height, width)`."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    side = int(len(bits) ** 0.5)
    return bits[: side**2].reshape(side, side)


class Tuned(NamedTuple):
    """What `tuning_runs` chose for an algorithm: of the training, and of the adaptation for each of `eval_shots`."""

    learning_rate: float
    eval_learning_rates: tuple[float, ...]
    eval_steps: tuple[int, ...]


TUNED = {
    "random": Tuned(1e-3, (3e-3, 1e-2), (15, 16)),
    "joint": Tuned(1e-2, (3e-4, 1e-3), (10, 15)),
    "reptile": Tuned(3e-3, (1e-3, 1e-3), (1, 5)),
}
_GRID, _EVAL_GRID = (1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3, 1e-2)
_SMOKE: dict[str, Any] = dict(
    outer_iterations=2,
    train_classes=16,
    validation_classes=4,
    channels=4,
    layers=1,
    curve_points=1,
    curve_tasks=2,
    eval_tasks=2,
    eval_inner_iterations=2,
)


def tuning_runs() -> dict[str, list[FewShotDensity]]:
    """What `TUNED` was chosen from: for each method the same grid of trainings, with a seed that is not reported, each
    adapted with the same grid of step sizes to drawings of validation characters."""
    settings: dict[str, Any] = dict(
        curve_points=0, held_out="validation", seed=100, eval_learning_rates=(_EVAL_GRID,) * 2
    )
    return {
        method: [
            _config(algorithm, learning_rate=rate, **settings)
            for rate in (_GRID[:1] if algorithm == "random" else _GRID)
        ]
        for method, algorithm in METHODS.items()
    }


def chosen(records: Sequence[Record]) -> Tuned:
    """The point of a method's grid with the fewest bits per pixel, and for each number of shots the best step size and
    number of steps from there; the point is judged by the mean over shots of what these give."""
    best = _best(records)
    places = [np.unravel_index(curves.argmin(), curves.shape) for curves in _curves(best)]
    rates = best.config["eval_learning_rates"]
    return Tuned(
        best.config["learning_rate"],
        tuple(rates[i][rate] for i, (rate, _) in enumerate(places)),
        tuple(int(step) for _, step in places),
    )


def _best(records):
    return min(finished(records), key=lambda record: sum(curves.min() for curves in _curves(record)))


def _curves(record):
    """Bits per pixel by step size and step, for each number of shots."""
    return [np.array(record.results[f"{shots}-shot"]["mean"]) for shots in record.config["eval_shots"]]


def runs(scale: Scale) -> dict[str, list[FewShotDensity]]:
    """What is reported: for each method its trainings, one for each seed. `quick` has those of `paper`, whose records
    are published."""
    smoke: dict[str, Any] = _SMOKE if scale.profile == "smoke" else {}
    settings = smoke | scale.settings(dict.fromkeys(PROFILES, {}))
    most = settings.get("eval_inner_iterations", FewShotDensity.eval_inner_iterations)
    # With one adaptation for all, `smoke` has fewer programs.
    adapted = {algorithm: TUNED["reptile" if smoke else algorithm] for algorithm in METHODS.values()}
    return {
        method: [
            _config(
                algorithm,
                learning_rate=TUNED[algorithm].learning_rate,
                eval_learning_rates=tuple((rate,) for rate in adapted[algorithm].eval_learning_rates),
                eval_steps=tuple(min(steps, most) for steps in adapted[algorithm].eval_steps),
                seed=seed,
                **settings,
            )
            for seed in scale.chosen_seeds({"smoke": 1, "quick": 5, "paper": 5})
        ]
        for method, algorithm in METHODS.items()
    }


def _config(algorithm, outer_iterations=FewShotDensity.outer_iterations, **settings):
    """With as many outer iterations as an algorithm needs for as many drawings as Reptile."""
    times = {"random": 0, "joint": FewShotDensity.inner_iterations}.get(algorithm, 1)
    return FewShotDensity(algorithm=algorithm, outer_iterations=times * outer_iterations, **settings)


def bits(records: Sequence[Record], shots: int, *, adapted: bool = True) -> dict[int, float]:
    """By seed, bits per pixel on unseen characters, before adaptation or after as many steps as were chosen for it."""
    found = {}
    for record in finished(records):
        place = list(record.config["eval_shots"]).index(shots)
        steps = record.config["eval_steps"][place] if adapted else 0
        found[record.config["seed"]] = float(_curves(record)[place][0][steps])
    return found


def claims(records: Mapping[str, Sequence[Record]]) -> Claims:
    """What was expected of the trainings of `runs`, by method, and whether it is so: `None` where
    the difference is 0 within its 95 % interval over seeds."""
    joint, meta, random = (records[method] for method in ("Joint training", "Reptile", "Random initialisation"))

    def before(of):
        return bits(of, 5, adapted=False)

    def gain(of, shots):
        start = bits(of, shots, adapted=False)
        return {seed: after - start[seed] for seed, after in bits(of, shots).items()}

    expected = {
        "before adaptation joint training's bits per pixel are below Reptile's": (before(joint), before(meta)),
        "adaptation to five drawings lowers Reptile's bits per pixel": (bits(meta, 5), before(meta)),
        "adaptation to five drawings lowers joint training's": (bits(joint, 5), before(joint)),
        "adaptation to five drawings takes more off Reptile's than off joint training's": (
            gain(meta, 5),
            gain(joint, 5),
        ),
        "adaptation to one drawing takes more off Reptile's than off joint training's": (gain(meta, 1), gain(joint, 1)),
        "after adaptation to five drawings Reptile's are below joint training's": (bits(meta, 5), bits(joint, 5)),
        "after adaptation to one drawing Reptile's are below joint training's": (bits(meta, 1), bits(joint, 1)),
        "adapted to five drawings, a random initialisation's stay above both": (
            {seed: max(bits(meta, 5)[seed], bits(joint, 5)[seed]) for seed in bits(meta, 5).keys() & bits(joint, 5)},
            bits(random, 5),
        ),
    }
    return {claim: in_pairs(more, less) for claim, (less, more) in expected.items()}


def table(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """Bits per pixel before and after adaptation, a row for each method: mean ± half the 95 % interval over seeds.

    Those of 1-shot and of 5-shot tasks are of other characters, so that they differ before adaptation as well.
    """

    def cell(values):
        return written(*over_seeds(list(values.values())), ".4f")

    return pd.DataFrame(
        [
            {"From": method}
            | {
                f"{shots}-shot, {when}": cell(bits(of, shots, adapted=when == "after"))
                for shots in finished(of)[0].config["eval_shots"]
                for when in ("before", "after")
            }
            for method, of in records.items()
        ]
    )


def tuning_table(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """What `tuning_runs` found: for each training of the grid its fewest bits per pixel, and with what adaptation."""
    rows = []
    for method, of in records.items():
        for record in of:
            row = {"From": method, "Step size in training": record.config["learning_rate"]}
            one = chosen([record])
            for i, shots in enumerate(record.config["eval_shots"]):
                least = _curves(record)[i].min()
                row[f"{shots}-shot"] = f"{least:.4f}: {one.eval_steps[i]} steps of {one.eval_learning_rates[i]:g}"
            rows.append(row | {"Chosen": "✓" if record is _best(of) else ""})
    return pd.DataFrame(rows)
