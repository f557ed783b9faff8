"""Tables 1 to 6: against the paper's own pages, and filled from records of any scale."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from reptile_eqx.paper import claims, report, statistics, tables
from reptile_eqx.paper.catalogue import TRAININGS, Scale, classification_runs, training_of
from reptile_eqx.paper.settings import TABLE_1, TABLE_2
from reptile_eqx.runs.configuration import run_name
from reptile_eqx.runs.records import Record

# As the paper's Appendix A prints them.
PAPER = {
    3: """
        Adam learning rate | 0.001 | 0.0005
        Inner batch size | 10 | 20
        Inner iterations | 5 | 10
        Training shots | 10 | 10
        Outer step size | 1.0 | 1.0
        Outer iterations | 100K | 200K
        Meta-batch size | 5 | 5
        Eval. inner iterations | 50 | 50
        Eval. inner batch size | 5 | 10""",
    4: """
        Adam learning rate | 0.001 | 0.001
        Inner batch size | 10 | 10
        Inner iterations | 8 | 8
        Training shots | 15 | 15
        Outer step size | 1.0 | 1.0
        Outer iterations | 100K | 100K
        Meta-batch size | 5 | 5
        Eval. inner iterations | 50 | 50
        Eval. inner batch size | 5 | 15""",
    5: """
        Inner learning rate | 0.003
        Inner batch size | 25
        Outer step size | 0.25
        Outer iterations | 40K
        Eval. inner batch size | 25
        Eval. inner iterations | 5""",
    6: """
        Inner learning rate | 0.003 | 0.003 | 0.003
        Inner batch size | - | 25 | 100
        Inner iterations | 4 | - | 4
        Outer step size | 1.0 | 1.0 | -
        Outer iterations | 40K | 40K | 40K
        Eval. inner batch size | 25 | 25 | 25
        Eval. inner iterations | 5 | 5 | 5""",
}


@pytest.mark.parametrize("number", PAPER)
def test_hyper_parameters_print_as_in_the_paper(number):
    printed = [[str(cell) for cell in row] for row in tables.hyper_parameters(number).to_numpy().tolist()]
    assert printed == [[cell.strip() for cell in line.split("|")] for line in PAPER[number].strip().splitlines()]


def test_only_tables_3_to_6_have_hyper_parameters():
    with pytest.raises(ValueError, match="not in Table 2"):
        tables.hyper_parameters(2)


def test_the_accuracies_are_the_papers():
    def means(table):
        return {algorithm: [mean for mean, _ in cells.values()] for algorithm, cells in table.items()}

    assert means(TABLE_1)["Reptile"] == [47.07, 62.74]
    assert means(TABLE_1)["Reptile + Transduction"] == [49.97, 65.99]
    assert means(TABLE_1)["MAML + Transduction"] == [48.70, 63.11]
    assert means(TABLE_1)["1st-order MAML + Transduction"] == [48.07, 63.15]
    assert means(TABLE_2)["Reptile"] == [95.39, 98.90, 88.14, 96.65]
    assert means(TABLE_2)["Reptile + Transduction"] == [97.68, 99.48, 89.43, 97.12]
    assert means(TABLE_2)["MAML + Transduction"] == [98.7, 99.9, 95.8, 98.9]
    assert means(TABLE_2)["1st-order MAML + Transduction"] == [98.3, 99.2, 89.4, 97.9]


def test_every_cell_of_the_tables_has_a_training_and_every_training_a_cell():
    cells = {
        training_of(dataset, algorithm, shots, ways)
        for dataset, table in (("mini-imagenet", TABLE_1), ("omniglot", TABLE_2))
        for algorithm, values in table.items()
        for shots, ways in values
    }
    assert cells == set(TRAININGS)
    for name in TRAININGS:
        (config,) = classification_runs(Scale("paper", 1), name)
        assert name.startswith(f"{config.dataset}-{config.ways}way-")
        assert name.endswith(config.algorithm)
        assert "shot-" not in name or f"-{config.eval_shots[0]}shot-" in name


def test_mamls_inner_batches_are_the_support_and_its_query_apart():
    (config,) = classification_runs(Scale("paper", 1), "omniglot-20way-5shot-maml")
    assert config.inner_batch_size == 100 and config.tail == 5 and config.training_shots == 10
    (config,) = classification_runs(Scale("paper", 1), "mini-imagenet-5way-1shot-fomaml")
    assert config.inner_batch_size == 5 and config.tail == 15 and config.training_shots == 16


def record(name, seed=0, accuracy=0.9, status="finished", **scale):
    (config,) = classification_runs(Scale("paper", [seed]), name)
    config = dataclasses.replace(config, **scale)
    cell = {"mean": accuracy, "ci95": 0.002, "tasks": config.eval_tasks}
    results = {f"{shots}-shot": {"alone": cell, "transductive": cell | {"mean": accuracy + 0.01}} for shots in (1, 5)}
    return Record(run_name(config), type(config).__name__, dataclasses.asdict(config), status, [], results, {})


def test_a_row_says_its_scale_and_whether_it_agrees():
    seeds = [record("omniglot-5way-reptile", seed, accuracy) for seed, accuracy in enumerate((0.952, 0.953, 0.954))]
    table = tables.accuracy_table("omniglot", {"omniglot-5way-reptile": seeds})
    assert len(table) == 16
    row = table[(table["Task"] == "1-shot 5-way") & (table["Algorithm"] == "Reptile")].iloc[0]
    assert row["Paper"] == "95.39 ± 0.09 %"
    assert row["Here"] == "95.30 ± 0.10 %"
    assert row["Difference"] == f"-0.09 ± {np.hypot(0.2, 4.3027 * 0.09) / 3**0.5:.2f}", "Welch's, ± 0.22, is less"
    assert row["Verdict"] == "agrees"
    assert row["Scale"] == "100,000 of 100,000 iterations, 3 seeds, 10,000 tasks"
    fewer = [seeds[0], record("omniglot-5way-reptile", 1, eval_tasks=2000)]
    scales = tables.accuracy_table("omniglot", {"omniglot-5way-reptile": fewer})["Scale"]
    assert "100,000 of 100,000 iterations, 2 seeds, 2,000 to 10,000 tasks" in set(scales)
    together = {"omniglot-5way-reptile": [record("omniglot-5way-reptile", order="parallel")]}
    assert any(s.endswith("parallel order") for s in tables.accuracy_table("omniglot", together)["Scale"])
    far = table[(table["Task"] == "5-shot 5-way") & (table["Algorithm"] == "Reptile")].iloc[0]
    assert far["Verdict"] == "differs", "98.90 ± 0.10 and 95.30 ± 0.12"
    alone = {"omniglot-5way-reptile": seeds[:1]}
    cells = {
        borrowed: tables.accuracy_table("omniglot", alone, {"omniglot-5way-reptile": some}).iloc[2]
        for borrowed, some in ((True, seeds), (False, []))
    }
    wide = 4.3027 * np.hypot(0.1, 0.09 / 3**0.5)
    assert cells[True]["Difference"] == f"-0.19 ± {np.hypot(0.2, wide):.2f}"
    assert (cells[False]["Difference"], cells[False]["Verdict"]) == ("-0.19 ± nan", "cannot be told")
    assert set(table[table["Task"].str.contains("20-way")]["Here"]) == {"not run"}


def test_seeds_that_diverged_are_counted_and_left_out():
    name = "omniglot-5way-1shot-maml"
    sound, lost = record(name), record(name, 1, status="diverged")

    def cells(*records):
        table = tables.accuracy_table("omniglot", {name: records}).set_index(["Task", "Algorithm"])
        return table.loc["1-shot 5-way", "MAML + Transduction"]

    assert cells(sound, lost)["Here"] == "91.00 %"
    assert "2 seeds, of which 1 diverged and left out" in cells(sound, lost)["Scale"]
    assert cells(lost)["Here"] == "diverged" and cells(lost)["Difference"] == ""
    assert claims.of_tables({name: [lost], "omniglot-5way-reptile": [lost]}).empty


def said(records):
    return [f"{row.Verdict}: {row.Statement}" for row in claims.of_tables(records).itertuples()]


def test_claims_are_decided_by_the_cells_that_were_run_at_the_papers_length():
    reptile, maml = record("omniglot-5way-reptile"), record("omniglot-5way-1shot-maml", accuracy=0.95)
    found = {"omniglot-5way-reptile": [reptile], "omniglot-5way-1shot-maml": [maml]}
    assert said(found) == [
        "holds: Omniglot, 5-way 1-shot: transduction helps Reptile",
        "does not hold: Omniglot, 5-way 1-shot: MAML is within a point of Reptile",
        "holds: Omniglot, 5-way 1-shot: MAML is ahead of Reptile",
        "holds: Omniglot, 5-way 5-shot: transduction helps Reptile",
        "cannot be told: Omniglot, 5-way: five shots beat one",
    ]
    first_order = found | {"omniglot-5way-1shot-fomaml": [record("omniglot-5way-1shot-fomaml", accuracy=0.93)]}
    assert "holds: Omniglot, 5-way 1-shot: 1st-order MAML is ahead of Reptile" in said(first_order)
    for iterations, judged in ((100, False), (4_000, True)):
        short = record("omniglot-5way-1shot-maml", accuracy=0.95, outer_iterations=iterations)
        lines = said(found | {"omniglot-5way-1shot-maml": [short]})
        assert any("MAML is ahead" in line for line in lines) is judged, "a tenth of the paper's 40,000 is enough"
    behind = record("omniglot-5way-1shot-maml", accuracy=0.7, outer_iterations=4_000)
    lines = said(found | {"omniglot-5way-1shot-maml": [behind]})
    assert "cannot be told: Omniglot, 5-way 1-shot: MAML is ahead of Reptile" in lines, "it may still get there"
    assert "cannot be told: Omniglot, 5-way 1-shot: MAML is within a point of Reptile" in lines
    short = record("omniglot-5way-reptile", outer_iterations=50_000)
    assert not any("MAML" in line for line in said(found | {"omniglot-5way-reptile": [short]}))
    three = [record("omniglot-5way-reptile", seed, 0.9 + 0.01 * seed) for seed in range(3)]
    assert "cannot be told: Omniglot, 5-way 1-shot: MAML is ahead of Reptile" in said(
        found | {"omniglot-5way-reptile": three}
    ), "one seed of MAML's takes the spread of Reptile's"
    assert said({}) == []


def test_a_claim_about_stand_in_data_names_it_and_one_at_the_papers_scale_has_no_excuse():
    glyphs = [record("omniglot-5way-reptile", dataset="glyphs")]
    assert said({"omniglot-5way-reptile": glyphs})[0].startswith("holds: Made-up glyphs, 5-way 1-shot")
    seeds = [record("omniglot-5way-reptile", seed) for seed in range(3)]
    for one in seeds:
        one.results["1-shot"]["alone"] = one.results["1-shot"]["alone"] | {"mean": 0.99 + 0.001 * one.config["seed"]}
    assert "does not hold: Omniglot, 5-way: five shots beat one" in said({"omniglot-5way-reptile": seeds})


def test_latex_is_a_tabular_with_its_symbols_escaped():
    text = report.latex(tables.accuracy_table("mini-imagenet", {}))
    assert text.startswith(r"\begin{tabular}") and r"\toprule" in text
    assert r"47.07 $\pm$ 0.26 \%" in text
    assert not re.search(r"(?<!\\)%|±", text)
    assert text.count(r"\\") == 1 + 8


def test_the_spread_over_seeds_is_the_standard_deviation():
    mean, spread = statistics.mean_and_spread([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3) and spread == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_a_shown_table_has_its_texts_on_the_left_in_notebooks_that_are_not_trusted_too():
    html = report.shown(pd.DataFrame({"text": ["a", None], "number": [1000, 2]}), "a caption").data
    cells = re.findall(r"<(?:caption|t[hd]\b)([^>]*)>([^<]*)<", html)
    left = [said for attributes, said in cells if "left" in attributes]
    assert left == ["a caption", "text", "a", ""] and len(cells) == 7
    assert "1,000" in html and "None" not in html


def test_a_number_is_written_with_its_interval_where_there_is_one():
    assert statistics.written(95.389, 0.0921) == "95.39 ± 0.09"
    assert statistics.written(1.25, 0.5, "+.1f") == "+1.2 ± 0.5"
    assert statistics.written(1.25, float("nan"), ".1f") == "1.2"
