"""A trained initialisation φ with how to adapt it: use it, keep it in a file, give it a head for other classes."""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from .evaluation import QueryAccuracy, classify_alone, mean_and_interval
from .files import replacing
from .inner import Loss, adapt, start_optimiser
from .losses import check_labels, mean_cross_entropy, mean_squared_error, sum_cross_entropy
from .nn import ConvBlock, ConvNetwork, over_and_over
from .optimisers import of_record
from .tasks import SCHEDULES, Examples, Task, cycle, minibatches

_FORMAT = "reptile-eqx initialisation, 1"
_LOSSES = {loss.__name__: loss for loss in (sum_cross_entropy, mean_cross_entropy, mean_squared_error)}
_ACTIVATIONS = {name: getattr(jax.nn, name) for name in ("relu", "softplus", "gelu", "silu", "elu", "tanh", "sigmoid")}


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
        return self.model(x) if transductive else classify_alone(self.model, self.support, x)


class Initialisation(eqx.Module):
    """A trained initialisation φ and what adaptation from it needs.

    - `model`: the trained model.
    - `inner`: the inner optimiser's state that adaptation starts from: that at the end of training, where it rolls.
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
        key = jax.random.key(0) if key is None else key
        batches = minibatches(self.schedule, key, support, self.batch_size, self.steps)
        return adapt(self.loss, self.optimiser, self.model, self.inner, batches).model

    def classifier(
        self, x: ArrayLike, labels: ArrayLike | Sequence[int], key: PRNGKeyArray | None = None
    ) -> Classifier:
        """Adapt to labelled pictures; what is returned classifies new ones.

        **Arguments:**

        - `x`: pictures as the network takes them: bytes, or floats in [0, 1], `(picture, height, width, channel)`.
        - `labels`: their classes, integers from 0 on, shape `(picture,)`. Where there are more or fewer classes than in
          training, the head is made anew (`for_ways`).
        - `key`: draws the mini-batches.

        Raises `ValueError` for labels that are not 0 … N-1 with each of them there, and for floats outside [0, 1].
        """
        x, known = as_pictures(x), np.asarray(labels)
        if known.shape != x.shape[:1]:
            raise ValueError(f"{x.shape[0]} pictures need as many labels; given labels of shape {known.shape}")
        ways = len(np.unique(known))
        check_labels(known, ways)
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
        """Few-shot accuracy `alone` and `transductive` over `count` tasks with a query: mean and 95 % interval."""
        measure = QueryAccuracy(tasks, self.loss, self.optimiser, self.steps, self.batch_size, self.schedule)

        @eqx.filter_jit
        def all_of_them(measure, model, inner, keys):
            return jax.lax.map(lambda k: measure(model, inner, k), keys)

        shares = all_of_them(measure, self.model, self.inner, jax.random.split(key, count))
        return {name: mean_and_interval(share) for name, share in shares._asdict().items()}


def as_pictures(x: Any) -> Float[Array, "picture ..."]:
    """Pictures as floats in [0, 1], of bytes or of such floats; raises `ValueError` for others."""
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8:
        return x.astype(jnp.result_type(float)) / 255
    if (
        not jnp.issubdtype(x.dtype, jnp.floating)
        or not isinstance(x, jax.core.Tracer)
        and x.size
        and (x.min() < 0 or x.max() > 1)
    ):
        raise ValueError(
            f"pictures are bytes (uint8) or floats in [0, 1]; given {x.dtype} from {x.min()} to {x.max()}: divide by "
            "255, or convert to uint8"
        )
    return x


def save(path: str | os.PathLike, initialisation: Initialisation) -> None:
    """Write an initialisation to a file, beside its place and then into it: a line of JSON, then the arrays.

    The file says all that `load` needs for a `nn.ConvNetwork`, a loss of this package, and `reference_adam` or an
    optimiser made by `recorded`. Python code is not kept: what else there is must be given to `load` again.
    """
    arrays = jax.device_get(jax.tree.leaves(eqx.filter((initialisation.model, initialisation.inner), eqx.is_array)))
    content = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
    header = {
        "format": _FORMAT,
        "arrays": [[str(array.dtype), list(array.shape)] for array in arrays],
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "network": _described(initialisation.model),
        "loss": _name_of(initialisation.loss, _LOSSES),
        "optimiser": getattr(initialisation.optimiser, "call", None),
        "steps": initialisation.steps,
        "batch_size": initialisation.batch_size,
        "schedule": _name_of(initialisation.schedule, SCHEDULES),
        "about": dict(initialisation.about),
    }
    with replacing(Path(path)) as file:
        file.write(json.dumps(header).encode() + b"\n" + content.getvalue())


def load(
    path: str | os.PathLike,
    *,
    model: PyTree = None,
    loss: Loss | None = None,
    optimiser: optax.GradientTransformation | None = None,
    schedule: Callable | None = None,
) -> Initialisation:
    """An initialisation that `save` wrote. Nothing in the file is run, and no pickle is read.

    `model` is one of the same structure, whose values do not matter; it, `loss`, `optimiser` and `schedule` are needed
    where the file cannot say them (`save`), and take the place of what it says.

    Raises `FileNotFoundError`, or `ValueError` for a file that is not whole or not of this kind, for something that it
    cannot say and that is not given, and for a model of another structure.
    """
    path = Path(path)
    header, content = _read(path)
    try:
        if model is None and header["network"]:
            model = eqx.filter_eval_shape(_network, **header["network"])
        loss = loss or _LOSSES.get(header["loss"])
        if optimiser is None and header["optimiser"]:
            optimiser = of_record(header["optimiser"])
        schedule = schedule or SCHEDULES.get(header["schedule"])
        steps, batch_size, about, arrays = (header[name] for name in ("steps", "batch_size", "about", "arrays"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no initialisation as rx.save writes it: {error}") from error
    if model is None or loss is None or optimiser is None or schedule is None:
        parts = {"model": model, "loss": loss, "optimiser": optimiser, "schedule": schedule}
        missing = [name for name, part in parts.items() if part is None]
        raise ValueError(
            f"{path} cannot say its {' and '.join(missing)}, as no file keeps Python code: "
            f"rx.load(path, {', '.join(f'{name}=…' for name in missing)}), the same as when it was saved"
        )
    like = eqx.filter_eval_shape(lambda model: (model, start_optimiser(optimiser, model)), model)
    model, inner = _filled(path, like, arrays, content)
    return Initialisation(model, inner, loss, optimiser, steps, batch_size, schedule, about)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """A file's header and the rest of it, unaltered since it was written."""
    with path.open("rb") as file:
        line, content = file.readline(1_000_000), file.read()
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"{path} is no initialisation as rx.save writes it: its first line should say {_FORMAT!r}")
    if hashlib.sha256(content).hexdigest() != header.get("sha256"):
        raise ValueError(f"{path} is damaged or cut short: its arrays are not those that were written; get it again")
    return header, content


