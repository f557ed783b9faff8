"""Task distributions and mini-batch schedules.

A task distribution is any function of a key that returns a `Task`. Examples are a pytree of arrays that share
their first axis, usually a pair `(x, y)`; no class of ours need be subclassed.
"""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .checks import whole

Examples = PyTree[Array | np.ndarray]


class Task(NamedTuple):
    """One task: the examples the learner adapts to, and those it is judged by.

    `support` and `query` are pytrees of arrays that share their first axis (the examples). Reptile has no
    train-test split (Section 3), so its tasks need no `query`.
    """

    support: Any
    query: Any = None


class SineWaves(eqx.Module):
    """Section 4's distribution: a·sin(x + b) with a ~ U[0.1, 5.0], b ~ U[0, 2π], on [-5, 5].

    The support is `points` examples, the query 50 equally spaced ones, which eq. 8 integrates over.
    With `spaced=True`, as in meta-training, the support is the query's 50 points instead of random ones.

    Both are pairs `(x, y)` of shape `(points, 1)`.
    """

    points: int = eqx.field(static=True, default=10, converter=lambda points: whole("points", points))
    spaced: bool = eqx.field(static=True, default=False)

    def __call__(self, key: PRNGKeyArray) -> Task:
        """One task, a pure function of `key`."""
        amplitude_key, phase_key, points_key = jax.random.split(key, 3)
        amplitude = jax.random.uniform(amplitude_key, minval=0.1, maxval=5.0)
        phase = jax.random.uniform(phase_key, maxval=2 * jnp.pi)

        def wave(x):
            return x, amplitude * jnp.sin(x + phase)

        query = wave(jnp.linspace(-5.0, 5.0, 50)[:, None])
        if self.spaced:
            return Task(query, query)
        x = jax.random.uniform(points_key, (self.points, 1), minval=-5.0, maxval=5.0)
        return Task(wave(x), query)


def draw(
    key: PRNGKeyArray, population: int, count: int, among: int | Int[Array, ""] | None = None
) -> Int[Array, " count"]:
    """`count` of the integers 0 … `population` - 1 in random order, without repeats; only of those below `among`."""
    # top_k of floats is one pass; of integers, and in jax.random.choice, the whole population is sorted.
    ranks = jax.random.uniform(key, (population,), jnp.float32)
    if among is not None:
        ranks = jnp.where(jnp.arange(population) < among, ranks, -1)
    return jax.lax.top_k(ranks, count)[1]


def cycle(key: PRNGKeyArray, examples: int, batch_size: int, steps: int) -> Int[Array, "{steps} {batch_size}"]:
    """The mini-batches of a task, cut in order from reshuffled passes over its examples.

    A batch may straddle two passes, as in the authors' program.

    **Arguments:** the key, the number of examples, the batch size, the number of batches.

    **Returns:** indices into the examples, shape `(steps, batch_size)`.
    """
    passes = -(-steps * batch_size // examples)
    order = jax.vmap(lambda k: draw(k, examples, examples))(jax.random.split(key, passes))
    return order.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)


def replacement(key: PRNGKeyArray, examples: int, batch_size: int, steps: int) -> Int[Array, "{steps} {batch_size}"]:
    """The mini-batches of a task, each drawn afresh, without repeats inside a batch.

    Arguments and result are those of `cycle`; raises `ValueError` where a batch would need more examples than
    there are.
    """
    if batch_size > examples:
        raise ValueError(
            f"a batch of {batch_size} without repeats needs {batch_size} examples, and the task has {examples}: "
            "lower the batch size, raise the shots, or use the schedule `cycle`"
        )
    return jax.vmap(lambda k: draw(k, examples, batch_size))(jax.random.split(key, steps))


SCHEDULES = {"cycle": cycle, "replacement": replacement}


def minibatches(schedule, key: PRNGKeyArray, examples: Examples, batch_size: int, steps: int) -> Examples:
    """Cut `examples` into `steps` mini-batches: the same pytree with leading axes `(steps, batch_size)`."""
    batch_size, steps = whole("batch_size", batch_size), whole("steps", steps, 0)
    indices = schedule(key, count_examples(examples), batch_size, steps)
    return jax.tree.map(lambda leaf: leaf[indices], examples)


def count_examples(examples: Examples) -> int:
    """How many examples a pytree of arrays holds; raises `ValueError` where its arrays disagree."""
    leaves = jax.tree.leaves(examples)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError("a task's examples are arrays that share their first axis; given none, or numbers, or a list")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"the arrays of a task's examples must share their first axis; found lengths {sorted(sizes)}")
    if sizes == {0}:
        raise ValueError("a task has no examples: its arrays have a first axis of 0")
    return sizes.pop()


