"""What the paper says of its tables and figures, and whether records bear it out: yes, no, or it cannot be told."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..runs.records import Record
from .catalogue import TRAININGS, training_of
from .comparisons import (
    Comparison,
    above,
    above_along,
    accuracies_along,
    accuracies_of_row,
    alike,
    compare,
    every,
    in_pairs,
    within,
)
from .report import scale, task_name
from .settings import SWEPT, TABLE_1, TABLE_2, WITHOUT_OVERLAP
from .statistics import SETTINGS, shots_of

Claims = dict[str, Comparison]
"""By claim, the comparison that decides it."""

_Panels = Mapping[str, Mapping[str, Mapping[float | int, Sequence[Record]]]]
_SAID = {True: "holds", False: "does not hold", None: "cannot be told"}


def table(claims: Mapping[str, Comparison | bool | None]) -> pd.DataFrame:
    """Claims and what the records make of them, as a table.

    Of a comparison it also has the difference that decides, with its 95 % interval, and over how many seeds that is; a
    claim that is judged otherwise has neither.
    """
    return pd.DataFrame([_row(claim, found) for claim, found in claims.items()]).fillna("")


def _row(claim, found):
    if not isinstance(found, Comparison):
        return {"Statement": claim, "Verdict": _SAID[None if found is None else bool(found)]}
    seeds = str(found.seeds) if found.seeds else ""
    return {"Statement": claim, "Verdict": _SAID[found.holds], "Difference": str(found), "Seeds": seeds}


def of_tables(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """What Section 6.1 says of Tables 1 and 2, and whether the records bear it out: a row for each claim.

    A claim is left out where one of its cells was not run. One that compares algorithms takes Reptile's training at the
    paper's length and the other's at a tenth of it or more. Of a training that is shorter than the paper's nothing is
    said against a claim.
    """
    found = []
    for dataset, ways, claim, judge, *rows in _claims(records):
        trainings = [training_of(dataset, *row, ways) for row in rows]
        used = [records.get(training, ()) for training in trainings]
        cells = [accuracies_of_row(some, *row) for some, row in zip(used, rows, strict=True)]
        if all(cells):
            whole = [TRAININGS[training]["outer_iterations"] for training in trainings]
            note = "; ".join(dict.fromkeys(filter(None, map(scale, used, whole))))
            judged = judge(*cells)
            row = _row(f"{task_name(used[0][0])}{claim}", judged)
            short = any(_length(some, training) < 1 for some, training in zip(used, trainings, strict=True))
            if short and judged.holds is False:
                row["Verdict"] = _SAID[None]  # What it has not reached yet it may still reach.
            found.append(row | {"Scale": note or "the paper's"})
    return pd.DataFrame(found)


_ENOUGH = 0.1


def _length(records, training):
    """How much of the paper's length some records of a training have; 0 where it was not run."""
    whole = TRAININGS[training]["outer_iterations"]
    return min(record.config["outer_iterations"] for record in records) / whole if records else 0


