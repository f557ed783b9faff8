"""What is trained: every list of runs, by profile, each named once, in order of worth.

| profile | for |
|---|---|
| `smoke` | tests: every cell, tiny |
| `quick` | a first look in minutes on two cores: 5-way Omniglot is trained; of the rest, records are shown |
| `paper` | the paper's scale; its records are kept in `figures/runs/` |
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from ..checks import MOST_SEED, whole
from ..datasets import FACTS
from .experiments import FewShotClassification, SineRegression
from .settings import (
    ABLATIONS,
    COMBINATIONS,
    FASTER,
    FINN,
    LINES,
    SINE,
    SWEEPS,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TAIL,
    UNTRAINED,
)
from .watched import SineAnalysis

PROFILES = ("smoke", "quick", "paper")
NOTEBOOKS = ("1_sine_regression", "2_analysis", "3_classification", "4_ablations")
METHODS = {
    "Random initialisation": "random",
    "Joint training": "joint",
    "FOMAML": "fomaml",
    "MAML": "maml",
    "Reptile": "reptile",
}
"""Algorithms as readers know them, and as `SineRegression` does."""


class Entry(NamedTuple):
    """What is trained for one part of a notebook: which notebook that is, its name, and the configurations.

    - `runs`: lists of configurations, one for each seed, in dictionaries by what differs between them.
    - `paper_iterations`: how many outer iterations the paper has for it.
    """

    notebook: str
    name: str
    runs: dict[Any, Any]
    paper_iterations: int

    @property
    def configs(self) -> list[Any]:
        """All configurations, each once."""
        return list(dict.fromkeys(_leaves(self.runs)))


def literal(value: Any) -> Any:
    """What a text says in Python, such as "[0, 2]"; papermill hands lists over as texts. Anything else as it is."""
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(value)
    return value


class Scale(NamedTuple):
    """At which scale to train: a profile, and what overrides it; the parameters of notebooks.

    - `seeds`: how many, or which, training seeds.
    - `outer_iterations`, `eval_tasks`: how long, and how many tasks Tables 1 and 2 are evaluated on.
    - `dataset`: the name of what is there of Omniglot or stands in for it (`datasets.FACTS`).
    - `override`: what else is to be otherwise in every run that has such a field, by its name.
    - `platform`: "cpu" or "gpu". On a GPU `paper` takes the tasks of Tables 1 and 2 in parallel order: those of all
      seeds make one batched program, and no loss of accuracy was seen (notebook 4).
    """

    profile: str
    seeds: int | Sequence[int] | str | None = None
    outer_iterations: int | None = None
    eval_tasks: int | None = None
    dataset: str = "omniglot"
    platform: str = "cpu"
    override: Mapping[str, Any] | str = MappingProxyType({})

    def settings(self, profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """A profile's settings, with `outer_iterations` overridden; raises `ValueError` for what cannot be."""
        if self.profile not in PROFILES:
            raise ValueError(f"unknown profile {self.profile!r}; there are {', '.join(PROFILES)}")
        settings: dict[str, Any] = dict(profiles[self.profile])
        if self.outer_iterations is not None:
            settings["outer_iterations"] = whole("outer_iterations", self.outer_iterations)
        return settings

    def chosen_seeds(self, profiles: Mapping[str, int]) -> tuple[int, ...]:
        """The training seeds: those asked for, or 0 to n - 1, where the profile has n; raises `ValueError` as well."""
        seeds = literal(profiles[self.profile] if self.seeds is None else self.seeds)
        if isinstance(seeds, str) or not isinstance(seeds, int | float | Sequence):
            raise ValueError(f"`seeds` is how many, or which, seeds to train, such as 3 or [0, 2]; given {seeds!r}")
        if isinstance(seeds, int | float):
            return tuple(range(whole("seeds", seeds, most=1000)))
        chosen = tuple(whole("seeds", seed, 0, MOST_SEED) for seed in seeds)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"`seeds` is how many, or which, seeds (0 or greater, each once) to train; given {seeds!r}"
            )
        return chosen

    @property
    def order(self) -> str:
        """The order of a meta-batch's tasks in Tables 1 and 2."""
        return "parallel" if self.profile == "paper" and self.platform != "cpu" else "exact"


