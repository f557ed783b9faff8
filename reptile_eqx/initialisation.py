"""A trained initialisation φ with how to adapt it: use it, keep it in a file, give it a head for other classes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from .checks import whole
from .evaluation import QueryAccuracy, classify_alone, mean_and_interval
from .inner import Loss, adapt, start_optimiser
from .losses import check_labels
from .nn import over_and_over
from .tasks import Examples, Task, cycle, minibatches


class Classifier(eqx.Module):
    """An adapted network and the pictures it was adapted to, `Initialisation.classifier`'s."""

    model: PyTree
    support: Float[Array, "example ..."]

    def __call__(self, x: ArrayLike, *, transductive: bool = False) -> Int[Array, " picture"]:
        """The class of each new picture, as the labels had them; arguments are `logits`'."""
        return self.logits(x, transductive=transductive).argmax(-1)

    def logits(self, x: ArrayLike, *, transductive: bool = False) -> Float[Array, "picture way"]:
        """Logits of new pictures: bytes, or floats in [0, 1], of shape `(picture, height, width, channel)`.

        Each is classified by itself, with the pictures that the network was adapted to beside it; with `transductive`,
        all of them in one batch, through whose batch norm they tell one another something (Section 6.1).
        """
        x = as_pictures(x)
        if x.shape[1:] != self.support.shape[1:]:
            raise ValueError(
                f"new pictures have the shape (picture, {', '.join(map(str, self.support.shape[1:]))}), as those "
                f"adapted to; given {x.shape}: one picture is x[None]"
            )
        return _together(self.model, x) if transductive else _alone(self.model, self.support, x)


class Initialisation(eqx.Module):
    """A trained initialisation φ and what adaptation from it needs.

    - `model`: the trained model.
    - `inner`: the inner optimiser's state that adaptation starts from. Where it rolls, it is the one that training
      left.
    - `loss`, `optimiser`: the inner loop's.
    - `steps`, `batch_size`, `schedule`: of the adaptation.
    - `about`: what else is to be kept with it, as JSON has it.
    """

    model: PyTree
    inner: PyTree
    loss: Loss = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    schedule: Callable = eqx.field(static=True, default=cycle)
    about: dict[str, Any] = eqx.field(default_factory=dict)

    def adapt(self, support: Examples, key: PRNGKeyArray | None = None) -> PyTree:
        """The model after adaptation to a task's examples. `key` draws the mini-batches (`jax.random.key(0)`)."""
        return _adapted(self, support, jax.random.key(0) if key is None else key)

    def classifier(
        self, x: ArrayLike, labels: ArrayLike | Sequence[int], key: PRNGKeyArray | None = None
    ) -> Classifier:
        """Adapt to labelled pictures; what is returned classifies new ones.

        **Arguments:**

        - `x`: pictures as the network takes them: bytes, or floats in [0, 1], `(picture, height, width, channel)`.
        - `labels`: their classes, integers from 0 on, shape `(picture,)`. There are as many classes as different
          labels; where these are more or fewer than in training, the head is made anew (`for_ways`).
        - `key`: draws the mini-batches.

        Raises `ValueError` for labels that are not 0 … N-1 with each of them there, and for floats outside [0, 1].
        """
        x, known = as_pictures(x), np.asarray(labels)
        if known.shape != x.shape[:1]:
            raise ValueError(f"{x.shape[0]} pictures need as many labels; given labels of shape {known.shape}")
        there = np.unique(known)
        ways = len(there)
        if not np.issubdtype(known.dtype, np.integer) or there.tolist() != list(range(ways)) or not ways:
            raise ValueError(
                f"labels are integers 0, 1, … up to the number of classes less one, each of them there; given {there}: "
                "np.unique(labels, return_inverse=True)[1] numbers them so"
            )
        brightness = self.about.get("brightness")
        if brightness is not None and abs(float(x.mean()) - brightness) > 0.5:
            warnings.warn(
                f"these pictures have a mean brightness of {float(x.mean()):.2f}, those of training {brightness:.2f}: "
                "are black and white the other way round? Take 1 - x",
                stacklevel=2,
            )
        outputs = eqx.filter_eval_shape(self.model, x).shape[-1]
        start = self if ways == outputs else self.for_ways(ways)
        return Classifier(start.adapt((x, jnp.asarray(known)), key), x)

    def for_ways(self, ways: int) -> "Initialisation":
        """The same for another number of classes: the network says how its head is made anew (`ConvNetwork.for_ways`),
        and the optimiser's state for the head follows it.

        Raises `ValueError` for a model that has no `for_ways`.
        """
        if not hasattr(self.model, "for_ways"):
            raise ValueError(
                f"{type(self.model).__name__} has no method `for_ways(ways)` that gives it a head for {ways} classes: "
                "write one as nn.ConvNetwork has it, or adapt to examples of your own with `adapt`"
            )
        model = self.model.for_ways(ways)

        def resized(new, old):
            return old if new.shape == old.shape else over_and_over(old, new.shape[-1])

        inner = jax.tree.map(resized, start_optimiser(self.optimiser, model), self.inner)
        return replace(self, model=model, inner=inner)

    def accuracy(self, tasks: Callable[[PRNGKeyArray], Task], key: PRNGKeyArray, count: int = 1000) -> dict[str, Any]:
        """Few-shot accuracy `alone` and `transductive` over `count` tasks with a query: mean and 95 % interval.

        Raises `ValueError` for tasks of more classes than the model has outputs (`for_ways`).
        """
        count = whole("count", count)
        x, labels = tasks(key).support
        check_labels(labels, eqx.filter_eval_shape(self.model, x).shape[-1])
        measure = QueryAccuracy(tasks, self.loss, self.optimiser, self.steps, self.batch_size, self.schedule)

        @eqx.filter_jit
        def all_of_them(measure, model, inner, keys):
            return jax.lax.map(lambda k: measure(model, inner, k), keys)

        shares = all_of_them(measure, self.model, self.inner, jax.random.split(key, count))
        return {name: mean_and_interval(share) for name, share in shares._asdict().items()}


# Compiled, as each call is the same program as the last one of its shapes.
@eqx.filter_jit
def _adapted(start, support, key):
    batches = minibatches(start.schedule, key, support, start.batch_size, start.steps)
    return adapt(start.loss, start.optimiser, start.model, start.inner, batches).model


_alone = eqx.filter_jit(classify_alone)
_together = eqx.filter_jit(lambda model, x: model(x))


def as_pictures(x: Any) -> Float[Array, "picture ..."]:
    """Pictures as floats in [0, 1], of bytes or of such floats; raises `ValueError` for others."""
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8:
        return x.astype(jnp.result_type(float)) / 255
    if (
        not jnp.issubdtype(x.dtype, jnp.floating)
        or not isinstance(x, jax.core.Tracer)
        and x.size
        and not (x.min() >= 0 and x.max() <= 1)
    ):
        span = f" from {x.min()} to {x.max()}" if x.size else ""
        raise ValueError(
            f"pictures are bytes (uint8) or floats in [0, 1]; given {x.dtype}{span}: divide by 255, or convert to uint8"
        )
    return x
