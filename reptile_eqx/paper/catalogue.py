"""Sections 6.2, 6.3 and Appendix A as lists of run configurations (Tables 5 and 6, and around Table 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

from .experiments import FewShotClassification
from .presets import TABLE_3, scaled, seeds_of

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

ABLATIONS = {
    "learning_rate": (3e-4, 1e-3, 3e-3),
    "inner_batch_size": (5, 10, 20),
    "inner_iterations": (2, 5, 10),
    "meta_batch_size": (2, 5, 10),
    "adam_b1": (0.0, 0.5, 0.9),
    "reset_optimiser": (False, True),
    "algorithm": ("reptile", "joint"),
}
"""What is varied around 5-way Reptile as in Table 3, and over which values: hyper-parameters that had little effect
(Appendix A), momentum in the inner loop (footnote 1), Adam's state reset for each task (Section 6.1), and joint
training instead, fine-tuned like the others (Section 7)."""

FASTER = {
    "order": ("exact", "parallel"),
    "precision": ("float32", "tensorfloat32", "bfloat16"),
}
"""What a faster program may change around the same training (`FewShotClassification`), and its values. The first is the
reference's."""

# Joint training takes one step on a task's whole fifty images, the same that Reptile's five batches of ten go through.
_ALONG = {("algorithm", "joint"): dict(inner_iterations=1, inner_batch_size=50)}

_FIGURE_3 = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2),
    "quick": dict(curve_points=40, eval_tasks=1000),
    "paper": dict(curve_points=40),
}
_FIGURE_4 = {
    "smoke": dict(outer_iterations=2, curve_points=0, eval_tasks=2),
    "quick": dict(outer_iterations=10_000, curve_points=0, eval_tasks=1000),
    "paper": dict(curve_points=10),
}
# The paper gives no scale for its remarks; a tenth of Table 3's iterations tells such settings apart.
_ABLATIONS = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2, eval_shots=(1,)),
    "quick": dict(outer_iterations=2000, curve_points=4, curve_tasks=40, eval_tasks=300),
    "paper": dict(outer_iterations=10_000, curve_points=10, eval_tasks=1000),
}
# `quick` shows the records of `paper`, as what is to be seen here is small.
_FASTER_SCALE = {
    "smoke": dict(outer_iterations=2, curve_points=1, curve_tasks=2, eval_tasks=2, eval_shots=(1,)),
    **dict.fromkeys(("quick", "paper"), dict(outer_iterations=10_000, curve_points=5, curve_tasks=40, eval_tasks=1000)),
}
# Every point that differs in a shape is compiled anew, so that the smallest profile has few of them.
_SMOKE_COMBINATIONS = ("g1", "g2", "g1+g2", "½(g1+g2)")
_SMOKE_SWEEPS = {"4a": (4,), "4b": (25,), "4c": (0.1, 10.0)}
_SMOKE_ABLATIONS = {"inner_batch_size": (10,), "inner_iterations": (5,), "meta_batch_size": (5,), "adam_b1": (0.0,)}
_FASTER_SEEDS = {"order": tuple(range(5)), "precision": tuple(range(3))}
_ONE_SEED = {"smoke": (0,), "quick": (0,), "paper": (0, 1, 2)}


def figure_3_runs(
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    **data: Any,
) -> dict[str, list[FewShotClassification]]:
    """Section 6.2's trainings, by combination. With k gradients a task has 5k shots, so that batches do not overlap.

    `seeds` and `outer_iterations` override the profile's; `data` says what stands in for Omniglot, such as
    `dataset="glyphs", train_classes=400`. `smoke` has the combinations of up to two gradients.
    """
    settings = TABLE_5 | scaled(_FIGURE_3, profile, outer_iterations) | data
    return {
        label: [
            FewShotClassification(
                **settings,
                algorithm="combination",
                weights=weights,
                inner_iterations=len(weights),
                training_shots=5 * len(weights),
                seed=seed,
            )
            for seed in seeds_of(profile, seeds, _ONE_SEED)
        ]
        for label, weights in COMBINATIONS.items()
        if profile != "smoke" or label in _SMOKE_COMBINATIONS
    }


def figure_4_runs(
    panel: str,
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    **data: Any,
) -> dict[str, dict[float | int, list[FewShotClassification]]]:
    """Section 6.3's trainings of a panel ("4a", "4b" or "4c"), by line and by swept value.

    A separate tail leaves 15 of the 20 drawings for the batches before it, so that its lines stop at batches of 75. 4c
    sweeps shared-tail FOMAML with full batches alone. The other arguments are `figure_3_runs`'s.
    """
    swept, values = SWEEPS[panel]
    values = _SMOKE_SWEEPS[panel] if profile == "smoke" else values
    settings = TABLE_6[panel] | scaled(_FIGURE_4, profile, outer_iterations) | data
    runs = {}
    for line, own in LINES.items():
        if panel == "4c" and line != "FOMAML, shared tail, cycle":
            continue
        largest = 5 * (20 - own.get("tail", 0))
        fitting = [value for value in values if panel != "4b" or value <= largest]
        runs[line] = _by_value(swept, fitting, settings | own, seeds_of(profile, seeds, _ONE_SEED))
    return runs


def ablation_runs(
    swept: str,
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    **data: Any,
) -> dict[Any, list[FewShotClassification]]:
    """Trainings around Table 3 (5-way, Reptile) in which one of `ABLATIONS` is varied, by its value.

    Table 3's own setting is among them, the same runs in every sweep. The other arguments are `figure_3_runs`'s. Raises
    `ValueError` for something that is not swept.
    """
    if swept not in ABLATIONS:
        raise ValueError(f"nothing sweeps {swept!r}; there are {', '.join(ABLATIONS)}")
    values = _SMOKE_ABLATIONS.get(swept, ABLATIONS[swept]) if profile == "smoke" else ABLATIONS[swept]
    settings = TABLE_3[5] | scaled(_ABLATIONS, profile, outer_iterations) | data
    return _by_value(swept, values, settings, seeds_of(profile, seeds, _ONE_SEED))


def faster_runs(
    swept: str,
    profile: str,
    seeds: int | Sequence[int] | None = None,
    outer_iterations: int | None = None,
    **data: Any,
) -> dict[str, list[FewShotClassification]]:
    """Table 3's 5-way training, a tenth as long, with one of `FASTER` varied, by its value.

    "order" has five seeds, "precision" three; `smoke` has one, and two values. The other arguments are
    `figure_3_runs`'s. Raises `ValueError` for something that is not there.
    """
    if swept not in FASTER:
        raise ValueError(f"nothing varies {swept!r}; there are {', '.join(FASTER)}")
    settings = TABLE_3[5] | scaled(_FASTER_SCALE, profile, outer_iterations) | data
    values, defaults = FASTER[swept], dict.fromkeys(("quick", "paper"), _FASTER_SEEDS[swept])
    if profile == "smoke":
        values = values[:2]
    return _by_value(swept, values, settings, seeds_of(profile, seeds, defaults | {"smoke": (0,)}))


def _by_value(
    swept: str, values: Sequence[Any], settings: Mapping[str, Any], seeds: Sequence[int]
) -> dict[Any, list[FewShotClassification]]:
    """A sweep's configurations, one for each seed, by the value of the field that is swept."""
    return {
        value: [
            FewShotClassification(**settings | {swept: value} | _ALONG.get((swept, value), {}), seed=seed)
            for seed in seeds
        ]
        for value in values
    }
