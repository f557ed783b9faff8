"""N-way K-shot classification: tasks made of images by class."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from .checks import whole
from .tasks import Task, draw

ImagesByClass = UInt8[Array | np.ndarray, "class drawing height width channel"]


class FewShot(eqx.Module):
    """N-way K-shot classification (Section 6.1): N classes without replacement, then examples of each without.

    **Fields:**

    - `images`: all drawings as bytes, shape `(class, drawing, height, width, channel)`, dtype uint8; or, with `counts`,
      those of all classes one after another, `(drawing, height, width, channel)`.
    - `classes`: which classes may be drawn, positions among them, shape `(choices,)`.
    - `ways`, `shots`: N and K.
    - `queries`: held-out examples per class, none by default.
    - `rotations`: whether each class also counts three more times, turned by 90°, 180° and 270°.
    - `counts`: how many drawings each class has, where they differ, shape `(class,)`. A list of arrays, one a class, is
      also taken for `images`, and counted.

    Tasks hold pairs `(x, y)`: float images in [0, 1] of shape `(examples, height, width, channel)` and labels
    0 … N-1, example after example within a class. Raises `ValueError` for what no such task can be drawn from.
    """

    images: UInt8[Array, "..."]
    classes: Int[Array, " choices"]
    ways: int = eqx.field(static=True)
    shots: int = eqx.field(static=True)
    queries: int = eqx.field(static=True)
    rotations: bool = eqx.field(static=True)
    counts: Int[Array, " class"] | None
    most: int = eqx.field(static=True)

    def __init__(
        self,
        images: Any,
        classes: Any,
        ways: int,
        shots: int,
        queries: int = 0,
        rotations: bool = False,
        counts: Any = None,
    ):
        """`images` may be NumPy's, or an `ImageClasses` with its `counts`; other arguments are the fields."""
        if hasattr(images, "of_class"):
            images, counts = images.images, images.counts
        if isinstance(images, list | tuple) or getattr(images, "dtype", None) == np.dtype(object):
            counts, images = _one_array(images)
        positions = classes if isinstance(classes, jax.Array | np.ndarray) else np.asarray(classes)
        if positions.ndim != 1 or (positions.size and not jnp.issubdtype(positions.dtype, jnp.integer)):
            raise ValueError(
                "`classes` are positions of classes, a vector of integers such as `split(data).training`; given "
                f"{positions.dtype} of shape {positions.shape}"
            )
        self.images, self.classes = jnp.asarray(images), jnp.asarray(positions, jnp.int32)
        self.ways, self.shots, self.queries = (
            whole("ways", ways),
            whole("shots", shots, 0),
            whole("queries", queries, 0),
        )
        self.rotations = bool(rotations)
        self.counts = None if counts is None else jnp.asarray(counts, jnp.int32)
        form = "(class, drawing, height, width, channel)" if counts is None else "(drawing, height, width, channel)"
        if self.images.ndim != form.count(",") + 1 or self.images.dtype != jnp.uint8:
            raise ValueError(
                f"`images` are bytes of shape {form}, uint8; given {self.images.dtype}, {self.images.shape}: floats in "
                "[0, 1] become (255 * x).round().astype('uint8')"
            )
        if rotations and self.images.shape[-3] != self.images.shape[-2]:
            shape = self.images.shape[-3:-1]
            raise ValueError(f"only square images can be turned by 90°; given {shape}: crop or resize")
        self.most = self._most(None if counts is None else np.asarray(counts))
        choices = self.classes.shape[0] * (4 if rotations else 1)
        if not 1 <= ways <= choices:
            raise ValueError(f"{ways}-way tasks need {ways} classes, and there are {choices}: lower `ways`")

    def _most(self, counts):
        """The most drawings that a class has; what is wrong with the numbers of classes and drawings is raised."""
        there = self.images.shape[0] if counts is None else len(counts)
        # Inside a compiled program they have no values yet.
        known = not isinstance(self.classes, jax.core.Tracer) and self.classes.size
        if known and (self.classes.min() < 0 or self.classes.max() >= there):
            raise ValueError(
                f"`classes` are from {self.classes.min()} to {self.classes.max()}, and `images` has classes 0 to "
                f"{there - 1}"
            )
        if known and len(np.unique(self.classes)) < self.classes.size:
            raise ValueError("`classes` names a class more than once, and a task would have it under two labels")
        most = least = self.images.shape[1]
        if counts is not None:
            whole = jnp.issubdtype(counts.dtype, jnp.integer) and counts.min(initial=0) >= 0
            if not whole or counts.sum() != self.images.shape[0]:
                raise ValueError(
                    f"`counts` are how many drawings each class has, {self.images.shape[0]} in all; given {counts}"
                )
            most, least = int(counts.max()), int(counts[np.asarray(self.classes)].min() if known else counts.min())
        if self.shots < 1 or self.queries < 0 or self.shots + self.queries > least:
            raise ValueError(
                f"{self.shots} shots and {self.queries} held-out examples need 1 to {least} drawings of each class, "
                f"and there are {least}{' of the smallest' if most > least else ''}: lower `shots`, or leave it out of "
                "`classes`"
            )
        return most

    def __call__(self, key: PRNGKeyArray) -> Task:
        """One task, a pure function of `key`."""
        class_key, drawing_key = jax.random.split(key)
        count = self.classes.shape[0]
        turned = draw(class_key, count * (4 if self.rotations else 1), self.ways)
        chosen = self.classes[turned % count]
        keys, wanted = jax.random.split(drawing_key, self.ways), self.shots + self.queries
        if self.counts is None:
            images = self.images[chosen[:, None], jax.vmap(lambda k: draw(k, self.most, wanted))(keys)]
        else:
            drawings = jax.vmap(lambda k, n: draw(k, self.most, wanted, n))(keys, self.counts[chosen])
            images = self.images[(jnp.cumsum(self.counts) - self.counts)[chosen][:, None] + drawings]
        if self.rotations:
            images = _quarter_turns(images, (turned // count)[:, None, None, None, None])
        x = images.astype(jnp.result_type(float)) / 255
        support = _labelled(x[:, : self.shots])
        return Task(support, _labelled(x[:, self.shots :]) if self.queries else None)


def _one_array(by_class):
    """A list of arrays, one for each class, as how many drawings each has and all of them one after another."""
    shapes = {np.shape(images)[1:] for images in by_class}
    if len(shapes) != 1 or any(np.asarray(images).dtype != np.uint8 for images in by_class):
        raise ValueError(
            "a list of classes has arrays of bytes for `images`, uint8, each (drawing, height, width, channel), all of "
            f"one size; given sizes {sorted(shapes)} of "
            f"{sorted({str(np.asarray(images).dtype) for images in by_class})}: resize them, as `datasets.folder` does"
        )
    return [len(images) for images in by_class], np.concatenate(list(by_class))


def _quarter_turns(images, turns):
    """Turn `images`, shape `(way, drawing, height, width, channel)`, by `turns` times 90°: 0 to 3, broadcast."""
    images = jnp.where(turns % 2 == 1, jnp.rot90(images, 1, axes=(2, 3)), images)
    return jnp.where(turns >= 2, jnp.flip(images, (2, 3)), images)


def _labelled(x):
    """Flatten `(way, shot, …)` images to examples with their class's position as label."""
    ways, shots = x.shape[:2]
    return x.reshape(ways * shots, *x.shape[2:]), jnp.repeat(jnp.arange(ways), shots)
