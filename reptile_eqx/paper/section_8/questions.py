"""What is trained for Section 8's questions on images: lists of runs, by what differs between them.

Learning rates were chosen among a few, as many for each side of a comparison (`choosing_runs`), with a seed that is not
reported. Reptile and fine-tuning are then judged on the characters to choose by. Ordinary training is judged on
its test drawings, of the seed that is not reported.
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
"""Adam's learning rates that each network, and each side of the comparison with joint training, was tried with."""
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
_SMOKE: dict[str, Any] = dict(outer_iterations=2, train_classes=300, curve_tasks=2, eval_tasks=2)
_SMALLEST = {
    "depth": ("4 blocks", "8 blocks, skips"),
    "regularisers": ("none", "weight decay 0.1"),
    "ordinary": ("5 small steps", "one large step + a tenth of the term"),
    "fine-tuning": ("Joint training", "Reptile, 5-way"),
}
_SEEDS = {"smoke": 1, "quick": 3, "paper": 3}

DEPTHS: dict[str, dict[str, Any]] = {
    "4 blocks": {},
    "6 blocks, skips": dict(blocks=6, residual=True),
    "8 blocks": dict(blocks=8),
    "8 blocks, skips": dict(blocks=8, residual=True),
    "12 blocks": dict(blocks=12),
    "12 blocks, skips": dict(blocks=12, residual=True),
}
"""Networks, by name."""
SHORTER = ("8 blocks, skips",)
"""Those that are also trained for as many operations as four blocks."""
FEW = 20
"""Training characters of the trainings that are to be regularised; with more, trainings this short leave no gap."""
_FEW: dict[str, Any] = dict(
    ways=5, train_classes=FEW, inner_batch_size=10, training_shots=10, outer_iterations=3000, eval_tasks=200,
    eval_inner_batch_size=5, eval_splits=("training", "evaluation"),
)  # fmt: skip
REGULARISERS: dict[str, dict[str, Any]] = {
    "none": dict(curve_points=6, curve_tasks=60),
    "dropout 0.1": dict(dropout=0.1),
    "weight decay 0.1": dict(weight_decay=0.1),
    "label smoothing 0.1": dict(label_smoothing=0.1),
    "pull towards φ 1": dict(pull=1.0),
    "3 steps of adaptation": dict(eval_inner_iterations=3),
    "1,100 characters": dict(train_classes=1100),
}
"""What may close the gap, by name; adaptation takes 10 steps where it is not said. The first is watched on the way."""

ORDINARY: dict[str, dict[str, Any]] = {
    "5 small steps": {},
    "one large step": dict(one_step=True),
    "one large step + the term": dict(one_step=True, amplified=1.0),
    "one large step + a tenth of the term": dict(one_step=True, amplified=0.1),
    "5 small steps, half of the way": dict(outer_step_size=0.5),
}
"""Ways of ordinary training, by name."""

SIDES: dict[str, tuple[type, dict[str, Any]]] = {
    "Joint training": (JointTraining, {}),
    "Reptile, 5-way": (
        FineTunedReptile,
        _REPTILE | dict(ways=5, inner_batch_size=10, training_shots=10, meta_batch_size=2),
    ),
    "Reptile, 20-way": (FineTunedReptile, _REPTILE),
}
"""What is fine-tuned, by name; each sees 100 images an iteration."""

CHOSEN: dict[str, dict[str, float]] = {
    "depth": dict.fromkeys(DEPTHS, 3e-3) | dict.fromkeys(("8 blocks", "12 blocks", "12 blocks, skips"), 1e-3),
    "ordinary": {"5 small steps": 0.3, "one large step": 0.3, "5 small steps, half of the way": 1.0},
    "fine-tuning": dict.fromkeys(SIDES, 3e-3),
}
"""The learning rates that `chosen` finds in the records of `choosing_runs`, by question and name."""


def depth_runs(scale: Scale) -> dict[str, dict[str, list[Variant]]]:
    """Networks of several depths, by name, trained for as many iterations and, `SHORTER`, for as many operations."""
    named = _named(scale, "depth", DEPTHS)
    unseen: dict[str, Any] = dict(eval_splits=("evaluation",))
    equal = {name: _reptile(scale, unseen | own | _rate("depth", name)) for name, own in named.items()}
    fewer = {
        name: _reptile(scale, unseen | own | _rate("depth", name), 1 / operations(own["blocks"]))
        for name, own in named.items()
        if name in SHORTER
    }
    return {"as many iterations": equal, "as many operations": fewer}


