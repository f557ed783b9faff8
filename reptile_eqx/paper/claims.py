"""What the paper says of its tables and figures, and whether records bear it out: yes, no, or it cannot be told."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..runs.records import Record
from . import statistics
from .catalogue import TRAININGS, training_of
from .report import scale, task_name
from .settings import SWEPT, TABLE_1, TABLE_2, WITHOUT_OVERLAP
from .statistics import SETTINGS, above, cells_of_row, exceeds, gain, shots_of

Claims = dict[str, bool | None]
"""By claim, whether it holds; `None` where that cannot be told."""
_Panels = Mapping[str, Mapping[str, Mapping[float | int, Sequence[Record]]]]


def every(answers: Iterable[bool | None]) -> bool | None:
    """Whether all of several things hold: not if one does not; `None` where one cannot be told, or there are none."""
    answers = list(answers)
    if False in answers:
        return False
    return None if None in answers or not answers else True


def table(claims: Claims) -> pd.DataFrame:
    """Claims and what the records make of them, as a table."""
    return pd.DataFrame([_row(claim, holds) for claim, holds in claims.items()])


def _row(claim, holds):
    said = {True: "holds", False: "does not hold", None: "cannot be told"}
    return {"Statement": claim, "Verdict": said[None if holds is None else bool(holds)]}


def of_tables(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """What Section 6.1 says of Tables 1 and 2, and whether the records bear it out: a row for each claim.

    A claim is left out where one of its cells was not run, and one that compares algorithms where one of the two was
    not trained for as long as in the paper.
    """
    found = []
    for dataset, ways, claim, *rows in _claims(records):
        trainings = [training_of(dataset, *row, ways) for row in rows]
        used = [records.get(training, ()) for training in trainings]
        cells = [cells_of_row(some, *row) for some, row in zip(used, rows, strict=True)]
        if all(cells):
            whole = [TRAININGS[training]["outer_iterations"] for training in trainings]
            note = "; ".join(dict.fromkeys(filter(None, map(scale, used, whole))))
            row = _row(f"{task_name(used[0][0])}{claim}", exceeds(cells[0], cells[1]))
            found.append(row | {"Scale": note or "the paper's"})
    return pd.DataFrame(found)


def _claims(records):
    """Dataset, ways, claim, and two rows, (algorithm, shots), the first of which should be above the second."""
    for dataset, paper in (("omniglot", TABLE_2), ("mini-imagenet", TABLE_1)):
        best, other = ("Reptile", "MAML") if dataset == "mini-imagenet" else ("MAML", "Reptile")
        for shots, ways in next(iter(paper.values())):
            transductive = [(f"{algorithm} + Transduction", shots) for algorithm in (best, other)]
            first_order = [
                (f"{algorithm} + Transduction", shots)
                for algorithm in (("Reptile", "1st-order MAML") if best == "Reptile" else ("1st-order MAML", "Reptile"))
            ]
            helped = (
                f" {shots}-shot: transduction helps Reptile",
                ("Reptile + Transduction", shots),
                ("Reptile", shots),
            )
            yield dataset, ways, *helped
            if all(_whole(records, training_of(dataset, *row, ways)) for row in transductive):
                yield dataset, ways, f" {shots}-shot: {best} is ahead of {other}", *transductive
            if all(_whole(records, training_of(dataset, *row, ways)) for row in first_order):
                ahead, behind = (algorithm.removesuffix(" + Transduction") for algorithm, _ in first_order)
                yield dataset, ways, f" {shots}-shot: {ahead} is ahead of {behind}", *first_order
            if shots == 5:
                yield dataset, ways, ": five shots beat one", ("Reptile", 5), ("Reptile", 1)


def _whole(records, training):
    """Whether a training was done at the paper's length."""
    found = records.get(training, ())
    return bool(found) and found[0].config["outer_iterations"] >= TRAININGS[training]["outer_iterations"]


