"""What the records of Section 8's questions on images say: accuracies by seed, differences, and verdicts on them."""

import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import pandas as pd

from ...datasets import FACTS, DataError, ImageClasses, load
from ...few_shot import FewShot
from ...runs.records import Record
from ..claims import Claims
from ..comparisons import BySeed, in_pairs
from ..pretrained import load_pretrained
from ..statistics import finished, over_seeds, written

Means = Mapping[str, Sequence[Record]]
"""The records of each thing that is compared, by its name."""


def accuracy(records: Sequence[Record], split: str = "evaluation") -> BySeed:
    """1-shot accuracy of `Variant`s in percent on characters of a split, by seed."""
    return _by_seed(records, lambda record: 100 * record.results[f"{split} 1-shot"]["mean"])


def gap(records: Sequence[Record]) -> BySeed:
    """Points of accuracy that `Variant`s lose from training characters to those to evaluate on, by seed."""
    there, here = accuracy(records, "training"), accuracy(records)
    return {seed: there[seed] - here[seed] for seed in here}


def of_ordinary(records: Sequence[Record], what: str) -> BySeed:
    """What `Supervised` measures at the end, by its name and by seed."""
    return _by_seed(records, lambda record: record.results["seen"][what]["mean"])


def fine_tuned(records: Sequence[Record], ways: int) -> BySeed:
    """Accuracy in percent after fine-tuning on characters to evaluate on, by seed: with the learning rate and after the
    steps that are best on those to choose by, in the mean over seeds."""
    rate, step = best_fine_tuning(records, ways)
    return _by_seed(records, lambda record: 100 * record.results[f"evaluation {ways}-way"]["mean"][rate][step])


def best_fine_tuning(records: Sequence[Record], ways: int) -> tuple[int, int]:
    """Which of `tuning_rates` and of `tuning_steps` are best on the characters to choose by, as positions."""
    to_choose_by = np.mean([record.results[f"validation {ways}-way"]["mean"] for record in finished(records)], 0)
    rate, step = np.unravel_index(to_choose_by.argmax(), to_choose_by.shape)
    return int(rate), int(step)


def _by_seed(records, number: Callable[[Record], float]) -> BySeed:
    return {record.config["seed"]: number(record) for record in finished(records)}


def depth(records: Mapping[str, Means]) -> Claims:
    """Whether deeper networks are better than four blocks, after as many iterations and after as many operations, and
    those with skips better than those without."""
    four = accuracy(records["as many iterations"]["4 blocks"])
    claims = {}
    for what, networks in records.items():
        for name, of in networks.items():
            if name != "4 blocks":
                claims[f"{name}: above 4 blocks after {what}"] = in_pairs(accuracy(of), four)
    equal = records["as many iterations"]
    for name in equal:
        if f"{name}, skips" in equal:
            claims[f"{name}: with skips above without"] = in_pairs(
                accuracy(equal[f"{name}, skips"]), accuracy(equal[name])
            )
    return claims


def closes_the_gap(records: Means) -> Claims:
    """Whether there is a gap, and what makes it smaller or raises accuracy on unseen characters."""
    none, claims = records["none"], {}
    zero = dict.fromkeys(gap(none), 0.0)
    claims["without regularisation accuracy is higher on training characters than on unseen ones"] = in_pairs(
        gap(none), zero
    )
    for name, of in records.items():
        if name != "none":
            claims[f"{name}: a smaller gap"] = in_pairs(gap(none), gap(of))
            claims[f"{name}: more accurate on unseen characters"] = in_pairs(accuracy(of), accuracy(none))
    return claims


def ordinary(records: Mapping[str, Means]) -> Claims:
    """Whether small steps generalise better than one large step, agree more, and what the added term does."""
    pairs = (
        ("5 small steps", "one large step"),
        ("one large step + the term", "one large step"),
        ("one large step + a tenth of the term", "one large step"),
        ("5 small steps, half of the way", "5 small steps"),
    )
    claims = {}
    for which, ways in records.items():
        for some, other in pairs:
            if ended(ways.get(some, ())) and ended(ways.get(other, ())):
                for what in ("test accuracy", "cosine"):
                    claims[f"{which}: {some} against {other}, a larger {what}"] = in_pairs(
                        of_ordinary(ways[some], what), of_ordinary(ways[other], what)
                    )
    return claims


