"""First-order meta-learning in JAX: Reptile and its relatives, an engine that trains them, and their paper.

The library is what is here, with `nn` and `datasets`; `run` trains configurations and keeps the results; `paper` has
the experiments of the paper that named Reptile, and loads when it is first asked for.

Nothing here starts JAX on import: call `use_devices` first to choose cores or GPUs.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from . import datasets, nn
from .evaluation import Accuracy, QueryAccuracy, QueryLoss, adaptation, few_shot_accuracy, mean_and_interval
from .few_shot import FewShot
from .initialisation import Classifier, Initialisation
from .inner import Adapted, Frozen, adapt, start_optimiser, trainable
from .losses import mean_cross_entropy, mean_squared_error, sum_cross_entropy
from .meta import fomaml, gradient_combination, joint_training, maml, reptile
from .optimisers import OwnSteps, annealed_sgd, merge_adam, merge_average, only, own_sgd, recorded, reference_adam
from .runs.configuration import Configuration, Measurement
from .runs.devices import use_devices
from .runs.fit import Fit, fit
from .runs.records import Record, find_record
from .runs.run import load_state, run
from .saving import load, save
from .tasks import SineWaves, Task, TaskList, cycle, minibatches, pad, replacement
from .training import Learner, MetaGradient, State, start, train

if TYPE_CHECKING:
    __version__: str
    from . import paper
    from .paper.pretrained import Pretrained, load_pretrained

_PRETRAINED = ("Pretrained", "load_pretrained")

__all__ = [
    "Accuracy", "Adapted", "Classifier", "Configuration", "FewShot", "Fit", "Frozen", "Initialisation", "Learner",
    "Measurement", "MetaGradient", "OwnSteps", "Pretrained", "QueryAccuracy", "QueryLoss", "Record", "SineWaves",
    "State", "Task", "TaskList", "adapt", "adaptation", "annealed_sgd", "cycle", "datasets", "few_shot_accuracy",
    "find_record", "fit", "fomaml", "gradient_combination", "joint_training", "load", "load_pretrained", "load_state",
    "maml", "mean_and_interval", "mean_cross_entropy", "mean_squared_error", "merge_adam", "merge_average",
    "minibatches", "nn", "only", "own_sgd", "pad", "paper", "recorded", "reference_adam", "replacement", "reptile",
    "run", "save", "start", "start_optimiser", "sum_cross_entropy", "train", "trainable", "use_devices",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("reptile-eqx")
    if name == "paper":
        return importlib.import_module(f"{__name__}.paper")
    if name in _PRETRAINED:
        return getattr(importlib.import_module(f"{__name__}.paper.pretrained"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