def operations(blocks: int) -> float:
    """How many times the multiplications of the paper's four blocks a `DeepNetwork` takes for a 20-way task's image."""
    channels, outputs = 64, 20
    first, kernel = 9 * channels, 9 * channels**2
    four = 14**2 * first + (7**2 + 4**2 + 2**2) * kernel + 2**2 * channels * outputs
    return 1 + (blocks - 4) * 4**2 * kernel / four


def regulariser_runs(scale: Scale) -> dict[str, list[Variant]]:
    """Trainings on `FEW` characters, each with one thing that may close the gap, by its name."""
    return {
        name: _reptile(scale, own, settings=_FEW) for name, own in _named(scale, "regularisers", REGULARISERS).items()
    }


def ordinary_runs(scale: Scale) -> dict[str, dict[str, list[Supervised]]]:
    """Ordinary training on one fixed set of characters, by its way: all with one step size, and each with its own best.

    The term is of one step size, as it is added to compare like with like.
    """
    settings = dict(outer_iterations=500) | _scaled(scale)
    named = _named(scale, "ordinary", ORDINARY)
    seeds = scale.chosen_seeds(_SEEDS)

    def trainings(own, rate):
        return [Supervised(**settings | own, learning_rate=rate, seed=seed) for seed in seeds]

    return {
        "one step size": {name: trainings(own, STEP_SIZE) for name, own in named.items()},
        "the best step size": {
            name: trainings(own, CHOSEN["ordinary"][name]) for name, own in named.items() if "amplified" not in own
        },
    }


def fine_tuning_runs(scale: Scale) -> dict[str, list[Any]]:
    """Joint training, whose network is fine-tuned for 5- and 20-way tasks, and Reptile for each."""
    settings: dict[str, Any] = dict(outer_iterations=1000, eval_tasks=40) | _scaled(scale) | dict(curve_points=0)
    return {
        name: [kind(**own | settings | _rate("fine-tuning", name), seed=seed) for seed in scale.chosen_seeds(_SEEDS)]
        for name, (kind, own) in _named(scale, "fine-tuning", SIDES).items()
    }


def _reptile(scale, own, share=1.0, settings=MappingProxyType({})):
    settings = _REPTILE | settings | own | _scaled(scale)
    settings["outer_iterations"] = max(1, round(share * settings["outer_iterations"]))
    return [Variant(**settings, seed=seed) for seed in scale.chosen_seeds(_SEEDS)]


def _scaled(scale):
    settings = scale.settings({"smoke": _SMOKE, "quick": {}, "paper": {}})
    return settings if scale.dataset == "omniglot" else settings | dict(dataset=scale.dataset)


def _named(scale, question, there):
    return {name: there[name] for name in (_SMALLEST[question] if scale.profile == "smoke" else there)}


def _rate(question, name):
    return {"learning_rate": CHOSEN[question][name]}


def choosing_runs() -> dict[str, dict[str, list[Any]]]:
    """The trainings that `CHOSEN` was found by, by question and name: of 500 iterations, one for each rate."""
    half, own = Scale("quick", outer_iterations=500), {"seed": CHOOSING_SEED, "eval_tasks": 30}
    everything = {
        "depth": depth_runs(half)["as many iterations"],
        "ordinary": ordinary_runs(half)["the best step size"],
    }
    everything["fine-tuning"] = fine_tuning_runs(half)
    return {
        question: {
            name: [
                replace(configs[0], learning_rate=rate, **own | _JUDGED_ON.get(question, {}))
                for rate in _RATES[question]
            ]
            for name, configs in runs.items()
        }
        for question, runs in everything.items()
    }


_JUDGED_ON: dict[str, dict[str, Any]] = {"depth": dict(eval_splits=("validation",)), "fine-tuning": dict(eval_tasks=20)}
_RATES = {"depth": RATES, "ordinary": SGD_RATES, "fine-tuning": RATES}


def chosen(question: str, records: Sequence[Record]) -> float:
    """The learning rate of the record with the best accuracy on what there is to choose by."""
    return max(finished(records), key=lambda record: _accuracy_to_choose_by(question, record)).config["learning_rate"]


def _accuracy_to_choose_by(question, record):
    if question == "depth":
        return record.results["validation 1-shot"]["mean"]
    if question == "ordinary":
        return record.results["seen"]["test accuracy"]["mean"]
    # With what fine-tuning is best, in the mean over ways.
    return sum(np.max(some["mean"]) for name, some in record.results.items() if name.startswith("validation"))
