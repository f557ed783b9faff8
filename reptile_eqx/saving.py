"""Initialisations in files: a line of JSON, then arrays, sealed. Nothing in a file is run, and no pickle is read."""

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from .files import expanded, regular, replacing, sealed, unsealed
from .initialisation import Initialisation
from .inner import Loss, start_optimiser
from .losses import mean_cross_entropy, mean_squared_error, sum_cross_entropy
from .nn import ConvBlock, ConvNetwork
from .optimisers import recorded
from .tasks import SCHEDULES

_KIND = "initialisation"
_LOSSES = {loss.__name__: loss for loss in (sum_cross_entropy, mean_cross_entropy, mean_squared_error)}
_ACTIVATIONS = {name: getattr(jax.nn, name) for name in ("relu", "softplus", "gelu", "silu", "elu", "tanh", "sigmoid")}


def save(path: str | os.PathLike, initialisation: Initialisation) -> None:
    """Write an initialisation to a file. An older file of that name stays until the new one is whole.

    The file says all that `load` needs for a `nn.ConvNetwork`, a loss of this package, and `reference_adam` or an
    optimiser made by `recorded`. Python code is not kept: what else there is must be given to `load` again.
    """
    if not isinstance(initialisation, Initialisation):
        given = type(initialisation).__name__
        raise TypeError(f"save(path, initialisation) takes an rx.Initialisation; given a {given}")
    content, about = io.BytesIO(), []
    arrays = eqx.filter((initialisation.model, initialisation.inner), eqx.is_array)
    for place, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(arrays)):
        if _has_nan(leaf):
            raise ValueError(f"{jax.tree_util.keystr(place)} has NaN in it: this initialisation is none to keep")
        np.lib.format.write_array(content, np.asarray(leaf), allow_pickle=False)
        about.append([jax.tree_util.keystr(place), str(leaf.dtype), list(leaf.shape)])
    header = {
        "arrays": about,
        "network": _described(initialisation.model),
        "loss": _name_of(initialisation.loss, _LOSSES),
        "optimiser": getattr(initialisation.optimiser, "call", None),
        "steps": initialisation.steps,
        "batch_size": initialisation.batch_size,
        "schedule": _name_of(initialisation.schedule, SCHEDULES),
        "about": initialisation.about,
    }
    text = json.dumps(header, default=lambda value: np.asarray(value).tolist())  # NumPy's numbers
    with replacing(expanded(path, "`path`")) as file:
        file.write(sealed(_KIND, text.encode() + b"\n" + content.getvalue()))


def load(
    path: str | os.PathLike,
    *,
    model: PyTree = None,
    loss: Loss | None = None,
    optimiser: optax.GradientTransformation | None = None,
    schedule: Callable | None = None,
) -> Initialisation:
    """An initialisation that `save` wrote, its arrays in the dtypes that they had.

    `model` is one of the same structure, whose values do not matter; it, `loss`, `optimiser` and `schedule` are needed
    where the file cannot say them (`save`), and take the place of what it says.

    Raises `FileNotFoundError`, or `ValueError` for a file that is not whole or not of this kind, for something that it
    cannot say and that is not given, and for a model or an optimiser of another structure.
    """
    path = expanded(path, "`path`")
    header, content = _read(path)
    try:
        if model is None and header["network"]:
            model = eqx.filter_eval_shape(_network, **header["network"])
        loss = loss or _LOSSES.get(header["loss"])
        if optimiser is None and header["optimiser"]:
            name, arguments = header["optimiser"]
            optimiser = recorded(name, **arguments)
        schedule = schedule or SCHEDULES.get(header["schedule"])
        steps, batch_size, about = int(header["steps"]), int(header["batch_size"]), dict(header["about"])
        arrays = [(str(place), jnp.dtype(dtype), tuple(shape)) for place, dtype, shape in header["arrays"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    try:
        content = regular(path)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "no initialisation there", str(path))
        line, _, arrays = unsealed(_KIND, content).partition(b"\n")
        header = json.loads(line)
        if not isinstance(header, dict):
            raise ValueError("its header is none that rx.save writes")
        return header, arrays
    except ValueError as error:
        raise ValueError(f"{path} is not read, as {error}: get it again, or save it anew with rx.save") from error


def _filled(path, like, arrays, content):
    """`like` with the arrays of a file in the place of its own."""
    own, rest = eqx.partition(like, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    wanted = [(jax.tree_util.keystr(place), leaf.shape) for place, leaf in jax.tree_util.tree_leaves_with_path(own)]
    there = [(place, shape) for place, _, shape in arrays]
    if wanted != there:
        differing = [f"{a} {b}" for a, b in sorted(set(there) ^ set(wanted))]
        raise ValueError(
            f"{path} is of another structure than the model and the optimiser's state: only one of them has "
            f"{', '.join(differing[:5])}: give the model and the optimiser that it was saved with"
        )
    file = io.BytesIO(content)
    try:
        read = [np.lib.format.read_array(file, allow_pickle=False).view(dtype) for _, dtype, _ in arrays]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has something else than arrays in it, and is not read: {error}") from error
    if [leaf.shape for leaf in read] != [shape for _, shape in there] or any(map(_has_nan, read)):
        raise ValueError(f"{path} has arrays of other shapes than it says, or NaN in them: get it again")
    leaves = [jnp.asarray(leaf) for leaf in read]
    if any(leaf.dtype != array.dtype for leaf, array in zip(leaves, read, strict=True)):
        raise ValueError(f"{path} has numbers of 64 bits: set jax_enable_x64 to read them")
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(own), leaves), rest)


def _has_nan(array):
    return jnp.issubdtype(array.dtype, jnp.inexact) and bool((array != array).any())


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
