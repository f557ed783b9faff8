"""What is trained for Section 8's questions on images: lists of runs, by what differs between them.

Learning rates and regularisers' strengths were chosen among a few, as many for each side of a comparison
(`choosing_runs`), with a seed that is not reported. Reptile and fine-tuning are then judged on the characters to choose
by. Ordinary training is judged on its test drawings, of the seed that is not reported.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ...runs.records import Record
from ..catalogue import Scale
from ..statistics import finished
from .fine_tuning import FineTunedReptile, JointTraining
from .supervised import Supervised
from .variants import Variant

CHOOSING_SEED = 3
RATES = (1e-3, 3e-3)
"""Adam's learning rates that each network was tried with."""
SIDES_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Adam's learning rates that each side of the comparison with joint training was trained with."""
SGD_RATES = (0.1, 0.3, 1.0)
"""SGD's step sizes that each way of ordinary training was tried with."""
STEP_SIZE = 0.1
"""SGD's step size where ways of ordinary training have one."""

# 20-way tasks of 100 images in five mini-batches, one task an iteration.
_REPTILE: dict[str, Any] = dict(
    ways=20, train_classes=1100, validation_classes=100, learning_rate=3e-3, inner_batch_size=20, inner_iterations=5,
    training_shots=5, meta_batch_size=1, outer_iterations=1000, curve_points=0, curve_tasks=20, eval_shots=(1,),
    eval_tasks=100, eval_inner_iterations=10, eval_inner_batch_size=20,
)  # fmt: skip
# `smoke` has room for few programs, and takes any dataset of 600 classes.
_SMOKE: dict[str, Any] = dict(outer_iterations=1, train_classes=300, curve_tasks=2, eval_tasks=2)
_SMOKE_REPTILE: dict[str, Any] = dict(
    ways=5, inner_batch_size=10, training_shots=10, meta_batch_size=1, eval_inner_batch_size=5
)
_SMALLEST = {
    "depth": ("4 blocks", "6 blocks, skips"),
    "regularisers": ("none", "weight decay"),
    "ordinary": ("5 small steps", "one large step + a tenth of the term"),
    "fine-tuning": ("Joint training", "Reptile, 5-way"),
}
_SEEDS = {"smoke": 1, "quick": 6, "paper": 6}

DEPTHS: dict[str, dict[str, Any]] = {
    "4 blocks": {},
    "6 blocks": dict(blocks=6),
    "6 blocks, skips": dict(blocks=6, residual=True),
    "8 blocks": dict(blocks=8),
    "8 blocks, skips": dict(blocks=8, residual=True),
    "12 blocks": dict(blocks=12),
    "12 blocks, skips": dict(blocks=12, residual=True),
}
"""Networks, by name."""
FEW = 20
"""Training characters of the trainings that are to be regularised; with more, trainings this short leave no gap."""
_FEW: dict[str, Any] = dict(
    ways=5, train_classes=FEW, inner_batch_size=10, training_shots=10, outer_iterations=3000, eval_tasks=200,
    eval_inner_batch_size=5, eval_splits=("training", "evaluation"),
)  # fmt: skip
REGULARISERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "dropout": ("dropout", (0.03, 0.1, 0.3)),
    "weight decay": ("weight_decay", (0.03, 0.1, 0.3)),
    "label smoothing": ("label_smoothing", (0.03, 0.1, 0.3)),
    "pull towards φ": ("pull", (0.3, 1.0, 3.0)),
    "steps of adaptation": ("eval_inner_iterations", (3, 5, 20)),
}
"""What may close the gap, by name: a field and the strengths that it was tried with. Adaptation takes 10 steps where
none are said."""

ORDINARY: dict[str, dict[str, Any]] = {
    "5 small steps": {},
    "one large step": dict(one_step=True),
    "one large step + the term": dict(one_step=True, amplified=1.0),
    "one large step + a tenth of the term": dict(one_step=True, amplified=0.1),
    "5 small steps, half of the way": dict(outer_step_size=0.5),
}
"""Ways of ordinary training, by name."""