def _claims(records):
    """Dataset, ways, claim, how it is judged, and the two rows, (algorithm, shots), that it compares."""
    for dataset, paper in (("omniglot", TABLE_2), ("mini-imagenet", TABLE_1)):
        for shots, ways in next(iter(paper.values())):

            def length(algorithm, shots=shots, ways=ways, dataset=dataset):
                training = training_of(dataset, algorithm, shots, ways)
                return _length(records.get(training, ()), training)

            reptile = ("Reptile + Transduction", shots)
            yield dataset, ways, f" {shots}-shot: transduction helps Reptile", compare, reptile, ("Reptile", shots)
            for name in ("MAML", "1st-order MAML"):
                other = (f"{name} + Transduction", shots)
                if length(other[0]) >= _ENOUGH and length(reptile[0]) >= 1:
                    yield dataset, ways, f" {shots}-shot: {name} is within a point of Reptile", alike, other, reptile
                    if dataset == "omniglot":
                        yield dataset, ways, f" {shots}-shot: {name} is ahead of Reptile", compare, other, reptile
                    elif length(other[0]) >= 1:
                        yield dataset, ways, f" {shots}-shot: Reptile is ahead of {name}", compare, reptile, other
            if shots == 5:
                yield dataset, ways, ": five shots beat one", compare, ("Reptile", 5), ("Reptile", 1)


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
        "two-step Reptile is worse than two-step FOMAML, mean over training": above_along(
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
            found[claim] = above_along(curves[many], curves[few])
    if {"g4", "g1+g2+g3+g4"} <= curves.keys():
        claim = "sums gain more from four batches than last gradients do, mean over training"
        found[claim] = _gain_more(curves, ("g1+g2", "g1+g2+g3+g4"), ("g2", "g4"))
    return found


def _gain_more(curves, *lines):
    """Whether, seed by seed, the second of two lines is further above the first than in another two, over training."""
    by_seed = [[accuracies_along(curves[label]) for label in line] for line in lines]
    gains = [{s: many[s].mean - few[s].mean for s in many.keys() & few.keys()} for few, many in by_seed]
    return in_pairs(*gains)


def figure_4(panels: _Panels) -> Claims:
    """Section 6.3 on the panels of Figure 4, by panel, line (`settings.LINES`) and swept value.

    Panels, lines and points may be missing. A claim is judged by the points that there are. Where a line that it speaks
    of has none, it can only fail, or there is nothing to compare. Batches of all images are the same with and without
    replacement, and are not compared.
    """
    shared, mixed = "FOMAML, shared tail, cycle", "FOMAML, shared tail, replacement"
    separate, reptile = "FOMAML, separate tail, cycle", "Reptile"
    separate_mixed = "FOMAML, separate tail, replacement"
    all_images = 100

    def points_of(panel, line):
        return {value: records for value, records in panels.get(panel, {}).get(line, {}).items() if records}

    def without_overlap(line):
        """Four iterations of 25 images, a point of 4a and of 4b."""
        points = (points_of(panel, line).get(value) for panel, value in WITHOUT_OVERLAP.items())
        return next(filter(None, points), ())

    def throughout(panel, better, worse, below=math.inf):
        ours, theirs = points_of(panel, better), points_of(panel, worse)
        return every(above(ours[v], theirs[v]) for v in ours if WITHOUT_OVERLAP[panel] < v < below and v in theirs)

    def keeps_up(panel, line):
        """Whether a line nowhere falls more than two points below four iterations of 25 images."""
        first, points = without_overlap(line), points_of(panel, line)
        return every(above(some, first, by=-2) for v, some in points.items() if v != WITHOUT_OVERLAP[panel])

    full = points_of("4c", shared)
    found = {
        "4a: with four iterations shared-tail FOMAML is no more than five points below separate-tail": above(
            without_overlap(shared), without_overlap(separate), by=-5
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
            above(without_overlap(reptile), records) for records in full.values()
        ),
        "4c: no outer step size differs from another by more than five points (equally poor for every choice)": every(
            above(a, b, by=-5) for a, b in itertools.permutations(full.values(), 2)
        ),
    }
    for panel, what in (("4a", "four iterations, with two or more"), ("4b", "batches of 25, with any others")):
        for line in (separate, separate_mixed, reptile):
            found[f"{panel}: {line} is nowhere more than two points below its {what}"] = keeps_up(panel, line)
    return found


def figure_4_by_reading(readings: Mapping[str, _Panels]) -> pd.DataFrame:
    """What each of several readings of Figure 4 makes of Section 6.3, with the difference that decides: a row for each
    claim, a column for each reading, empty where it has no points to judge by."""
    found = {reading: figure_4(panels) for reading, panels in readings.items()}

    def said(comparison):
        return f"{_SAID[comparison.holds]} ({comparison})" if comparison.seeds else ""

    columns = {reading: [said(comparison) for comparison in of.values()] for reading, of in found.items()}
    columns = {reading: cells for reading, cells in columns.items() if any(cells)}
    return pd.DataFrame({"Statement": list(next(iter(found.values()))), **columns})


def around_table_3(ablations: Mapping[str, Mapping[Any, Sequence[Record]]]) -> Claims:
    """Appendix A, footnote 1 and Sections 6.1 and 7, on what is varied around Table 3 (`settings.ABLATIONS`)."""
    table_3 = ablations["algorithm"]["reptile"]
    shots = shots_of(table_3)
    found: Claims = {}
    for swept, what in SWEPT.items():
        others = [records for records in ablations[swept].values() if records != table_3]
        if swept != "adam_b1":
            found[f"{what}: moves {shots[-1]} accuracy by less than two points"] = every(
                within(other, table_3, 2, shots=shots[-1]) for other in others
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
                claim = f"{label} is within a point of {reference}, {shots}, {name}"
                found[claim] = within(other, records, 1, shots=shots, setting=setting)
    return found
