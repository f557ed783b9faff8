"""The paper's hyper-parameters and numbers (Tables 1 to 6), and the profiles at which notebooks run.

| profile | for |
|---|---|
| `smoke` | tests: every cell, tiny |
| `quick` | a first look: minutes on two cores, real Omniglot where it can be had |
| `paper` | the paper's scale; its records are kept in `figures/runs/` |
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .experiments import FewShotClassification, SineAnalysis, SineRegression

PROFILES = ("smoke", "quick", "paper")

SINE_WAVES = "sine waves, drawn from the seed"
"""Where the data of Sections 4 and 5 comes from, as their records say it."""

TABLE_3 = {
    5: dict(
        learning_rate=1e-3,
        inner_batch_size=10,
        inner_iterations=5,
        training_shots=10,
        outer_step_size=1.0,
        outer_iterations=100_000,
        meta_batch_size=5,
        eval_inner_iterations=50,
        eval_inner_batch_size=5,
    ),
    20: dict(
        learning_rate=5e-4,
        inner_batch_size=20,
        inner_iterations=10,
        training_shots=10,
        outer_step_size=1.0,
        outer_iterations=200_000,
        meta_batch_size=5,
        eval_inner_iterations=50,
        eval_inner_batch_size=10,
    ),
}
"""Table 3: Reptile's hyper-parameters on Omniglot, by ways."""

TABLE_4 = dict(
    learning_rate=1e-3,
    inner_batch_size=10,
    inner_iterations=8,
    training_shots=15,
    outer_step_size=1.0,
    outer_iterations=100_000,
    meta_batch_size=5,
    eval_inner_batch_size=(5, 15),
    eval_inner_iterations=50,
)
"""Table 4: Reptile's hyper-parameters on Mini-ImageNet. Its columns, 1-shot and 5-shot, differ in the evaluation's
batch alone, so that one training serves both."""

_FINN = dict(optimiser="sgd", loss="mean", outer_optimiser="adam", outer_step_size=1e-3, outer_iterations=40_000)
FINN = {
    ("omniglot", 5): _FINN | dict(learning_rate=0.4, meta_batch_size=32, inner_iterations=2, eval_inner_iterations=3),
    ("omniglot", 20): _FINN | dict(learning_rate=0.1, meta_batch_size=16, inner_iterations=6, eval_inner_iterations=5),
    ("mini-imagenet", 5): _FINN
    | dict(
        learning_rate=0.01, meta_batch_size=4, inner_iterations=6, eval_inner_iterations=10, outer_iterations=60_000
    ),
}
"""Finn et al.'s hyper-parameters of MAML and first-order MAML, by dataset and ways.

The last of the `inner_iterations` batches is the query, so that they take one inner step less. Every inner batch is the
whole support. Left out is that their program clips the meta-gradient on Mini-ImageNet, and that its inner loss is N
times the mean: with these step sizes, that breaks the training of our network (README).
"""

TABLE_1 = {
    "MAML + Transduction": {(1, 5): (48.70, 1.84), (5, 5): (63.11, 0.92)},
    "1st-order MAML + Transduction": {(1, 5): (48.07, 1.75), (5, 5): (63.15, 0.91)},
    "Reptile": {(1, 5): (47.07, 0.26), (5, 5): (62.74, 0.37)},
    "Reptile + Transduction": {(1, 5): (49.97, 0.32), (5, 5): (65.99, 0.58)},
}
"""Table 1: accuracy on Mini-ImageNet in percent and its ±, by algorithm and `(shots, ways)`."""

TABLE_2 = {
    "MAML + Transduction": {(1, 5): (98.7, 0.4), (5, 5): (99.9, 0.1), (1, 20): (95.8, 0.3), (5, 20): (98.9, 0.2)},
    "1st-order MAML + Transduction": {
        (1, 5): (98.3, 0.5),
        (5, 5): (99.2, 0.2),
        (1, 20): (89.4, 0.5),
        (5, 20): (97.9, 0.1),
    },
    "Reptile": {(1, 5): (95.39, 0.09), (5, 5): (98.90, 0.10), (1, 20): (88.14, 0.15), (5, 20): (96.65, 0.33)},
    "Reptile + Transduction": {
        (1, 5): (97.68, 0.04),
        (5, 5): (99.48, 0.06),
        (1, 20): (89.43, 0.14),
        (5, 20): (97.12, 0.32),
    },
}
"""Table 2: accuracy on Omniglot in percent and its ±, by algorithm and `(shots, ways)`."""