class TaskList(eqx.Module):
    """A task distribution that draws one of the given tasks, each with the same chance: `TaskList([task, task, …])`.

    A compiled program cannot look into a Python list, so the tasks' arrays are stacked.
    """

    tasks: Task

    def __init__(self, tasks: Any):
        """Raises `ValueError` for no tasks and for tasks of several shapes, `TypeError` for what is no `Task`."""
        if isinstance(tasks, Task) or not all(isinstance(task, Task) for task in tasks):
            raise TypeError("a list of tasks has a `Task(support, query)` in every place; given something else")
        if not tasks:
            raise ValueError("a list of tasks needs a task; given none")
        first, *others = (jax.tree.map(np.asarray, task) for task in tasks)
        for i, other in enumerate(others, 1):
            if jax.tree.map(np.shape, other) != jax.tree.map(np.shape, first):
                raise ValueError(
                    f"task {i} has arrays of {_shapes(other)}, and task 0 of {_shapes(first)}; stacked tasks have one "
                    "shape: pad their examples, `rx.Task(rx.pad(support, length), rx.pad(query, length))`"
                )
        self.tasks = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), first, *others)

    def __call__(self, key: PRNGKeyArray) -> Task:
        """One of the tasks, a pure function of `key`."""
        return self.at(jax.random.randint(key, (), 0, jax.tree.leaves(self.tasks)[0].shape[0]))

    def at(self, position: int | Int[Array, ""]) -> Task:
        """The task at a position."""
        return jax.tree.map(lambda leaf: leaf[position], self.tasks)


def _shapes(tree):
    return ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def pad(examples: Any, length: int) -> Examples:
    """Examples `(x, y)` as `(x, y, mask)` with `length` of each: zeros after the real ones, and a mask that is true for
    the real ones. The losses of this package take such batches, and count the real examples only. `few_shot_accuracy`
    does not take them.

    Raises `ValueError` for more examples than `length`, and for none; `TypeError` for other examples than a pair.
    """
    if isinstance(examples, Task) or not isinstance(examples, tuple | list) or len(examples) != 2:
        raise TypeError(
            f"only examples (x, y) can be padded; given a {type(examples).__name__}: for others, stack arrays of one "
            "length and a mask of your own, which your loss takes"
        )
    count = count_examples(examples)
    length = whole("length", length, 0)
    if not 1 <= count <= length:
        raise ValueError(
            f"{count} examples cannot be padded to {length}: there must be 1 or more, and `length` as many"
        )
    padded = jax.tree.map(
        lambda leaf: np.pad(np.asarray(leaf), [(0, length - count)] + [(0, 0)] * (np.ndim(leaf) - 1)), tuple(examples)
    )
    return (*padded, np.arange(length) < count)


def check_tasks(tasks: Any) -> None:
    """Warn where tasks do not take all of their random numbers from their key; raise `TypeError` for what is no
    function from a key to a task.

    Compiling would trace the function once. Here it is traced twice: a difference shows that NumPy or Python draw
    inside.
    """
    if not callable(tasks):
        raise TypeError(
            f"`tasks` is a function from a key to a `Task`; given a {type(tasks).__name__}: rx.TaskList(tasks) makes "
            "one of a list of tasks"
        )
    try:
        # JAX keeps the traces of functions that it has seen.
        once, again = (jax.make_jaxpr(lambda key: _a_task(tasks(key)))(jax.random.PRNGKey(0)) for _ in range(2))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError(
            "the task distribution needs the value of its key, or of a number drawn from it, while it is compiled, as "
            "int(…), NumPy and Python's lists do: stack the tasks, as rx.TaskList(tasks) does, and index their arrays"
        ) from error
    if not _depends(once.jaxpr):
        why = "it sees one task for ever"
    elif str(once) != str(again) or not _same(once.consts, again.consts):
        why = "what it draws otherwise stays the same for ever"
    else:
        return
    warnings.warn(
        f"the task distribution does not take all of its random numbers from its key: {why}. Draw with jax.random and "
        "the key, or index stacked arrays (rx.TaskList); numpy.random and random are asked once, when it is compiled",
        stacklevel=3,
    )


def _a_task(made):
    if not hasattr(made, "support") or not hasattr(made, "query"):
        raise TypeError(f"the task distribution returned a {type(made).__name__}; expected rx.Task(support, query)")
    return made.support, made.query


def _depends(jaxpr):
    """Whether an output of a program depends on its inputs."""
    known = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not hasattr(variable, "val") and variable in known for variable in equation.invars):
            known.update(equation.outvars)
    return any(not hasattr(variable, "val") and variable in known for variable in jaxpr.outvars)


def _same(some, others):
    return all(
        a is b or isinstance(a, jax.core.Tracer) or np.array_equal(a, b) for a, b in zip(some, others, strict=True)
    )
