"""What Sections 4 and 5 say of the trainings on sine waves, and whether their records bear it out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..runs.records import Record
from .claims import Claims
from .comparisons import Measured, alike, compare, in_pairs
from .statistics import finished, size_before_adaptation

JOINT = "Joint training"
_AMPLITUDES = (0.1, 5.0)


def zero_function_loss() -> float:
    """Eq. 8 of the function that is zero everywhere: half the mean square of Section 4's waves, over [-5, 5]."""
    low, high = _AMPLITUDES
    return 10 * (high**3 - low**3) / (3 * (high - low)) / 2


def section_4(methods: Mapping[str, Sequence[Record]]) -> Claims:
    """Section 4 on the records of its trainings, by method (`catalogue.METHODS`)."""

    def losses(name, steps=-1):
        """Eq. 8 after some gradient steps, by seed."""
        cells = {r.config["seed"]: r.results["loss"] for r in methods[name] if r.status == "finished"}
        return {seed: Measured(loss["mean"][steps], loss["ci95"][steps]) for seed, loss in cells.items()}

    def better(name, other):
        return compare(losses(other), losses(name))

    found: Claims = {
        "Reptile adapts better than a random initialisation": better("Reptile", "Random initialisation"),
        "MAML adapts better than a random initialisation": better("MAML", "Random initialisation"),
        "Reptile adapts better than joint training": better("Reptile", "Joint training"),
        "MAML adapts better than Reptile": better("MAML", "Reptile"),
        "FOMAML adapts better than Reptile": better("FOMAML", "Reptile"),
    }
    before, zero = losses("Joint training", 0), zero_function_loss()
    claim = "joint training starts within 5 % of the zero function's loss"
    found[claim] = alike(before, {seed: Measured(zero, 0.0) for seed in before}, 0.05 * zero)
    tenth = 0.1 * sum(_AMPLITUDES) / 2
    for name in ("Joint training", "MAML", "Reptile"):
        sizes = {r.config["seed"]: size_before_adaptation([r]) for r in methods[name] if r.status == "finished"}
        claim = (
            f"before adapting, the function of {name} is about zero: its size is below a tenth of the mean amplitude"
        )
        found[claim] = in_pairs(dict.fromkeys(sizes, tenth), sizes)
    return found


def section_5(methods: Mapping[str, Sequence[Record]]) -> Claims:
    """What Section 5 expects along training, on the records of `watched.from_the_start`, by method."""

    def at(method, what, point=-1):
        """A quantity at a point of the curve, by default its end, by seed."""
        cells = {r.config["seed"]: r.curve[point]["watched"][what] for r in methods[method] if r.status == "finished"}
        return {seed: Measured(cell["mean"], cell["ci95"]) for seed, cell in cells.items()}

    found: Claims = {}
    for method in ("FOMAML", "MAML", "Reptile"):
        larger = {
            " ends with a larger within-task inner product than joint training": ("same", at(JOINT, "same")),
            " raises the inner product within a task above where it began": ("same", at(method, "same", 0)),
            " raises the cosine within a task too, which longer gradients alone do not": (
                "cosine_same",
                at(method, "cosine_same", 0),
            ),
            ": a step helps the task's other batch more than after joint training": (
                "gain_same",
                at(JOINT, "gain_same"),
            ),
            ": within-task product larger than between tasks": ("same", at(method, "other")),
            ": within-task cosine larger than between tasks": ("cosine_same", at(method, "cosine_other")),
        }
        found |= {method + claim: compare(at(method, what), other) for claim, (what, other) in larger.items()}
    for claim, what in (
        ("after Reptile the reached solutions are nearer than after joint training", "distance"),
        ("after Reptile they have a lower loss than after joint training", "loss_there"),
    ):
        found[claim] = compare(at(JOINT, what), at("Reptile", what))
    return found


def settled(records: Sequence[Record], value: Callable[[Mapping[str, Any]], float]) -> dict[int, float]:
    """The iteration from which a value of a curve's points stays within 5 % of its end, by seed."""
    found = {}
    for record in finished(records):
        values = np.array([value(point) for point in record.curve])
        far = np.flatnonzero(~(np.abs(values[:-1] / values[-1] - 1) < 0.05))
        found[record.config["seed"]] = float(record.curve[far[-1] + 1 if len(far) else 0]["iteration"])
    return found