_SINE = {
    "smoke": dict(outer_iterations=20, curve_points=2, curve_tasks=4, eval_tasks=10),
    "quick": {},
    "paper": {},
}
_SINE_ANALYSIS = {
    "smoke": dict(outer_iterations=20, curve_points=2, curve_tasks=4),
    "quick": dict(curve_points=20, curve_tasks=200),
    "paper": dict(curve_points=20, curve_tasks=200),
}
_MAML = dict(training_points=10, inner_iterations=6, outer_optimiser="adam", outer_step_size=1e-3)
# Joint training steps on all 50 points at once. MAML and FOMAML adapt to ten random points for five steps and are
# judged by the 50 (`maml_setting_runs`).
_SINE_ALGORITHMS = {"joint": dict(inner_batch_size=50, inner_iterations=1), "maml": _MAML, "fomaml": _MAML}
_CLASSIFICATION = {
    "smoke": dict(outer_iterations=4, curve_points=2, curve_tasks=4, eval_tasks=4),
    "quick": dict(outer_iterations=2000, curve_points=4, curve_tasks=40, eval_tasks=300),
    "paper": {},
}
_SEEDS = {"smoke": (0, 1), "quick": (0, 1, 2), "paper": (0, 1, 2)}


def seeds_of(
    profile: str, seeds: int | Sequence[int] | None = None, defaults: dict[str, tuple[int, ...]] = _SEEDS
) -> tuple[int, ...]:
    """The training seeds of a profile; `seeds` overrides them: how many, or which."""
    _check(profile)
    if seeds is None:
        return defaults[profile]
    if isinstance(seeds, str) or not isinstance(seeds, int | Sequence):
        raise ValueError(f"`seeds` is how many, or which, seeds to train, such as 3 or [0, 2]; given {seeds!r}")
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    whole = all(isinstance(seed, int) and seed >= 0 for seed in chosen)
    if not chosen or not whole or len(set(chosen)) < len(chosen):
        raise ValueError(f"`seeds` is how many, or which, seeds (0 or greater, each once) to train; given {seeds!r}")
    return chosen


def sine_runs(
    profile: str, algorithm: str, seeds: int | Sequence[int] | None = None, outer_iterations: int | None = None
) -> list[SineRegression]:
    """Section 4's trainings at a profile, one for each seed; `algorithm` as in `SineRegression`."""
    settings = scaled(_SINE, profile, outer_iterations)
    if algorithm == "random":
        settings |= dict(outer_iterations=0, curve_points=0)
    settings = _SINE_ALGORITHMS.get(algorithm, {}) | settings
    return [SineRegression(algorithm=algorithm, seed=seed, **settings) for seed in seeds_of(profile, seeds)]


def maml_setting_runs(profile: str, outer_iterations: int | None = None) -> dict[str, list[SineRegression]]:
    """MAML on sine waves with other inner steps, tasks an iteration and inner step sizes, by setting, with one seed.

    `smoke` varies the step size alone, which takes no other program.
    """
    settings = _MAML | scaled(_SINE, profile, outer_iterations) | dict(curve_points=0)
    shapes = ((5, 1),) if profile == "smoke" else ((1, 1), (1, 4), (5, 1), (5, 4))
    return {
        f"{steps} inner step{'s' * (steps > 1)}, {tasks} task{'s' * (tasks > 1)}, α = {alpha}": [
            SineRegression(
                **settings | dict(inner_iterations=steps + 1, meta_batch_size=tasks, inner_step_size=alpha),
                algorithm="maml",
            )
        ]
        for steps, tasks in shapes
        for alpha in (0.01, 0.02)
    }


