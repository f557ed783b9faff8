"""`rx.run` of a configuration class that is not ours: what it asks of one, and what it keeps."""

import json
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reptile_eqx as rx
from reptile_eqx.paper.statistics import largest_records
from reptile_eqx.runs import programs


@dataclass(frozen=True)
class Descent:
    """One number descends ½(w - 1)²; a measurement is w plus noise of its own."""

    numbers: ClassVar[tuple[str, ...]] = ("seed", "step")
    measured: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    counts: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    precision: ClassVar[str] = "float32"

    outer_iterations: int
    step: float = 1  # A whole number as the default of one that need not be whole.
    seed: int = 0
    curve_points: int = 1
    eval_tasks: int = 3
    names: tuple[str, ...] = ("noisy",)

    @property
    def name(self):
        return f"descent-{self.seed}"

    def learner(self, data, numbers):
        gradient = rx.joint_training(lambda w, batch: jnp.square(w - 1).sum() / 2, optax.sgd(1.0), batch_size=1)
        tasks = lambda key: rx.Task(jnp.zeros((1, 1)))  # noqa: E731
        return rx.Learner(lambda key: jnp.zeros(1), tasks, gradient, optax.sgd(numbers["step"]))

    def measurements(self, data, numbers, *, final):
        def noisy(state, key):
            return state.model + jax.random.normal(key, (2, 1))

        def summarise(values):
            return rx.mean_and_interval(values) | {"last": values[-1, 0, 0]}

        # At the end other measurements come first.
        kinds = [rx.Measurement(name, self.eval_tasks, noisy, summarise) for name in self.names]
        return (*(rx.Measurement("before", 1, noisy, summarise) for _ in range(final)), *kinds)


@pytest.mark.parametrize("step", [0.5, 1, np.float32(0.25)])
def test_numbers_are_what_was_given_whatever_the_type_of_their_default(step):
    (record,) = rx.run([Descent(2, step=step)])
    assert record.config["step"] == step
    state = rx.load_state(Descent(2, step=step))
    np.testing.assert_allclose(state.model, 1 - (1 - step) ** 2, rtol=1e-6)


def test_numpys_numbers_are_kept_as_plain_ones(home):
    (record,) = rx.run([Descent(1, seed=np.int64(3))])
    assert record.config["seed"] == 3 and isinstance(record.results["noisy"]["last"], float)
    assert rx.find_record(Descent(1, seed=3)) == record == largest_records(Descent(1))[0]


def test_a_final_measurement_does_not_depend_on_whether_the_run_was_cut_off(home, monkeypatch):
    (whole,) = rx.run([Descent(1)])
    for kept in (home / "data" / "runs").rglob("*"):
        if kept.name.startswith("seen") or kept.suffix == ".json":
            kept.unlink()
    monkeypatch.setattr(programs, "_advance", lambda *_: pytest.fail("trained again"))
    (again,) = rx.run([Descent(1)])
    assert json.dumps(again.results) == json.dumps(whole.results)
    assert whole.results["before"]["mean"] != whole.results["noisy"]["mean"], "tasks of their own"


def test_two_measurements_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="a name of its own; given noisy, noisy"):
        rx.run([Descent(1, names=("noisy", "noisy"))])


def test_what_runs_read_must_be_arrays():
    with pytest.raises(ValueError, match=r"`data` is a dataset or a pytree of arrays; given a str"):
        rx.run([Descent(1)], {"images": "cats.npy"})