def _on(dataset: str) -> dict[str, Any]:
    """A dataset, as a configuration's settings."""
    train, validation, _ = FACTS[dataset].split
    return dict(dataset=dataset, train_classes=train, validation_classes=validation)


_SEEDS = {"smoke": 2, "quick": 3, "paper": 3}
_ONE_SEED = {"smoke": 1, "quick": 1, "paper": 3}
_SINE_SCALE = {
    "smoke": dict(outer_iterations=20, curve_points=2, curve_tasks=4, eval_tasks=10),
    "quick": {},
    "paper": {},
}
_SINE_ANALYSIS_SCALE = {
    "smoke": dict(outer_iterations=20, curve_points=2, curve_tasks=4),
    **dict.fromkeys(("quick", "paper"), dict(curve_points=20, curve_tasks=200)),
}
_CLASSIFICATION_SCALE = {
    "smoke": dict(outer_iterations=4, curve_points=2, curve_tasks=4, eval_tasks=4),
    "quick": dict(outer_iterations=2000, curve_points=4, curve_tasks=40, eval_tasks=300),
    "paper": {},
}
_FIGURE_3_SCALE = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2),
    "quick": dict(curve_points=40, eval_tasks=1000),
    "paper": dict(curve_points=40),
}
_FIGURE_4_SCALE = {
    "smoke": dict(outer_iterations=2, curve_points=0, eval_tasks=2),
    "quick": dict(outer_iterations=10_000, curve_points=0, eval_tasks=1000),
    "paper": dict(curve_points=10),
}
# The paper gives no scale for its remarks; a tenth of Table 3's iterations tells such settings apart.
_ABLATIONS_SCALE = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2, eval_shots=(1,)),
    "quick": dict(outer_iterations=2000, curve_points=4, curve_tasks=40, eval_tasks=300),
    "paper": dict(outer_iterations=10_000, curve_points=10, eval_tasks=1000),
}
# `quick` shows the records of `paper`, as what is to be seen here is small.
_FASTER_SCALE = {
    "smoke": _ABLATIONS_SCALE["smoke"],
    **dict.fromkeys(("quick", "paper"), dict(outer_iterations=10_000, curve_points=5, curve_tasks=40, eval_tasks=1000)),
}
# Every point that differs in a shape is compiled anew, so that the smallest profile has few of them, and no more than
# two that share a program: with one for each of two cores, they share their evaluation with those that are alone.
_SMOKE: dict[str, tuple[Any, ...]] = {
    "Figure 3": ("g1", "g2", "g1+g2"),
    "4a": (4,),
    "4b": (25,),
    "4c": (0.1, 10.0),
    "learning_rate": (1e-3, 3e-3),
    "inner_batch_size": (10,),
    "inner_iterations": (5,),
    "meta_batch_size": (5,),
    "adam_b1": (0.0,),
    "precision": ("float32", "tensorfloat32"),
}
_MAML: dict[str, Any] = dict(training_points=10, inner_iterations=6, outer_optimiser="adam", outer_step_size=1e-3)
_MAML_SHAPES = {
    "1 inner step, 1 task": (1, 1),
    "1 inner step, 4 tasks": (1, 4),
    "5 inner steps, 4 tasks": (5, 4),
    "5 inner steps, 1 task": (5, 1),
}
# Joint training steps on all 50 points at once. MAML and FOMAML adapt to ten random points for five steps and are
# judged by the 50 (`maml_setting_runs`).
_SINE_ALGORITHMS: dict[str, dict[str, Any]] = {
    "random": dict(outer_iterations=0, curve_points=0),
    "joint": dict(inner_batch_size=50, inner_iterations=1),
    "maml": _MAML,
    "fomaml": _MAML,
}


