"""Trained initialisations that come with the package: `load_pretrained("omniglot-5way")`."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..datasets import ImageClasses
from ..few_shot import FewShot
from ..initialisation import Initialisation
from ..saving import load
from .experiments import FewShotClassification

FOLDER = Path(__file__).parent / "initialisations"


class Pretrained(Initialisation):
    """An `Initialisation` of this paper's, in float32, that knows the run it comes from."""

    @property
    def config(self) -> FewShotClassification:
        """The configuration it was trained by."""
        return FewShotClassification(**self.about["config"])

    def unseen(self, data: ImageClasses, *, shots: int, queries: int = 1) -> FewShot:
        """Tasks of the classes that it was not trained on, of the dataset it was trained on (`datasets.load`)."""
        return self.config.tasks(data, {"seed": self.config.seed}, training=False, shots=shots, queries=queries)

    @property
    def record(self) -> str:
        """The name of the run's record in `figures/runs/`."""
        return self.about["record"]

    @property
    def results(self) -> dict[str, Any]:
        """The accuracies of that record."""
        return self.about["results"]


def names() -> list[str]:
    """What `load_pretrained` takes."""
    return sorted(file.stem for file in FOLDER.glob("*.eqx"))


def load_pretrained(name: str) -> Pretrained:
    """A published initialisation, such as "omniglot-5way". It takes no data; a file of your own is for `load`.

    Raises `ValueError` for a name that is not there.
    """
    if name not in names():
        raise ValueError(
            f"no published initialisation {name!r}; there are {', '.join(names())}; a file of your own is for rx.load"
        )
    start = load(FOLDER / f"{name}.eqx")
    return Pretrained(**{field.name: getattr(start, field.name) for field in fields(Initialisation)})
