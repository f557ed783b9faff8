"""Task distributions and mini-batch schedules.

A task distribution is any function of a key that returns a `Task`. Examples are a pytree of arrays that share
their first axis, usually a pair `(x, y)`; no class of ours need be subclassed.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, UInt8

Examples = PyTree[Array | np.ndarray]
ImagesByClass = UInt8[Array | np.ndarray, "class drawing height width channel"]


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

    points: int = eqx.field(static=True, default=10)
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


class FewShot(eqx.Module):
    """N-way K-shot classification (Section 6.1): N classes without replacement, then examples of each without.

    **Fields:**

    - `images`: all drawings as bytes, shape `(class, drawing, height, width, channel)`, dtype uint8.
    - `classes`: which classes may be drawn, integers into `images`' first axis, shape `(classes,)`.
    - `ways`, `shots`: N and K.
    - `queries`: held-out examples per class, none by default.
    - `rotations`: whether each class also counts three more times, turned by 90°, 180° and 270°.

    Tasks hold pairs `(x, y)`: float images in [0, 1] of shape `(examples, height, width, channel)` and labels
    0 … N-1, example after example within a class.
    """

    images: ImagesByClass = eqx.field(converter=jnp.asarray)
    classes: Int[Array, " choices"] = eqx.field(converter=jnp.asarray)
    ways: int = eqx.field(static=True)
    shots: int = eqx.field(static=True)
    queries: int = eqx.field(static=True, default=0)
    rotations: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.images.ndim != 5 or self.images.dtype != jnp.uint8:
            raise ValueError(
                "`images` are bytes of shape (class, drawing, height, width, channel), uint8; given "
                f"{self.images.dtype}, {self.images.shape}: floats in [0, 1] become (255 * x).round().astype('uint8')"
            )
        if self.rotations and self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"only square images can be turned by 90°; given {self.images.shape[2:4]}: crop or resize")
        if self.classes.ndim != 1 or not jnp.issubdtype(self.classes.dtype, jnp.integer):
            raise ValueError(
                "`classes` are positions along the first axis of `images`, a vector of integers; given "
                f"{self.classes.dtype} of shape {self.classes.shape}"
            )
        # Inside a compiled program they have no values yet.
        if not isinstance(self.classes, jax.core.Tracer) and self.classes.size:
            least, most = int(self.classes.min()), int(self.classes.max())
            if least < 0 or most >= self.images.shape[0]:
                raise ValueError(
                    f"`classes` are from {least} to {most}, and `images` has classes 0 to {self.images.shape[0] - 1}"
                )
        choices = self.classes.shape[0] * (4 if self.rotations else 1)
        if not 1 <= self.ways <= choices:
            raise ValueError(f"{self.ways}-way tasks need {self.ways} classes, and there are {choices}: lower `ways`")
        wanted, drawings = self.shots + self.queries, self.images.shape[1]
        if self.shots < 1 or self.queries < 0 or wanted > drawings:
            raise ValueError(
                f"{self.shots} shots and {self.queries} held-out examples need 1 to {drawings} drawings of each "
                f"class, and there are {drawings}: lower `shots`"
            )

    def __call__(self, key: PRNGKeyArray) -> Task:
        """One task, a pure function of `key`."""
        class_key, drawing_key = jax.random.split(key)
        count = self.classes.shape[0]
        chosen = draw(class_key, count * (4 if self.rotations else 1), self.ways)
        drawing_keys = jax.random.split(drawing_key, self.ways)
        drawings = jax.vmap(lambda k: draw(k, self.images.shape[1], self.shots + self.queries))(drawing_keys)
        images = self.images[self.classes[chosen % count][:, None], drawings]
        if self.rotations:
            images = _quarter_turns(images, (chosen // count)[:, None, None, None, None])
        x = images.astype(jnp.result_type(float)) / 255
        support = _labelled(x[:, : self.shots])
        return Task(support, _labelled(x[:, self.shots :]) if self.queries else None)


def _quarter_turns(images, turns):
    """Turn `images`, shape `(way, drawing, height, width, channel)`, by `turns` times 90°: 0 to 3, broadcast."""
    images = jnp.where(turns % 2 == 1, jnp.rot90(images, 1, axes=(2, 3)), images)
    return jnp.where(turns >= 2, jnp.flip(images, (2, 3)), images)


def _labelled(x):
    """Flatten `(way, shot, …)` images to examples with their class's position as label."""
    ways, shots = x.shape[:2]
    return x.reshape(ways * shots, *x.shape[2:]), jnp.repeat(jnp.arange(ways), shots)


def draw(key: PRNGKeyArray, population: int, count: int) -> Int[Array, " count"]:
    """`count` of the integers 0 … `population` - 1 in random order, without repeats."""
    # top_k of floats is one pass; of integers, and in jax.random.choice, the whole population is sorted.
    return jax.lax.top_k(jax.random.uniform(key, (population,), jnp.float32), count)[1]


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
    indices = schedule(key, count_examples(examples), batch_size, steps)
    return jax.tree.map(lambda leaf: leaf[indices], examples)


def count_examples(examples: Examples) -> int:
    """How many examples a pytree of arrays holds; raises `ValueError` where its arrays disagree."""
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(examples)}
    if len(sizes) != 1:
        raise ValueError(f"the arrays of a task's examples must share their first axis; found lengths {sorted(sizes)}")
    return sizes.pop()
