"""First-order meta-learning in JAX: Reptile and its relatives, and the experiments of the paper that named it.

Nothing here starts JAX on import: call `use_devices` first to choose cores or GPUs.
"""

import importlib
from typing import Any

from . import datasets as datasets
from . import nn as nn
from . import presets as presets
from . import sweeps as sweeps
from . import theory as theory
from .devices import use_devices as use_devices
from .evaluation import Accuracy as Accuracy
from .evaluation import adaptation as adaptation
from .evaluation import few_shot_accuracy as few_shot_accuracy
from .experiments import FewShotClassification as FewShotClassification
from .experiments import Measurement as Measurement
from .experiments import SineAnalysis as SineAnalysis
from .experiments import SineRegression as SineRegression
from .inner import adapt as adapt
from .inner import mean_squared_error as mean_squared_error
from .inner import reference_adam as reference_adam
from .inner import start_optimiser as start_optimiser
from .inner import sum_cross_entropy as sum_cross_entropy
from .meta import MetaGradient as MetaGradient
from .meta import fomaml as fomaml
from .meta import gradient_combination as gradient_combination
from .meta import joint_training as joint_training
from .meta import maml as maml
from .meta import reptile as reptile
from .pretrained import Pretrained as Pretrained
from .pretrained import load_pretrained as load_pretrained
from .pretrained import save_pretrained as save_pretrained
from .store import Record as Record
from .store import find_record as find_record
from .store import largest_records as largest_records
from .store import load_state as load_state
from .store import run as run
from .store import run_name as run_name
from .tasks import FewShot as FewShot
from .tasks import SineWaves as SineWaves
from .tasks import Task as Task
from .tasks import cycle as cycle
from .tasks import minibatches as minibatches
from .tasks import replacement as replacement
from .training import Learner as Learner
from .training import State as State
from .training import annealed_sgd as annealed_sgd
from .training import merge_adam as merge_adam
from .training import merge_average as merge_average
from .training import start as start
from .training import train as train


def __getattr__(name: str) -> Any:
    """`claims`, `plots`, `report` and `tables`, when first asked for."""
    # pandas and Matplotlib are a quarter of an import's memory and time, and who only trains needs neither.
    if name in ("claims", "plots", "report", "tables"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
