"""Trained initialisations that come with the package: `load_pretrained("omniglot-5way")`."""

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ..datasets import FACTS
from ..files import replacing
from ..inner import Loss, start_optimiser
from ..runs.checkpoint import skeleton
from ..runs.records import Record
from .experiments import LOSSES, FewShotClassification

FOLDER = Path(__file__).parent / "initialisations"
LARGEST = 1_000_000
"""Bytes that a published file may have."""


class Pretrained(NamedTuple):
    """A trained initialisation φ and what adaptation from it needs (`few_shot_accuracy`, `adapt`).

    - `model`: the network, in float32.
    - `inner`: the inner optimiser's rolled state at the end of training, which evaluation starts from.
    - `loss`, `optimiser`: the inner loop's.
    - `config`: the configuration it was trained by.
    - `record`: the name of the run's record in `figures/runs/`.
    - `results`: the accuracies of that record.
    """

    model: PyTree
    inner: PyTree
    loss: Loss
    optimiser: optax.GradientTransformation
    config: FewShotClassification
    record: str
    results: dict[str, Any]


def load_pretrained(name: str | os.PathLike) -> Pretrained:
    """A published initialisation, such as "omniglot-5way", or one in a file of your own. It takes no data.

    `name` is a published one's name, or a `Path` that `save_pretrained` wrote to. Raises `ValueError` for a name that
    is not there, and for a file that is not what `save_pretrained` writes.
    """
    path = FOLDER / f"{name}.eqx" if isinstance(name, str) else Path(name)
    known = sorted(file.stem for file in FOLDER.glob("*.eqx"))
    if isinstance(name, str) and name not in known:
        raise ValueError(
            f"no published initialisation {name!r}; there are {', '.join(known)}; a file of your own is given as a Path"
        )
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["config"].items()}
            config = FewShotClassification(**fields)
            arrays = eqx.tree_deserialise_leaves(file, _like(config))
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a whole initialisation as save_pretrained writes it: {error}") from error
    optimiser = config.inner_optimiser(config.learning_rate)
    return Pretrained(*arrays, LOSSES[config.loss], optimiser, config, header["record"], header["results"])


def save_pretrained(path: str | os.PathLike, model: PyTree, inner: PyTree, record: Record) -> None:
    """Write an initialisation beside its place, then into it: a line of JSON, then arrays in Equinox's own format.

    Of a run that was trained here, given its configuration and images:

        state, record = load_state(config, images), find_record(config)
        save_pretrained(path, state.model, state.inner, record)

    Raises `ValueError` where the arrays are not float32 or take more than `LARGEST` bytes, and for a record of
    anything else than `FewShotClassification`, whose network `load_pretrained` would not know.
    """
    if record.kind != FewShotClassification.__name__:
        raise ValueError(
            f"an initialisation is published of FewShotClassification; the record is of {record.kind}: keep its state "
            "with eqx.tree_serialise_leaves"
        )
    wrong = {str(x.dtype) for x in jax.tree.leaves((model, inner)) if eqx.is_inexact_array(x)} - {"float32"}
    if wrong:
        raise ValueError(f"an initialisation is published in float32; given {', '.join(sorted(wrong))}")
    content = io.BytesIO()
    header = {"config": record.config, "record": record.name, "results": record.results}
    content.write(json.dumps(header).encode() + b"\n")
    eqx.tree_serialise_leaves(content, (model, inner))
    size = len(content.getvalue())
    if size > LARGEST:
        raise ValueError(f"an initialisation may take {LARGEST:,} bytes; this one takes {size:,}")
    with replacing(Path(path)) as file:
        file.write(content.getvalue())


def _like(config):
    """Model and inner state in float32, whatever JAX is set to."""

    def fresh():
        model = FACTS[config.dataset].network(config.ways, key=jax.random.PRNGKey(0))
        return model, start_optimiser(config.inner_optimiser(config.learning_rate), model)

    def narrow(leaf):
        dtype = jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.int32
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    arrays, still = skeleton(fresh)
    return eqx.combine(jax.tree.map(narrow, arrays), still)