def figure_3(curves: Mapping[str, Sequence[Record]]) -> Claims:
    """Section 6.2 on the combinations of gradients that were trained, by label (`settings.COMBINATIONS`)."""

    def growing(*labels):
        there = [curves[label] for label in labels if label in curves]
        return every(above(more, fewer) for fewer, more in zip(there, there[1:], strict=False))

    sums, averages = ("g1+g2", "g1+g2+g3", "g1+g2+g3+g4"), ("½(g1+g2)", "⅓(g1+g2+g3)", "¼(g1+g2+g3+g4)")
    pairs = [(curves[s], curves[a]) for s, a in zip(sums, averages, strict=True) if {s, a} <= curves.keys()]
    others = [records for label, records in curves.items() if label != "g1"]
    return {
        "g1 alone is more than five points below every other combination": every(
            above(records, curves["g1"], by=5) for records in others
        ),
        "sums over more batches are above those over fewer": growing(*sums),
        "averages over more batches are above those over fewer": growing(*averages),
        "last gradients (FOMAML) over more batches are above those over fewer": growing("g2", "g3", "g4"),
        "sums are above averages": every(above(*pair) for pair in pairs),
        "two-step Reptile is worse than two-step FOMAML, at the end": above(curves["g2"], curves["g1+g2"]),
        "two-step Reptile is worse than two-step FOMAML, mean over training": statistics.above_along(
            curves["g2"], curves["g1+g2"]
        ),
    } | _figure_3_along(curves)


def _figure_3_along(curves):
    """What its curves say: means over training."""
    found: Claims = {}
    for family, few, many in (
        ("sums", "g1+g2", "g1+g2+g3+g4"),
        ("averages", "½(g1+g2)", "¼(g1+g2+g3+g4)"),
        ("last gradients", "g2", "g4"),
    ):
        if {few, many} <= curves.keys():
            claim = f"{family} of four batches are above those of two, mean over training"
            found[claim] = statistics.above_along(curves[many], curves[few])
    if {"g4", "g1+g2+g3+g4"} <= curves.keys():
        claim = "sums gain more from four batches than last gradients do, mean over training"
        found[claim] = _gain_more(curves, ("g1+g2", "g1+g2+g3+g4"), ("g2", "g4"))
    return found


def _gain_more(curves, *lines):
    """Whether, seed by seed, the second of two lines is further above the first than in another two, over training."""
    by_seed = [[statistics.along_by_seed(curves[label]) for label in line] for line in lines]
    gains = [{seed: many[seed] - few[seed] for seed in many.keys() & few.keys()} for few, many in by_seed]
    return statistics.larger_in_pairs(*gains)


