"""Section 4's trainings, watched for what Section 5 says of gradients and of solutions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from ..evaluation import mean_and_interval
from ..losses import mean_squared_error
from ..runs.configuration import Measurement, Numbers
from ..runs.records import Record
from ..tasks import SineWaves
from .experiments import SineRegression
from .theory import flatten


@dataclass(frozen=True)
class SineAnalysis(SineRegression):
    """The same training, watched along the way for what Section 5 says of it; at the end only where nothing is trained
    ("random"), which is iteration 0 of the others with the same seed.

    Per task: the inner products of the gradients of two mini-batches, from one task (`same`) and from two (`other`),
    and their cosines (`cosine_same`, `cosine_other`); what a step of size `eval_step_size` on one of them takes off the
    loss of the other (`gain_same`, `gain_other`); and the distance from φ to where `eval_inner_iterations` steps on the
    whole wave lead (`distance`), with the loss there.
    """

    measured: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """What the run is called."""
        return super().name.replace("sine-", "sine-watched-", 1)

    def measurements(self, data: None, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """What the class says."""
        tasks = SineWaves(points=20)

        def watch(state, key):
            (x, y), wave = tasks(key)
            stranger = tasks(jax.random.fold_in(key, 1)).support
            same, other = (x[10:], y[10:]), (stranger[0][:10], stranger[1][:10])
            phi, loss = flatten(mean_squared_error, state.model)
            gradient = jax.grad(loss)
            own = gradient(phi, (x[:10], y[:10]))
            stepped = phi - self.eval_step_size * own

            def beside(batch):
                theirs = gradient(phi, batch)
                product = jnp.vdot(own, theirs)
                cosine = product / (jnp.linalg.norm(own) * jnp.linalg.norm(theirs))
                return product, cosine, loss(phi, batch) - loss(stepped, batch)

            def solution(_, at):
                return at - self.eval_step_size * gradient(at, wave)

            solved = jax.lax.fori_loop(0, self.eval_inner_iterations, solution, phi)
            return {
                **dict(zip(("same", "cosine_same", "gain_same"), beside(same), strict=True)),
                **dict(zip(("other", "cosine_other", "gain_other"), beside(other), strict=True)),
                "distance": jnp.linalg.norm(solved - phi),
                "loss_there": loss(solved, wave),
            }

        def summarise(values):
            return {name: mean_and_interval(leaf) for name, leaf in values.items()}

        untrained = self.algorithm == "random"
        return (Measurement("watched", self.curve_tasks, watch, summarise),) if final == untrained else ()


def from_the_start(methods: Mapping[str, Sequence[Record]], untrained: str) -> dict[str, list[Record]]:
    """The records of `SineAnalysis` trainings, with what was measured before them as the first point of their curves.

    `methods` has them by label, and by the label `untrained` those of "random", which is left out. All methods begin
    with the same weights where their seeds are the same.
    """
    first = {record.config["seed"]: {"iteration": 0, **record.results} for record in methods[untrained]}
    return {
        label: [replace(record, curve=[first[record.config["seed"]], *record.curve]) for record in records]
        for label, records in methods.items()
        if label != untrained
    }