_TUNING: dict[str, Any] = dict(tuning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 0.1), tuning_steps=(5, 15, 50))
SIDES: dict[str, tuple[type, dict[str, Any]]] = {
    "Joint training": (JointTraining, _TUNING),
    "Reptile, 5-way": (
        FineTunedReptile,
        _REPTILE | _TUNING | dict(ways=5, inner_batch_size=10, training_shots=10, meta_batch_size=2),
    ),
    "Reptile, 20-way": (FineTunedReptile, _REPTILE | _TUNING),
}
"""What is fine-tuned, by name; each sees 100 images an iteration."""

CHOSEN: dict[str, dict[str, float]] = {
    "depth": dict.fromkeys(DEPTHS, 3e-3) | dict.fromkeys(("8 blocks", "12 blocks", "12 blocks, skips"), 1e-3),
    "ordinary": {"5 small steps": 0.3, "one large step": 0.3, "5 small steps, half of the way": 1.0},
    "fine-tuning": {"Joint training": 3e-3, "Reptile, 5-way": 3e-3, "Reptile, 20-way": 3e-3},
    "regularisers": {
        "dropout": 0.1, "weight decay": 0.1, "label smoothing": 0.03, "pull towards φ": 0.3, "steps of adaptation": 20,
    },
}  # fmt: skip
"""The learning rates and strengths that `chosen` finds in the records of `choosing_runs`, by question and name."""


def depth_runs(scale: Scale) -> dict[str, dict[str, list[Variant]]]:
    """Networks of several depths, by name, trained for as many iterations and for as many operations as four blocks."""
    named = _named(scale, "depth", DEPTHS)
    unseen: dict[str, Any] = dict(eval_splits=("evaluation",))
    equal = {name: _reptile(scale, unseen | own | _rate("depth", name)) for name, own in named.items()}
    fewer = {
        name: _reptile(scale, unseen | own | _rate("depth", name), 1 / operations(own["blocks"]))
        for name, own in named.items()
        if own
    }
    return {"as many iterations": equal, "as many operations": fewer}


def operations(blocks: int) -> float:
    """How many times the multiplications of the paper's four blocks a `DeepNetwork` takes for a 20-way task's image."""
    channels, outputs = 64, 20
    first, kernel = 9 * channels, 9 * channels**2
    four = 14**2 * first + (7**2 + 4**2 + 2**2) * kernel + 2**2 * channels * outputs
    return 1 + (blocks - 4) * 4**2 * kernel / four


def regulariser_runs(scale: Scale) -> dict[str, list[Variant]]:
    """Trainings on `FEW` characters, each with one thing that may close the gap, by its name and strength.

    The first has none, and is watched on the way. The last has more characters.
    """
    own: dict[str, dict[str, Any]] = {"none": dict(curve_points=6, curve_tasks=60)}
    for name, (field, _) in _named(scale, "regularisers", REGULARISERS).items():
        strength = CHOSEN["regularisers"][name]
        own[f"{name} {strength:g}"] = {field: strength}
    if scale.profile != "smoke":
        own["1,100 characters"] = dict(train_classes=1100)
    return {name: _reptile(scale, settings, settings=_FEW) for name, settings in own.items()}


def ordinary_runs(scale: Scale) -> dict[str, dict[str, list[Supervised]]]:
    """Ordinary training on one fixed set of characters, by its way: all with one step size, and each with its own best.

    The term is of one step size, as it is added to compare like with like.
    """
    settings = dict(outer_iterations=500) | _scaled(scale)
    named = _named(scale, "ordinary", ORDINARY)
    seeds = _seeds(scale)
    of_their_own = {} if scale.profile == "smoke" else named

    def trainings(own, rate):
        return [Supervised(**settings | own, learning_rate=rate, seed=seed) for seed in seeds]

    return {
        "one step size": {name: trainings(own, STEP_SIZE) for name, own in named.items()},
        "the best step size": {
            name: trainings(own, CHOSEN["ordinary"][name])
            for name, own in of_their_own.items()
            if "amplified" not in own
        },
    }