def figure_4(panels: _Panels) -> Claims:
    """Section 6.3 on the panels of Figure 4, by panel, line (`settings.LINES`) and swept value.

    Lines with replacement may be missing; what is said of them then cannot be told. Batches of all images are the same
    with and without it, and are not compared.
    """
    shared, mixed = "FOMAML, shared tail, cycle", "FOMAML, shared tail, replacement"
    separate, reptile = "FOMAML, separate tail, cycle", "Reptile"
    separate_mixed = "FOMAML, separate tail, replacement"
    all_images = 100

    def throughout(panel, better, worse, below=math.inf):
        ours, theirs = panels[panel].get(better, {}), panels[panel][worse]
        return every(above(ours[v], theirs[v]) for v in ours if WITHOUT_OVERLAP[panel] < v < below and v in theirs)

    def keeps_up(panel, line):
        """Whether a line nowhere falls more than two points below where batches do not overlap yet."""
        points = panels[panel].get(line, {})
        first = points.get(WITHOUT_OVERLAP[panel])
        return first and every(above(some, first, by=-2) for some in points.values() if some is not first)

    def wanders(points):
        """Whether outer step sizes differ by more than five points: not all equally poor."""
        pairs = itertools.permutations(points.values(), 2)
        return any(above(a, b, by=5) for a, b in pairs)

    at_4 = {line: points[4] for line, points in panels["4a"].items()}
    full = panels["4c"][shared]
    found = {
        "4a: with four iterations shared-tail FOMAML is within five points of separate-tail": above(
            at_4[shared], at_4[separate], by=-5
        ),
        "4a: from five on, shared-tail FOMAML, cycling, is below separate-tail FOMAML and Reptile": every(
            throughout("4a", line, shared) for line in (separate, reptile)
        ),
        "4a: from five on, shared-tail FOMAML, cycling, is below itself with replacement, which degrades more "
        "gradually": throughout("4a", mixed, shared),
        "4b: beyond batches of 25 shared-tail FOMAML, cycling, is below separate-tail FOMAML and Reptile": every(
            throughout("4b", line, shared) for line in (separate, reptile)
        ),
        "4b: beyond batches of 25 shared-tail FOMAML, cycling, is below itself with replacement, which degrades more "
        "gradually": throughout("4b", mixed, shared, below=all_images),
        "4c: every outer step size leaves shared-tail FOMAML with full batches below Reptile with batches of 25": every(
            above(at_4[reptile], records) for records in full.values()
        ),
        "4c: no outer step size differs from another by more than five points (equally poor for every choice)": (
            not wanders(full)
        ),
    }
    for panel, what in (("4a", "from two iterations on"), ("4b", "with any batches")):
        for line in (separate, separate_mixed, reptile):
            found[f"{panel}: {line} is {what} within two points of where no batches overlap"] = keeps_up(panel, line)
    return found


def figure_4_read_otherwise(reading: _Panels, panels: _Panels) -> tuple[_Panels, Claims]:
    """The panels of Figure 4 with those of another reading in their place, and what `figure_4` says of these.

    Points of the reading that have no records are left out. Where a panel of it has none at all, nothing is said.
    """
    found = {
        panel: {line: there for line, points in lines.items() if (there := {v: r for v, r in points.items() if r})}
        for panel, lines in reading.items()
    }
    if not all(found.values()):
        return panels, {}
    panels = {**panels, **found}
    return panels, {claim: verdict for claim, verdict in figure_4(panels).items() if claim[:2] in found}


def around_table_3(ablations: Mapping[str, Mapping[Any, Sequence[Record]]]) -> Claims:
    """Appendix A, footnote 1 and Sections 6.1 and 7, on what is varied around Table 3 (`settings.ABLATIONS`)."""
    table_3 = ablations["algorithm"]["reptile"]
    shots = shots_of(table_3)
    found: Claims = {}
    for swept, what in SWEPT.items():
        others = [records for records in ablations[swept].values() if records != table_3]
        if swept != "adam_b1":
            found[f"{what}: moves {shots[-1]} accuracy by less than two points"] = every(
                above(a, b, by=-2, shots=shots[-1]) for other in others for a, b in ((other, table_3), (table_3, other))
            )
    strongest = list(ablations["adam_b1"])[-1]
    for s in shots:
        found |= {
            f"momentum reduces {s} accuracy (β₁ = 0 above {strongest:g})": above(
                table_3, ablations["adam_b1"][strongest], shots=s
            ),
            f"never resetting Adam's state is better than resetting it, {s}": above(
                table_3, ablations["reset_optimiser"][True], shots=s
            ),
            f"joint training is below Reptile, {s}": above(table_3, ablations["algorithm"]["joint"], shots=s),
        }
    return found


def faster(runs: Mapping[Any, Sequence[Record]]) -> Claims:
    """Whether each value of something that makes a program faster is within a point of the first, the reference."""
    (reference, records), *others = runs.items()
    found: Claims = {}
    for label, other in others:
        for shots in shots_of(records):
            for setting, name in SETTINGS.items():
                points, interval = gain(other, records, shots, setting)
                unclear = np.isnan(interval) or abs(abs(points) - 1) <= interval
                claim = f"{label} is within a point of {reference}, {shots}, {name}"
                found[claim] = None if unclear else bool(abs(points) < 1)
    return found
