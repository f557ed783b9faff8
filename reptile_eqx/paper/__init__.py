"""The paper: its settings, experiments and results. `rx.paper.NAME` loads a module when it is first asked for.

| module | what it has |
|---|---|
| `settings` | Tables 1 to 6 and the sweeps of Figures 3 and 4, as data |
| `experiments` | the configurations of Sections 4 to 6 |
| `catalogue` | all that is trained, by profile, in order of worth |
| `theory`, `manifolds`, `watched` | Section 5.1; Section 5.2; either along a training |
| `statistics`, `claims`, `tables`, `plots`, `report` | records: their numbers, what they say, how they are shown |
| `pretrained` | trained initialisations that come with the package |
| `plan`, `operations`, `bench` | working it off, what it costs, how fast that is here |
| `agreement`, `spread` | when an accuracy agrees with the paper's; how far seeds and initialisations lie apart |
| `overlap` | what gradients on seen images are worth |
| `own` | pictures to begin with, and figures, for the notebook on tasks of one's own |
| `playground` | widgets: a wave whose points one drags, a canvas, sliders |
| `section_8` | the questions that the paper left open, each with an experiment |
"""

import importlib
import pkgutil
from types import ModuleType

MODULES = tuple(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(MODULES)}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"{__name__}.{name} needs {missing.name}, which the extra `notebooks` has: "
            "pip install 'reptile-eqx[notebooks]'"
        ) from missing


def __dir__() -> list[str]:
    return list(MODULES)