def sine_runs(scale: Scale, algorithm: str) -> list[SineRegression]:
    """Section 4's trainings, one for each seed; `algorithm` as in `SineRegression`."""
    settings: dict[str, Any] = SINE | scale.settings(_SINE_SCALE) | _SINE_ALGORITHMS.get(algorithm, {})
    return [SineRegression(algorithm=algorithm, seed=seed, **settings) for seed in scale.chosen_seeds(_SEEDS)]


def maml_setting_runs(scale: Scale) -> dict[str, list[SineRegression]]:
    """MAML on sine waves with other inner steps, tasks an iteration and inner step sizes, by setting, with one seed.

    `smoke` varies the step size alone, which takes no other program.
    """
    settings: dict[str, Any] = SINE | _MAML | scale.settings(_SINE_SCALE) | dict(curve_points=0)
    shapes = dict([*_MAML_SHAPES.items()][-1:]) if scale.profile == "smoke" else _MAML_SHAPES
    varied: dict[str, dict[str, Any]] = {
        f"{shape}, α = {alpha}": dict(inner_iterations=steps + 1, meta_batch_size=tasks, inner_step_size=alpha)
        for shape, (steps, tasks) in shapes.items()
        for alpha in (0.01, 0.02)
    }
    return {label: [SineRegression(algorithm="maml", **settings | own)] for label, own in varied.items()}


def analysis_runs(scale: Scale, algorithm: str) -> list[SineAnalysis]:
    """The trainings of `sine_runs`, watched along the way for Section 5."""
    settings: dict[str, Any] = SINE | scale.settings(_SINE_ANALYSIS_SCALE) | _SINE_ALGORITHMS.get(algorithm, {})
    return [SineAnalysis(algorithm=algorithm, seed=seed, **settings) for seed in scale.chosen_seeds(_SEEDS)]


def _finn(algorithm: str, dataset: str, ways: int, shots: int) -> dict[str, Any]:
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


TRAININGS: dict[str, dict[str, Any]] = {
    "omniglot-5way-reptile": _on("omniglot") | dict(ways=5) | TABLE_3[5],
    "omniglot-20way-reptile": _on("omniglot") | dict(ways=20) | TABLE_3[20],
    "mini-imagenet-5way-reptile": _on("mini-imagenet") | dict(ways=5) | TABLE_4,
} | {
    f"{dataset}-{ways}way-{shots}shot-{algorithm}": _on(dataset)
    | dict(ways=ways)
    | _finn(algorithm, dataset, ways, shots)
    for dataset, ways in FINN
    for shots in (1, 5)
    for algorithm in ("fomaml", "maml")
}
"""The trainings that Tables 1 and 2 are made of, by name, in order of worth. Reptile's serve both shots."""


def training_of(dataset: str, algorithm: str, shots: int, ways: int) -> str:
    """The name of the training (`TRAININGS`) behind a cell of Tables 1 and 2; `algorithm` is the row's."""
    short = {
        "Reptile": "reptile",
        "Reptile + Transduction": "reptile",
        "MAML + Transduction": f"{shots}shot-maml",
        "1st-order MAML + Transduction": f"{shots}shot-fomaml",
    }
    return f"{dataset}-{ways}way-{short[algorithm]}"