def _filled(path, like, arrays, content):
    """`like` with the arrays of a file in the place of its own."""
    own, rest = eqx.partition(like, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(own)]
    if shapes != [shape for _, shape in arrays]:
        raise ValueError(
            f"{path} has arrays of the shapes {[shape for _, shape in arrays]}; model and optimiser's state have "
            f"{shapes}: give the model and the optimiser that it was saved with"
        )
    file = io.BytesIO(content)
    try:
        read = [np.lib.format.read_array(file, allow_pickle=False).view(jnp.dtype(name)) for name, _ in arrays]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has something else than arrays in it, and is not read: {error}") from error
    if [list(leaf.shape) for leaf in read] != shapes or not all(map(_finite, read)):
        raise ValueError(
            f"{path} has arrays of other shapes than it says, or numbers that are not finite: get it again"
        )
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(own), map(jnp.asarray, read)), rest)


def _finite(array):
    return not jnp.issubdtype(array.dtype, jnp.inexact) or np.isfinite(array.astype(np.float32)).all()


def _described(model):
    """The arguments that make such a network, where it is one of ours as it was made; else `None`."""
    if not isinstance(model, ConvNetwork) or any(type(block) is not ConvBlock for block in model.blocks):
        return None
    settings = model.settings()
    activation = _name_of(settings.pop("activation"), _ACTIVATIONS)
    return settings | {"activation": activation} if activation else None


def _network(*, activation, **settings):
    return ConvNetwork(**settings, activation=_ACTIVATIONS[activation], key=jax.random.PRNGKey(0))


def _name_of(function, named):
    return next((name for name, known in named.items() if known is function), None)