def fine_tuning_runs(scale: Scale) -> dict[str, list[Any]]:
    """Joint training, whose network is fine-tuned for 5- and 20-way tasks, and Reptile for each."""
    settings: dict[str, Any] = dict(outer_iterations=1000, eval_tasks=40) | _scaled(scale) | dict(curve_points=0)
    smoke: dict[str, dict[str, Any]] = {}
    if scale.profile == "smoke":
        settings |= dict(tuning_rates=(1e-3, 3e-3), tuning_steps=(1,))
        smoke = {"Joint training": dict(eval_ways=(5,)), "Reptile, 5-way": _SMOKE_REPTILE}
    return {
        name: [
            kind(**own | smoke.get(name, {}) | settings | _rate("fine-tuning", name), seed=seed)
            for seed in _seeds(scale)
        ]
        for name, (kind, own) in _named(scale, "fine-tuning", SIDES).items()
    }


def _reptile(scale, own, share=1.0, settings=MappingProxyType({})):
    small = _SMOKE_REPTILE if scale.profile == "smoke" else {}
    settings = _REPTILE | settings | own | small | _scaled(scale)
    settings["outer_iterations"] = max(1, round(share * settings["outer_iterations"]))
    return [Variant(**settings, seed=seed) for seed in _seeds(scale)]


def _seeds(scale):
    """As many as asked for, and by default five: without the one that learning rates were chosen with."""
    seeds = scale.chosen_seeds(_SEEDS)
    return seeds if scale.seeds is not None else [seed for seed in seeds if seed != CHOOSING_SEED]


def _scaled(scale):
    settings = scale.settings({"smoke": _SMOKE, "quick": {}, "paper": {}})
    return settings if scale.dataset == "omniglot" else settings | dict(dataset=scale.dataset)


def _named(scale, question, there):
    return {name: one for name, one in there.items() if scale.profile != "smoke" or name in _SMALLEST[question]}


def _rate(question, name):
    return {"learning_rate": CHOSEN[question][name]}


def choosing_runs() -> dict[str, dict[str, list[Any]]]:
    """The trainings that `CHOSEN` was found by, by question and name, one for each value tried.

    They are as long as the longest that are reported: after half of the iterations another learning rate may be best.
    """
    whole, on_validation = Scale("quick"), dict(eval_splits=("validation",))
    none = regulariser_runs(whole)["none"]
    tried = {
        "depth": (depth_runs(whole)["as many iterations"], RATES, on_validation),
        "ordinary": (ordinary_runs(whole)["the best step size"], SGD_RATES, dict(eval_tasks=30)),
        "fine-tuning": (fine_tuning_runs(whole), SIDES_RATES, {}),
    }
    rates = {
        question: {
            name: [replace(of[0], seed=CHOOSING_SEED, learning_rate=rate, **own) for rate in rates]
            for name, of in runs.items()
        }
        for question, (runs, rates, own) in tried.items()
    }
    unwatched = replace(none[0], seed=CHOOSING_SEED, curve_points=0, curve_tasks=_REPTILE["curve_tasks"])
    strengths = {
        name: [replace(unwatched, **{field: strength}, **on_validation) for strength in of]
        for name, (field, of) in REGULARISERS.items()
    }
    return rates | {"regularisers": strengths}


def chosen(question: str, name: str, records: Sequence[Record]) -> float | int:
    """The learning rate, or strength, of the record with the best accuracy on what there is to choose by."""
    field = REGULARISERS[name][0] if question == "regularisers" else "learning_rate"
    return max(finished(records), key=lambda record: _accuracy_to_choose_by(question, record)).config[field]


def _accuracy_to_choose_by(question, record):
    if question == "ordinary":
        return record.results["seen"]["test accuracy"]["mean"]
    if question == "fine-tuning":  # with what it is best, in the mean over ways
        return sum(np.max(some["mean"]) for name, some in record.results.items() if name.startswith("validation"))
    return record.results["validation 1-shot"]["mean"]