def ended(records: Sequence[Record]) -> bool:
    """Whether any of several trainings did not diverge."""
    return any(record.status == "finished" for record in records)


def strong_baseline(records: Means) -> Claims:
    """Whether Reptile is above joint training plus fine-tuning, for each number of ways."""
    return {
        f"{ways}-way: Reptile is above joint training plus fine-tuning": in_pairs(
            fine_tuned(records[f"Reptile, {ways}-way"], ways), fine_tuned(records["Joint training"], ways)
        )
        for ways in ways_of(records)
    }


def ways_of(records: Means) -> list[int]:
    """The ways that Reptile was trained for, among the sides of the comparison with joint training."""
    return [of[0].config["ways"] for name, of in records.items() if name != "Joint training"]


def ordinary_table(records: Mapping[str, Means]) -> pd.DataFrame:
    """Accuracy on drawings not trained on and the cosine of two mini-batches' gradients, by way of training."""
    rows = []
    for ways in records.values():
        for name, of in ways.items():
            row = {"An iteration takes": name, "Step size": f"{of[0].config['learning_rate']:g}"}
            for what in ("test accuracy", "cosine"):
                values = [100 * x for x in of_ordinary(of, what).values()] if ended(of) else []
                row[what.capitalize()] = _mean(values) if values else "diverged"
            rows.append(row)
    return pd.DataFrame(rows)


def _mean(values):
    return written(*over_seeds(values), ".1f")


def fine_tuning_table(records: Means) -> pd.DataFrame:
    """Accuracy after fine-tuning of each side, and with which learning rate and how many steps."""
    rows = []
    for name, of in records.items():
        for ways in ways_of(records):
            if f"evaluation {ways}-way" in of[0].results:
                rate, step = best_fine_tuning(of, ways)
                row = {"Initialisation": name.split(",")[0], "Tasks": f"{ways}-way 1-shot"}
                row["Accuracy (%)"] = _mean(list(fine_tuned(of, ways).values()))
                steps, rates = (of[0].config[f"tuning_{what}"] for what in ("steps", "rates"))
                rows.append(row | {"Fine-tuned by": f"{steps[step]} steps of {rates[rate]:g}"})
    return pd.DataFrame(sorted(rows, key=lambda row: (len(row["Tasks"]), row["Initialisation"])))


def published_gap(
    names: Sequence[str], omniglot: ImageClasses, data: str | os.PathLike | None, tasks: int
) -> pd.DataFrame:
    """Accuracy of published initialisations in percent, ± 95 % over tasks, transductive, with one and five shots: on so
    many tasks of classes that they were trained on, none turned, and, as on record, on unseen ones.

    An initialisation is left out where its dataset is not there. `data` is the folder of Mini-ImageNet.
    """
    rows = []
    for name in names:
        start = load_pretrained(name)
        try:
            images = omniglot if start.config.dataset == "omniglot" else load(start.config.dataset, data)
        except DataError:
            continue
        if images.name != start.config.dataset:
            continue
        seen, _, _ = start.config.classes(images, {"seed": start.config.seed})
        for shots in (1, 5):
            of = FewShot(images, seen, start.config.ways, shots, queries=1)
            cells = start.accuracy(of, jax.random.key(0), tasks), start.results[f"{shots}-shot"]
            (here, wide), (there, narrow) = (
                [100 * cell["transductive"][what] for what in ("mean", "ci95")] for cell in cells
            )
            rows.append(
                {
                    "Tasks": f"{FACTS[images.name].title}, {start.config.ways}-way {shots}-shot",
                    "Seen in training": f"{here:.1f} ± {wide:.1f}",
                    "Unseen, on record": f"{there:.1f} ± {narrow:.1f}",
                    "Gap": f"{here - there:.1f} ± {np.hypot(wide, narrow):.1f}",
                }
            )
    return pd.DataFrame(rows, columns=["Tasks", "Seen in training", "Unseen, on record", "Gap"])
