"""The paper's hyper-parameters and numbers (Tables 2, 3, 5 and 6), and the profiles at which notebooks run.

| profile | for |
|---|---|
| `smoke` | tests: every cell, tiny |
| `quick` | a first look: minutes on two cores, real Omniglot where it can be had |
| `paper` | the paper's scale; its records are kept in `figures/runs/` |
"""

from collections.abc import Sequence

from .experiments import FewShotClassification, SineAnalysis, SineRegression

PROFILES = ("smoke", "quick", "paper")

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

_GRADIENTS = dict(
    optimiser="sgd",
    learning_rate=3e-3,
    meta_batch_size=1,
    outer_iterations=40_000,
    eval_inner_iterations=5,
    eval_inner_batch_size=25,
    eval_shots=(5,),
)
TABLE_5 = _GRADIENTS | dict(inner_batch_size=25, outer_step_size=0.25)
"""Table 5: hyper-parameters of Section 6.2, plain SGD inside and outside, no meta-batch."""

TABLE_6 = {
    "4a": _GRADIENTS | dict(inner_batch_size=25, outer_step_size=1.0, training_shots=20),
    "4b": _GRADIENTS | dict(inner_iterations=4, outer_step_size=1.0, training_shots=20),
    "4c": _GRADIENTS | dict(inner_batch_size=100, inner_iterations=4, training_shots=20),
}
"""Table 6: hyper-parameters of Section 6.3, by panel of Figure 4; what a panel sweeps is left out."""

COMBINATIONS = {
    "g1": (1.0,),
    "g2": (0.0, 1.0),
    "g1+g2": (1.0, 1.0),
    "½(g1+g2)": (0.5, 0.5),
    "g3": (0.0, 0.0, 1.0),
    "g1+g2+g3": (1.0, 1.0, 1.0),
    "⅓(g1+g2+g3)": (1 / 3, 1 / 3, 1 / 3),
    "g4": (0.0, 0.0, 0.0, 1.0),
    "g1+g2+g3+g4": (1.0, 1.0, 1.0, 1.0),
    "¼(g1+g2+g3+g4)": (0.25, 0.25, 0.25, 0.25),
}
"""Figure 3's curves and their weights."""

TAIL = 5
"""Shots per class that a separate tail sets aside in Figure 4: one batch of 25."""

LINES = {
    "Reptile": dict(algorithm="reptile"),
    "FOMAML, shared tail, cycle": dict(algorithm="fomaml"),
    "FOMAML, shared tail, replacement": dict(algorithm="fomaml", schedule="replacement"),
    "FOMAML, separate tail, cycle": dict(algorithm="fomaml", tail=TAIL),
    "FOMAML, separate tail, replacement": dict(algorithm="fomaml", tail=TAIL, schedule="replacement"),
}
"""Figure 4's lines."""

SWEEPS = {
    "4a": ("inner_iterations", (2, 3, 4, 5, 6, 8)),
    "4b": ("inner_batch_size", (25, 50, 75, 100)),
    "4c": ("outer_step_size", (0.1, 0.3, 1.0, 3.0, 10.0)),
}
"""What each panel of Figure 4 sweeps, and over which values."""

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
# judged by the 50; the best of eight settings for MAML (1 or 5 steps, 1 or 4 tasks, step size 0.01 or 0.02) but for
# four tasks an iteration, which would see four times as many as Reptile.
_SINE_ALGORITHMS = {"joint": dict(inner_batch_size=50, inner_iterations=1), "maml": _MAML, "fomaml": _MAML}
_OMNIGLOT = {
    "smoke": dict(outer_iterations=4, curve_points=2, curve_tasks=4, eval_tasks=4, eval_inner_iterations=5),
    "quick": dict(outer_iterations=2000, curve_points=4, curve_tasks=40, eval_tasks=300),
    "paper": {},
}
_FIGURE_3 = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2),
    "quick": dict(outer_iterations=4000, curve_points=8, curve_tasks=50, eval_tasks=300),
    "paper": dict(curve_points=40),
}
_FIGURE_4 = {
    "smoke": dict(outer_iterations=2, curve_points=0, eval_tasks=2),
    "quick": dict(outer_iterations=1000, curve_points=1, curve_tasks=2, eval_tasks=300),
    "paper": dict(curve_points=10),
}
_ORDER = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2, eval_inner_iterations=5),
    "quick": dict(outer_iterations=10_000, curve_points=5, curve_tasks=40, eval_tasks=1000),
    "paper": dict(outer_iterations=10_000, curve_points=5, curve_tasks=40, eval_tasks=1000),
}
_ORDER_SEEDS = {"smoke": (0,), "quick": (0, 1, 2, 3, 4), "paper": (0, 1, 2, 3, 4)}
_ABLATION_SEEDS = {"smoke": (0,), "quick": (0,), "paper": (0, 1, 2)}
_SEEDS = {"smoke": (0, 1), "quick": (0, 1, 2), "paper": (0, 1, 2)}