def trainings_of(profile: str, names: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Which of `TRAININGS` a profile does: all at the paper's scale, else 5-way Omniglot; `names` overrides it.

    Raises `ValueError` for names that are not there.
    """
    names = literal(names)
    if isinstance(names, str):
        raise ValueError(f"`train` is a list of trainings, such as ['{next(iter(TRAININGS))}']; given {names!r}")
    chosen = tuple(names) if names is not None else tuple(TRAININGS)[: None if profile == "paper" else 1]
    unknown = [name for name in chosen if name not in TRAININGS]
    if unknown:
        raise ValueError(f"no training {', '.join(map(repr, unknown))}; there are {', '.join(TRAININGS)}")
    return chosen


def classification_runs(scale: Scale, name: str) -> list[FewShotClassification]:
    """One of `TRAININGS`, a run for each seed. Raises `ValueError` for a name that is not there."""
    trainings_of(scale.profile, [name])
    settings: dict[str, Any] = TRAININGS[name] | scale.settings(_CLASSIFICATION_SCALE) | dict(order=scale.order)
    if name.startswith("omniglot"):
        settings |= _on(scale.dataset)
    if scale.eval_tasks is not None:
        settings["eval_tasks"] = scale.eval_tasks
    return [FewShotClassification(seed=seed, **settings) for seed in scale.chosen_seeds(_SEEDS)]


def figure_3_runs(scale: Scale) -> dict[str, list[FewShotClassification]]:
    """Section 6.2's trainings, by combination. With k gradients a task has 5k shots, so that batches do not overlap.

    `smoke` has sums of up to two gradients.
    """
    settings: dict[str, Any] = (
        TABLE_5 | scale.settings(_FIGURE_3_SCALE) | _on(scale.dataset) | dict(algorithm="combination")
    )
    labels = _SMOKE["Figure 3"] if scale.profile == "smoke" else COMBINATIONS
    return {
        label: [
            FewShotClassification(**settings, weights=COMBINATIONS[label], inner_iterations=k, training_shots=5 * k,
                                  seed=seed)
            for seed in scale.chosen_seeds(_ONE_SEED)
        ]
        for label, k in ((label, len(COMBINATIONS[label])) for label in labels)
    }  # fmt: skip


Panel = dict[str, dict[float | int, list[FewShotClassification]]]
"""Trainings of a panel of Figure 4, one for each seed, by line and by swept value."""


def figure_4_runs(scale: Scale, panel: str, tail: int = TAIL) -> Panel:
    """Section 6.3's trainings of a panel ("4a", "4b" or "4c"), by line and by swept value.

    A separate tail of 5 leaves 15 of the 20 drawings for the batches before it, so that its lines stop at batches of
    75. 4c sweeps shared-tail FOMAML with full batches alone, and has the untrained network. `smoke` has no lines with
    replacement.
    """
    (swept, values), smoke = SWEEPS[panel], scale.profile == "smoke"
    values = _SMOKE[panel] if smoke else values
    settings: dict[str, Any] = TABLE_6[panel] | scale.settings(_FIGURE_4_SCALE) | _on(scale.dataset)
    runs = {}
    for line, own in LINES.items():
        if (panel == "4c" and line != "FOMAML, shared tail, cycle") or (smoke and "schedule" in own):
            continue
        own = own | dict(tail=tail) if "tail" in own else own
        largest = 5 * (20 - own.get("tail", 0))
        fitting = [value for value in values if panel != "4b" or value <= largest]
        runs[line] = _by_value(swept, fitting, settings | own, scale.chosen_seeds(_ONE_SEED))
    if panel == "4c":
        # An outer step of 0 leaves the initialisation as it is, so that the cheapest inner loop will do.
        cheapest = dict(algorithm="reptile", inner_batch_size=1, inner_iterations=1, curve_points=0)
        runs[UNTRAINED] = _by_value(swept, [0.0], settings | cheapest, scale.chosen_seeds(_ONE_SEED))
    return runs


def figure_4_readings(dataset: str = "omniglot") -> dict[str, dict[str, Panel]]:
    """What Section 6.3 leaves open, read otherwise: trainings by panel, by what is read otherwise, of three seeds.

    Not all of them are on record. With batches of 25 images the mean loss with a step size of 0.075 is the sum with
    0.003. An untrained network is adapted to such batches, too. So one run stands for both there.
    """
    short = Scale("quick", 3, dataset=dataset)
    sums = {panel: figure_4_runs(short, panel) for panel in SWEEPS}
    means = {panel: _overridden(sums[panel], dict(loss="mean", learning_rate=0.075)) for panel in ("4b", "4c")}
    for line, points in means["4b"].items():
        points[25] = sums["4b"][line][25]
    means["4c"][UNTRAINED] = sums["4c"][UNTRAINED]
    tails = {panel: figure_4_runs(short, panel, tail=10) for panel in ("4a", "4b")}
    return {
        "SGD, 40,000 iterations": {panel: figure_4_runs(short._replace(profile="paper"), panel) for panel in SWEEPS},
        "Adam": _overridden(sums, dict(optimiser="adam")),
        "Mean loss": means,
        "Outer step of 0.25": _overridden({"4a": {"Reptile": sums["4a"]["Reptile"]}}, dict(outer_step_size=0.25)),
        "Tail of ten": {
            panel: {line: of for line, of in lines.items() if "tail" in LINES[line]} for panel, lines in tails.items()
        },
    }


def ablation_runs(scale: Scale, swept: str) -> dict[Any, list[FewShotClassification]]:
    """Trainings around Table 3 (5-way, Reptile) in which one of `ABLATIONS` is varied, by its value.

    Table 3's own setting is among them, the same runs in every sweep.
    """
    values = ABLATIONS[swept]
    values = _SMOKE.get(swept, values) if scale.profile == "smoke" else values
    settings: dict[str, Any] = TABLE_3[5] | scale.settings(_ABLATIONS_SCALE) | _on(scale.dataset)
    return _by_value(swept, values, settings, scale.chosen_seeds(_ONE_SEED))


def faster_runs(scale: Scale, swept: str) -> dict[str, list[FewShotClassification]]:
    """Table 3's 5-way training, a tenth as long, with one of `FASTER` varied, by its value.

    "order" has five seeds, "precision" three; `smoke` has one.
    """
    values = _SMOKE.get(swept, FASTER[swept]) if scale.profile == "smoke" else FASTER[swept]
    settings, seeds = (
        TABLE_3[5] | scale.settings(_FASTER_SCALE) | _on(scale.dataset),
        {"order": 5, "precision": 3}[swept],
    )
    return _by_value(swept, values, settings, scale.chosen_seeds(dict(smoke=1, quick=seeds, paper=seeds)))


def spread_runs() -> dict[str, list[FewShotClassification]]:
    """Table 3's 5-way training, a tenth as long: five seeds, and three initialisations on seed 0's split and tasks.

    The authors' program seeds the split, the tasks and the batches, always alike, and not the initialisation.
    """
    seeds = faster_runs(Scale("paper"), "order")["exact"]
    return {"seeds": seeds, "initialisations": [replace(seeds[0], initialisation=i) for i in range(3)]}


def finn_runs() -> dict[str, list[FewShotClassification]]:
    """First-order MAML's 1-shot 5-way row, a fifth as long, with what Finn et al.'s program does otherwise.

    That program's loss is N times the mean: with 5 classes its inner steps of 0.4 are steps of 2 on the mean. Its head
    takes the mean of each filter's features.
    """
    short = dict(outer_iterations=8_000, curve_points=5, curve_tasks=1_000)
    row: dict[str, Any] = TRAININGS["omniglot-5way-1shot-fomaml"] | short
    seeds = [FewShotClassification(**row, seed=seed) for seed in range(3)]
    return {
        f"{features}, inner steps of {step:g}": [
            replace(config, learning_rate=step, average_features=average) for config in seeds
        ]
        for features, average in (("features of all places", False), ("mean features", True))
        for step in (0.4, 2.0)
    }


# What changes with a swept value: joint training takes one step on a task's whole fifty images, the same that Reptile's
# five batches of ten go through.
_SET_WITH: dict[tuple[str, Any], dict[str, Any]] = {
    ("algorithm", "joint"): dict(inner_iterations=1, inner_batch_size=50)
}


def _by_value(
    swept: str, values: Iterable[Any], settings: dict[str, Any], seeds: Sequence[int]
) -> dict[Any, list[FewShotClassification]]:
    """A sweep's configurations, one for each seed, by the value of the field that is swept."""
    runs = {}
    for value in values:
        own: dict[str, Any] = settings | {swept: value} | _SET_WITH.get((swept, value), {})
        runs[value] = [FewShotClassification(**own, seed=seed) for seed in seeds]
    return runs


def entries(scale: Scale, train: Sequence[str] | None = None) -> dict[str, Entry]:
    """All that the notebooks train at a scale, by name, in order of worth; `train` is `trainings_of`'s `names`.

    The sine's trainings take minutes in all. Then come 5-way Omniglot, Figures 3 and 4, the other trainings of Reptile
    and what is varied around Table 3; last MAML's and first-order MAML's rows of Tables 1 and 2, which take most of
    the time.
    """
    sine, analysis, classification, ablations = NOTEBOOKS
    sine_iterations = SINE["outer_iterations"]
    methods = {method: sine_runs(scale, name) for method, name in METHODS.items()}
    watched = {method: analysis_runs(scale, name) for method, name in METHODS.items()}
    tables = [
        Entry(classification, name, {name: classification_runs(scale, name)}, TRAININGS[name]["outer_iterations"])
        for name in trainings_of(scale.profile, train)
    ]
    reptile = [table for table in tables if table.name.endswith("reptile")]
    first = [table for table in reptile if table.name == next(iter(TRAININGS))]
    varied = {swept: ablation_runs(scale, swept) for swept in ABLATIONS}
    faster = {swept: faster_runs(scale, swept) for swept in FASTER}
    found = [
        Entry(sine, "Figure 1", methods, sine_iterations),
        Entry(sine, "MAML's setting", maml_setting_runs(scale), sine_iterations),
        Entry(analysis, "Section 5", watched, sine_iterations),
        *first,
        Entry(ablations, "Figure 3", figure_3_runs(scale), TABLE_5["outer_iterations"]),
        *[
            Entry(ablations, f"Figure {panel}", figure_4_runs(scale, panel), TABLE_6[panel]["outer_iterations"])
            for panel in SWEEPS
        ],
        *[table for table in reptile if table not in first],
        Entry(ablations, "Around Table 3", varied, TABLE_3[5]["outer_iterations"]),
        Entry(ablations, "What may be faster", faster, TABLE_3[5]["outer_iterations"]),
        *[table for table in tables if table not in reptile],
    ]
    return overridden(found, scale.override)


def overridden(found: Iterable[Entry], override: Mapping[str, Any] | str) -> dict[str, Entry]:
    """Entries by name, whose runs have other settings, where they have such fields; raises `ValueError` for others."""
    found = list(found)
    known = sorted({field.name for entry in found for config in entry.configs for field in fields(config)})
    override = literal(override)
    if not isinstance(override, Mapping):
        raise ValueError(f"`settings` are values by name, such as {{'meta_batch_size': 2}}; given {override!r}")
    if unknown := sorted(override.keys() - set(known)):
        raise ValueError(f"`settings` has {', '.join(unknown)}, which no run has; there are {', '.join(known)}")
    return {entry.name: entry._replace(runs=_overridden(entry.runs, override)) for entry in found}


def _overridden(runs: Any, override: Mapping[str, Any]) -> Any:
    """The same runs with other settings, where they have such fields."""
    if isinstance(runs, dict):
        return {key: _overridden(child, override) for key, child in runs.items()}
    if isinstance(runs, list):
        return [_overridden(child, override) for child in runs]
    own = {field.name for field in fields(runs)}
    return replace(runs, **{name: value for name, value in override.items() if name in own})


def _leaves(runs: Any) -> Iterator[Any]:
    for node in runs.values() if isinstance(runs, dict) else runs:
        if isinstance(node, dict | list):
            yield from _leaves(node)
        else:
            yield node
