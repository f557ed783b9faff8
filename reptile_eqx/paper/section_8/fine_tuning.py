"""Joint training plus fine-tuning as Section 7 means it: characters keep their labels, then a new head is adapted.

Notebook 4's joint training permutes the labels in every task, so that it cannot learn any character. Here a network
tells all training characters apart. For a task its head is put away, and a fresh one is adapted with the rest of it.
Reptile is measured in the same way, with its own head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ...checks import number, whole
from ...datasets.common import ImageClasses
from ...evaluation import mean_and_interval
from ...few_shot import FewShot
from ...inner import adapt, start_optimiser
from ...losses import sum_cross_entropy
from ...nn import OmniglotNetwork
from ...optimisers import reference_adam
from ...runs.configuration import Measurement, Numbers
from .supervised import Supervised
from .variants import QUERIES, Variant

SHOTS = 1

Prepare = Callable[[PyTree, int, PRNGKeyArray], tuple[PyTree, PyTree]]
"""Of a trained state, ways and a key: the network to adapt, and the state of Adam that it starts from."""


@dataclass(frozen=True)
class FineTuned:
    """A training whose network is fine-tuned afterwards: with each of Adam's learning rates `tuning_rates`, and judged
    after each of `tuning_steps` full-batch steps."""

    tuning_rates: tuple[float | int, ...] | list[float | int] = (1e-3, 3e-3)
    tuning_steps: tuple[int, ...] | list[int] = (5, 15)

    def __post_init__(self):
        for field, checked in (("tuning_rates", number), ("tuning_steps", whole)):
            if not (values := tuple(checked(field, value) for value in getattr(self, field))):
                raise ValueError(f"`{field}` is empty; expected one or more")
            object.__setattr__(self, field, values)
        if any(np.diff(self.tuning_steps) < 1):
            raise ValueError(f"`tuning_steps` is {self.tuning_steps}; expected each to be larger than the one before")

    def accuracies(
        self, prepare: Prepare, data: ImageClasses, split: Sequence[Array], ways: Sequence[int], tasks: int
    ) -> tuple[Measurement, ...]:
        """Transductive accuracy on the characters to choose settings by and on those to evaluate on, the last two of
        `split`. A measurement's mean has shape `(rate, steps)`.
        """
        stretches = np.diff((0, *self.tuning_steps)).tolist()

        def at(part, classes, n):
            few = FewShot(data.images, classes, n, SHOTS, QUERIES)

            def measure(state, key):
                task_key, head_key = jax.random.split(key)
                task, begun = few(task_key), prepare(state, n, head_key)

                def along(rate):
                    model, inner = begun
                    seen = []
                    for steps in stretches:  # accuracy takes longer than a step, and is asked of few
                        batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), task.support)
                        model, inner, *_ = adapt(sum_cross_entropy, reference_adam(rate), model, inner, batches)
                        seen.append(jnp.mean(model(task.query[0]).argmax(1) == task.query[1]))
                    return jnp.stack(seen)

                return jax.lax.map(along, jnp.array(self.tuning_rates))

            return Measurement(f"{part} {n}-way", tasks, measure, mean_and_interval)

        parts = zip(("validation", "evaluation"), split[1:], strict=True)
        return tuple(at(part, classes, n) for part, classes in parts for n in ways)


@dataclass(frozen=True)
class JointTraining(FineTuned, Supervised):
    """A network that tells the training characters apart, each turned by quarters as well, by Adam. It is fine-tuned
    on characters that it has not seen, with a new head, to tasks of each of `eval_ways`."""

    measured: ClassVar[tuple[str, ...]] = (*Supervised.measured, "tuning_rates", "tuning_steps", "eval_ways")

    turned: bool = True
    optimiser: str = "adam"
    learning_rate: float | int = 1e-3
    curve_points: int = 0
    eval_ways: tuple[int, ...] | list[int] = (5, 20)

    def __post_init__(self):
        Supervised.__post_init__(self)
        FineTuned.__post_init__(self)
        object.__setattr__(self, "eval_ways", tuple(whole("eval_ways", ways) for ways in self.eval_ways))

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"open-joint-{self.outer_iterations}-seed{self.seed}"

    def measurements(self, data: ImageClasses, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """What `accuracies` has, from a new head and a new state of Adam."""

        def prepare(state, ways, key):
            network = eqx.tree_at(lambda net: net.blocks, OmniglotNetwork(ways, key=key), state.model.blocks)
            return network, start_optimiser(reference_adam(1.0), network)

        split = self.split(data, numbers)
        return self.accuracies(prepare, data, split, self.eval_ways, self.eval_tasks) if final else ()


@dataclass(frozen=True)
class FineTunedReptile(FineTuned, Variant):
    """Reptile, fine-tuned like `JointTraining`, on tasks of its own number of ways, from its own head and its own state
    of Adam."""

    measured: ClassVar[tuple[str, ...]] = (*Variant.measured, "tuning_rates", "tuning_steps")

    curve_points: int = 0

    def __post_init__(self):
        Variant.__post_init__(self)
        FineTuned.__post_init__(self)

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{super().name}-fine-tuned"

    def measurements(self, data: ImageClasses, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """What `accuracies` has."""

        def prepare(state, ways, key):
            adam, _ = state.inner
            return state.model, adam

        return (
            self.accuracies(prepare, data, self.classes(data, numbers), (self.ways,), self.eval_tasks) if final else ()
        )