def seeds_of(
    profile: str, seeds: int | Sequence[int] | None = None, defaults: dict[str, tuple[int, ...]] = _SEEDS
) -> tuple[int, ...]:
    """The training seeds of a profile; `seeds` overrides them: how many, or which."""
    _check(profile)
    if seeds is None:
        return defaults[profile]
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or min(chosen) < 0:
        raise ValueError(f"`seeds` is how many, or which, seeds (0 or greater) to train; given {seeds!r}")
    return chosen


def sine_runs(
    profile: str, algorithm: str, seeds: int | Sequence[int] | None = None, outer_iterations: int | None = None
) -> list[SineRegression]:
    """Section 4's trainings at a profile, one for each seed; `algorithm` as in `SineRegression`."""
    settings = _scaled(_SINE, profile, outer_iterations)
    if algorithm == "random":
        settings |= dict(outer_iterations=0, curve_points=0)
    settings = _SINE_ALGORITHMS.get(algorithm, {}) | settings
    return [SineRegression(algorithm=algorithm, seed=seed, **settings) for seed in seeds_of(profile, seeds)]


def analysis_runs(
    profile: str, algorithm: str, seeds: int | Sequence[int] | None = None, outer_iterations: int | None = None
) -> list[SineAnalysis]:
    """The same trainings, watched along the way for Section 5."""
    settings = _SINE_ALGORITHMS.get(algorithm, {}) | _scaled(_SINE_ANALYSIS, profile, outer_iterations)
    return [SineAnalysis(algorithm=algorithm, seed=seed, **settings) for seed in seeds_of(profile, seeds)]


def omniglot_runs(
    profile: str,
    ways: int,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    eval_tasks: int | None = None,
    dataset: str = "omniglot",
    train_classes: int = 1200,
) -> list[FewShotClassification]:
    """Table 3's trainings at a profile, one for each seed. `dataset` is "glyphs" where they stand in."""
    settings = TABLE_3[ways] | _scaled(_OMNIGLOT, profile, outer_iterations)
    if eval_tasks is not None:
        settings["eval_tasks"] = eval_tasks
    return [
        FewShotClassification(ways=ways, seed=seed, dataset=dataset, train_classes=train_classes, **settings)
        for seed in seeds_of(profile, seeds)
    ]


def figure_3_runs(
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    dataset: str = "omniglot",
    train_classes: int = 1200,
) -> dict[str, list[FewShotClassification]]:
    """Section 6.2's trainings, by combination. With k gradients a task has 5k shots, so that batches do not overlap."""
    scaled = _scaled(_FIGURE_3, profile, outer_iterations)
    return {
        label: [
            FewShotClassification(
                **TABLE_5 | scaled,
                algorithm="combination",
                weights=weights,
                inner_iterations=len(weights),
                training_shots=5 * len(weights),
                dataset=dataset,
                train_classes=train_classes,
                seed=seed,
            )
            for seed in seeds_of(profile, seeds, _ABLATION_SEEDS)
        ]
        for label, weights in COMBINATIONS.items()
    }


def figure_4_runs(
    panel: str,
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    dataset: str = "omniglot",
    train_classes: int = 1200,
) -> dict[str, dict[float, list[FewShotClassification]]]:
    """Section 6.3's trainings of a panel ("4a", "4b" or "4c"), by line and by swept value.

    A separate tail leaves 15 of the 20 drawings for the batches before it, so that its lines stop at batches of 75. 4c
    sweeps shared-tail FOMAML with full batches alone.
    """
    swept, values = SWEEPS[panel]
    values = values[::4] if profile == "smoke" else values
    scaled = _scaled(_FIGURE_4, profile, outer_iterations)
    runs = {}
    for line, settings in LINES.items():
        if panel == "4c" and line != "FOMAML, shared tail, cycle":
            continue
        largest = 5 * (20 - settings.get("tail", 0))
        runs[line] = {
            value: [
                FewShotClassification(
                    **TABLE_6[panel] | settings | scaled | {swept: value},
                    dataset=dataset,
                    train_classes=train_classes,
                    seed=seed,
                )
                for seed in seeds_of(profile, seeds, _ABLATION_SEEDS)
            ]
            for value in values
            if panel != "4b" or value <= largest
        }
    return runs


def order_runs(
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    dataset: str = "omniglot",
    train_classes: int = 1200,
) -> dict[str, list[FewShotClassification]]:
    """Table 3's 5-way training with the tasks of a meta-batch one after another and side by side, by order.

    Five seeds and 10,000 outer iterations; `quick` shows the records of these, when they are there.
    """
    scaled = _scaled(_ORDER, profile, outer_iterations)
    return {
        order: [
            FewShotClassification(
                **TABLE_3[5] | scaled, order=order, dataset=dataset, train_classes=train_classes, seed=seed
            )
            for seed in seeds_of(profile, seeds, _ORDER_SEEDS)
        ]
        for order in ("exact", "parallel")
    }


def _check(profile):
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; there are {', '.join(PROFILES)}")


def _scaled(profiles, profile, outer_iterations):
    _check(profile)
    settings = dict(profiles[profile])
    if outer_iterations is not None:
        if outer_iterations < 1:
            raise ValueError(f"`outer_iterations` is {outer_iterations}; expected 1 or more")
        settings["outer_iterations"] = outer_iterations
    return settings
