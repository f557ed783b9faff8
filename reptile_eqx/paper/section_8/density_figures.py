"""The figures of few-shot density modelling, drawn from the records of `density.runs` alone."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ...runs.records import Record
from ..plots import COLOURS, STYLES
from ..statistics import finished, over_seeds
from .density import bits, unpacked

_MARKS = {"Joint training": "s", "Reptile": "o"}


def bits_by_steps(records: Mapping[str, Sequence[Record]], note: str = "") -> Figure:
    """Bits per pixel of other drawings of unseen characters against gradient steps, a panel for each number of shots.

    They are shown above joint training's before adaptation, seed by seed, as seeds differ more in which characters they
    hold out than methods do. Means over seeds, shaded the 95 % interval over them (Student's t); a large mark is at the
    number of steps that was chosen on validation characters. What was not trained is far above, and left out.
    """
    trained = {method: finished(of) for method, of in records.items() if of[0].config["outer_iterations"]}
    shots_of = trained["Joint training"][0].config["eval_shots"]
    figure, row = plt.subplots(1, len(shots_of), figsize=(9, 3.8), squeeze=False, sharey=True, layout="constrained")
    highest = 0.0
    for place, (axes, shots) in enumerate(zip(row[0], shots_of, strict=True)):
        start = bits(trained["Joint training"], shots, adapted=False)
        for method, of in trained.items():
            curves = [
                np.array(record.results[f"{shots}-shot"]["mean"][0]) - start[record.config["seed"]]
                for record in of
                if record.config["seed"] in start
            ]
            mean, interval = np.array([over_seeds(column) for column in np.transpose(curves)]).T
            steps, at = np.arange(len(mean)), of[0].config["eval_steps"][place]
            colour, mark = COLOURS[method], _MARKS[method]
            axes.plot(steps, mean, STYLES[method], marker=mark, markersize=3, color=colour, label=method)
            axes.fill_between(steps, mean - interval, mean + interval, color=colour, alpha=0.2, linewidth=0)
            axes.plot(at, mean[at], mark, color=colour, markersize=9, zorder=5)
            highest = max(highest, 2.5 * mean[0])  # After too many steps on one drawing curves leave for far above.
        axes.set(title=f"{shots} drawing{'s' if shots > 1 else ''}", xlabel="gradient steps on them")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    row[0][0].set_ylim(top=highest or None)
    row[0][0].set_ylabel("bits per pixel above joint training's\nbefore adaptation")
    labels = row[0][0].get_legend_handles_labels()
    figure.legend(*labels, frameon=False, loc="outside lower center", ncols=3, fontsize=8, handlelength=3.5)
    title = "Other drawings of unseen characters, under models adapted to a few"
    seeds = (
        f"shaded: 95 % interval over {len(start)} training seeds; large marks: steps chosen on validation characters"
    )
    figure.suptitle("\n".join(filter(None, (title, seeds, note))), fontsize=10)
    return figure


def samples(records: Mapping[str, Record], note: str = "") -> Figure:
    """Drawings that models make up: of each method's record, a sheet. The first row is before adaptation, and each
    other row after adaptation to five drawings of an unseen character, which the first sheet has.

    The records are of one seed, so that they show the same characters.
    """
    shown = [record.results["shown"] for record in records.values()]
    support = shown[0]["support"]
    sheets = {"adapted to": [[""] * len(support[0]), *support]}
    for (method, record), some in zip(records.items(), shown, strict=True):
        sheets[f"made up: {method}"] = [*record.results["before"], *some["after"]]
    size = (2.9 * len(sheets) + 0.6, 0.58 * (len(support) + 1) + 0.8)
    figure, row = plt.subplots(1, len(sheets), figsize=size, squeeze=False, layout="constrained")
    blank = np.ones_like(_framed(support[0][0]))
    for axes, (title, texts) in zip(row[0], sheets.items(), strict=True):
        sheet = np.block([[_framed(text) if text else blank for text in line] for line in texts])
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[], frame_on=False)
    lines = ["before", *(f"character {i + 1}" for i in range(len(support)))]
    row[0][0].set_yticks(len(blank) * (np.arange(len(lines)) + 0.5), lines, fontsize=8)
    row[0][0].tick_params(length=0)
    title = "Drawings of unseen characters, and what models make up before and after adaptation to them"
    figure.suptitle(f"{title}\n({note})" if note else title, fontsize=10)
    return figure


def _framed(text):
    """A packed drawing, ink black, in a grey frame with a white margin."""
    return np.pad(np.pad(1 - unpacked(text).astype(float), 1, constant_values=0.7), 1, constant_values=1)
