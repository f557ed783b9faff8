"""How far trainings lie apart that differ in their seed, or in their initialisation alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import chdtri, fdtri

from ..runs.records import Record
from .settings import TABLE_2
from .statistics import SETTINGS, cells_of, mean_and_spread, shots_of

_VERDICTS = {True: "seeds differ more", False: "seeds differ less", None: "cannot be told"}


def interval(spread: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation, of that which `count` values have: χ², for normal values."""
    low, high = (spread * np.sqrt((count - 1) / chdtri(count - 1, share)) for share in (0.025, 0.975))
    return float(low), float(high)


def ratio_interval(ratio: float, above: int, below: int) -> tuple[float, float]:
    """The 95 % interval of the ratio of two standard deviations, of as many values each: F, for normal values."""
    low, high = (ratio / np.sqrt(fdtri(above - 1, below - 1, share)) for share in (0.975, 0.025))
    return float(low), float(high)


def table(seeds: Sequence[Record], initialisations: Sequence[Record]) -> pd.DataFrame:
    """Standard deviations over seeds and over initialisations of one seed, their 95 % intervals, and their ratio.

    A row for each cell of Table 2's 5-way Reptile, with the paper's standard deviation, and with that which evaluation
    tasks alone make of seeds that each have their own. Three of each tell ratios beyond 6.2 from none. Raises
    `ValueError` where either has fewer than two that finished.
    """
    rows = []
    for shots in shots_of(seeds):
        for setting, name in SETTINGS.items():
            paper = TABLE_2["Reptile + Transduction" if setting == "transductive" else "Reptile"]
            row = {"5-way Omniglot": f"{shots}, {name}", "Paper's ±": f"{paper[int(shots.split('-')[0]), 5][1]:.2f}"}
            found = []
            for what, records in {"seeds": seeds, "initialisations": initialisations}.items():
                values = [100 * cell["mean"] for cell in cells_of(records, shots, setting)]
                if len(values) < 2:
                    raise ValueError(f"{len(values)} of the {what} finished; a standard deviation takes two")
                spread = mean_and_spread(values)[1]
                row[f"± over {len(values)} {what}"] = _said(spread, interval(spread, len(values)))
                found.append((spread, len(values)))
            errors = [100 * cell["ci95"] / 1.96 for cell in cells_of(seeds, shots, setting)]
            row["± by tasks alone"] = f"{np.sqrt(np.mean(np.square(errors))):.2f}"
            (a, n), (b, m) = found
            low, high = ratio_interval(a / b, n, m)
            row["Ratio"] = _said(a / b, (low, high))
            rows.append(row | {"Verdict": _VERDICTS[True if low > 1 else False if high < 1 else None]})
    return pd.DataFrame(rows)


def _said(number: float, within: tuple[float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(number, *within)
