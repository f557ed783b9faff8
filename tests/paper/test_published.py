"""Published tables are what this code makes of the published records: no number and no verdict is typed in."""

import functools
from pathlib import Path

import pytest

from reptile_eqx.paper import catalogue, claims, plan, sine, spread, statistics, tables, watched
from reptile_eqx.paper.catalogue import Scale
from reptile_eqx.paper.section_8 import answers, density, reinforcement_figures
from reptile_eqx.paper.section_8.entries import entries as entries_of

FIGURES = Path(__file__).parents[2] / "figures"


@functools.cache
def known(seeds=1):
    """By training of Tables 1 and 2, the largest set of its records that has so many seeds."""
    first = {name: catalogue.classification_runs(Scale("quick"), name)[0] for name in catalogue.TRAININGS}
    return {name: statistics.largest_records(config, FIGURES, seeds=seeds) for name, config in first.items()}


@functools.cache
def of_every_seed(name):
    """An entry of notebook 4, with the records of all seeds."""
    return plan.of_every_seed(catalogue.entries(Scale("quick"))[name], FIGURES)[0]


@functools.cache
def on_record(name):
    """An entry of the notebooks, with its own records."""
    entries = catalogue.entries(Scale("quick")) | entries_of(Scale("quick"))
    return plan.on_record(entries[name].runs, FIGURES)


def readings():
    others = catalogue.figure_4_readings().items()
    found = {reading: {p: plan.on_record(runs, FIGURES) for p, runs in of.items()} for reading, of in others}
    return {"SGD, as above": {panel: of_every_seed(f"Figure {panel}") for panel in ("4a", "4b", "4c")}} | found


def spreads():
    return spread.table(*(plan.on_record(runs, FIGURES) for runs in catalogue.spread_runs().values()))


def finn():
    found = plan.on_record(catalogue.finn_runs(), FIGURES)
    return tables.final_accuracies(found, "Features and inner steps on the mean loss")


def faster():
    return {c: holds for of in on_record("What may be faster").values() for c, holds in claims.faster(of).items()}


def section_4():
    entry = catalogue.entries(Scale("paper"))["Figure 1"]
    return claims.table(sine.section_4(plan.on_record(entry.runs, FIGURES)))


TABLES = {
    "claims-1-sine": section_4,
    "table-1-mini-imagenet": lambda: tables.accuracy_table("mini-imagenet", known(), known(3)),
    "table-2-omniglot": lambda: tables.accuracy_table("omniglot", known(), known(3)),
    "reptile-beside-the-paper": lambda: tables.reptile_summary(known(), known(3)),
    "table-2-spread": spreads,
    "table-2-finn": finn,
    "claims-3-tables": lambda: claims.of_tables(known()),
    "figure-3-gradient-combinations": lambda: tables.final_accuracies(of_every_seed("Figure 3"), "Combination"),
    "claims-4-figure-3": lambda: claims.table(claims.figure_3(of_every_seed("Figure 3"))),
    "claims-4-figure-4-readings": lambda: claims.figure_4_by_reading(readings()),
    "figure-4-tried": lambda: tables.figure_4_tried(readings()),
    "claims-4-table-3": lambda: claims.table(claims.around_table_3(on_record("Around Table 3"))),
    "claims-4-faster": lambda: claims.table(faster()),
    "claims-7-depth": lambda: claims.table(answers.depth(on_record("depth"))),
    "claims-7-gap": lambda: claims.table(answers.closes_the_gap(on_record("regularisers"))),
    "claims-7-ordinary": lambda: claims.table(answers.ordinary(on_record("ordinary"))),
    "claims-7-fine-tuning": lambda: claims.table(answers.strong_baseline(on_record("fine-tuning"))),
    "claims-7-bandit": lambda: claims.table(reinforcement_figures.claims(on_record("bandit"))),
    "claims-7-navigation": lambda: claims.table(reinforcement_figures.claims(on_record("navigation"))),
    "claims-7-density": lambda: claims.table(density.claims(on_record("density"))),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_published_table_is_what_the_published_records_say(name):
    assert TABLES[name]().to_csv(index=False) == (FIGURES / f"{name}.csv").read_text()


def test_published_verdicts_along_training_are_those_of_the_records():
    """The others of Section 5 are computations."""
    entry = catalogue.entries(Scale("paper"))["Section 5"]
    methods = watched.from_the_start(plan.on_record(entry.runs, FIGURES), "Random initialisation")
    header, *rows = claims.table(sine.section_5(methods)).to_csv(index=False).splitlines()
    published = (FIGURES / "claims-2-analysis.csv").read_text().splitlines()
    assert published[0] == header and len(rows) == 20 and set(rows) <= set(published)


def test_published_verdicts_on_figure_4_are_those_of_its_records():
    """But for the last, which takes the published network and Omniglot."""
    panels = {panel: of_every_seed(f"Figure {panel}") for panel in ("4a", "4b", "4c")}
    found = claims.table(claims.figure_4(panels)).to_csv(index=False)
    lines = (FIGURES / "claims-4-figure-4.csv").read_text().splitlines(keepends=True)
    assert found == "".join(lines[:-1]) and lines[-1].startswith('"6.3: ')
