"""What is left of a gradient after the inner loop, against the same by hand on a loss that is known."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reptile_eqx import Task
from reptile_eqx.paper.overlap import what_is_left


class Point(eqx.Module):
    at: jax.Array


def pull(model, batch, key=None):
    """Half the squared distance from each example, summed: its gradient is n·φ - Σx."""
    return 0.5 * jnp.sum((model.at - batch) ** 2)


def test_lengths_and_gains_are_those_of_the_gradients_by_hand():
    examples, query = jnp.arange(6.0), jnp.array([10.0, 11.0])
    keys = jax.random.split(jax.random.key(0), 3)
    found = what_is_left(pull, Point(jnp.array(20.0)), lambda key: Task(examples, query), keys, 0.1, 2, 2)
    assert set(found) == {"seen first", "seen last", "not seen"}

    def loss(at, xs):
        return 0.5 * np.sum((at - np.asarray(xs)) ** 2)

    for task in range(3):
        # All ways to cut six examples into three batches; the numbers found are those of one of them.
        wanted = []
        for order in map(list, itertools.permutations(range(6))):
            batches = [np.arange(6.0)[order[i : i + 2]] for i in (0, 2, 4)]
            phi = 20.0
            for batch in batches[:2]:
                phi -= 0.1 * (2 * phi - batch.sum())
            row = []
            for batch in batches:
                slope = 2 * phi - batch.sum()
                row += [abs(slope) / abs(40 - batch.sum()), loss(phi, query) - loss(phi - 0.1 * slope, query)]
            wanted.append(row)
        mine = [float(value[task]) for name in ("seen first", "seen last", "not seen") for value in found[name]]
        assert np.min(np.abs(np.array(wanted) - mine).max(1)) == pytest.approx(0, abs=1e-3)


def test_a_support_without_a_batch_that_was_not_seen_is_refused():
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="3 batches of 2 that do not overlap take more than 4 examples"):
        what_is_left(pull, Point(jnp.array(20.0)), lambda key: Task(jnp.arange(4.0), jnp.ones(2)), keys, 0.1, 2, 2)