def analysis_runs(
    profile: str, algorithm: str, seeds: int | Sequence[int] | None = None, outer_iterations: int | None = None
) -> list[SineAnalysis]:
    """The same trainings, watched along the way for Section 5."""
    settings = _SINE_ALGORITHMS.get(algorithm, {}) | scaled(_SINE_ANALYSIS, profile, outer_iterations)
    return [SineAnalysis(algorithm=algorithm, seed=seed, **settings) for seed in seeds_of(profile, seeds)]


def _finn(algorithm: str, dataset: str, ways: int, shots: int) -> dict:
    """Finn et al.'s training for one cell: as many query as support images, on Mini-ImageNet 15 a class."""
    tail = 15 if dataset == "mini-imagenet" else shots
    return FINN[dataset, ways] | dict(
        algorithm=algorithm,
        training_shots=shots + tail,
        tail=tail,
        inner_batch_size=ways * shots,
        eval_inner_batch_size=ways * shots,
        eval_shots=(shots,),
    )


_DATA = {
    "omniglot": dict(dataset="omniglot", train_classes=1200),
    "mini-imagenet": dict(dataset="mini-imagenet", train_classes=64, validation_classes=16),
}
TRAININGS = {
    "omniglot-5way-reptile": _DATA["omniglot"] | dict(ways=5) | TABLE_3[5],
    "omniglot-20way-reptile": _DATA["omniglot"] | dict(ways=20) | TABLE_3[20],
    "mini-imagenet-5way-reptile": _DATA["mini-imagenet"] | dict(ways=5) | TABLE_4,
} | {
    f"{dataset}-{ways}way-{shots}shot-{algorithm}": _DATA[dataset]
    | dict(ways=ways)
    | _finn(algorithm, dataset, ways, shots)
    for dataset, ways in FINN
    for shots in (1, 5)
    for algorithm in ("fomaml", "maml")
}
"""The trainings that Tables 1 and 2 are made of, by name, in order of worth. Reptile's serve both shots."""


def trainings_of(profile: str, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Which of `TRAININGS` a profile does: all at the paper's scale, else 5-way Omniglot; `names` overrides it."""
    _check(profile)
    if isinstance(names, str):
        raise ValueError(f"`train` is a list of trainings, such as ['{next(iter(TRAININGS))}']; given {names!r}")
    chosen = tuple(names) if names is not None else tuple(TRAININGS)[: None if profile == "paper" else 1]
    unknown = [name for name in chosen if name not in TRAININGS]
    if unknown:
        raise ValueError(f"no training {', '.join(map(repr, unknown))}; there are {', '.join(TRAININGS)}")
    return chosen


def classification_runs(
    name: str,
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    eval_tasks: int | None = None,
    **data: Any,
) -> list[FewShotClassification]:
    """One of `TRAININGS` at a profile, a run for each seed.

    `outer_iterations` and `eval_tasks` override the profile's; `data` says what stands in for Omniglot, such as
    `dataset="glyphs", train_classes=400`. Raises `ValueError` for a name that is not there.
    """
    trainings_of(profile, [name])
    settings = TRAININGS[name] | scaled(_CLASSIFICATION, profile, outer_iterations) | data
    if eval_tasks is not None:
        settings["eval_tasks"] = eval_tasks
    return [FewShotClassification(seed=seed, **settings) for seed in seeds_of(profile, seeds)]


def order_of_tasks(profile: str, platform: str) -> str:
    """The `order` of a meta-batch's tasks in Tables 1 and 2: "exact", but "parallel" at the paper's scale on a GPU.

    There the tasks of all seeds make one batched program, and no loss of accuracy was seen (notebook 4).
    """
    return "parallel" if profile == "paper" and platform != "cpu" else "exact"


def _check(profile):
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; there are {', '.join(PROFILES)}")


def scaled(
    profiles: Mapping[str, Mapping[str, Any]], profile: str, outer_iterations: int | None = None
) -> dict[str, Any]:
    """A profile's settings, with `outer_iterations` overridden; raises `ValueError` for fewer than one."""
    _check(profile)
    settings = dict(profiles[profile])
    if outer_iterations is not None:
        if not isinstance(outer_iterations, int) or outer_iterations < 1:
            raise ValueError(f"`outer_iterations` is {outer_iterations!r}; expected a whole number, 1 or more")
        settings["outer_iterations"] = outer_iterations
    return settings
