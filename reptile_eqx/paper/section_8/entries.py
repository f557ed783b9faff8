"""All that the notebook of Section 8 trains, by name."""

from ..catalogue import Entry, Scale, overridden
from . import density, questions, reinforcement_runs
from .reinforcement import ENVIRONMENTS

NOTEBOOK = "7_open_questions"


def entries(scale: Scale) -> dict[str, Entry]:
    """What the notebook trains at a scale, with the scale's own settings of its runs. The paper has nothing of it, so
    that no number of iterations is the paper's."""
    runs = {
        "depth": questions.depth_runs(scale),
        "regularisers": questions.regulariser_runs(scale),
        "ordinary": questions.ordinary_runs(scale),
        "fine-tuning": questions.fine_tuning_runs(scale),
        **{environment: reinforcement_runs.runs(scale, environment) for environment in ENVIRONMENTS},
        "density": density.runs(scale),
    }
    return overridden([Entry(NOTEBOOK, name, some, 0) for name, some in runs.items()], scale.override)
