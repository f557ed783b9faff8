"""Digests of arrays and of what reads them: how a run knows its own data and its own network again."""

import hashlib
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..inner import trainable
from .configuration import Configuration, numbers_of


def digest(arrays: Iterable[Any], text: str = "") -> str:
    """Sixteen digits for arrays, with their dtypes and shapes, and a text."""
    seen = hashlib.sha256(text.encode())
    for leaf in arrays:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        plain = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
        seen.update(f"{plain.dtype}{plain.shape}".encode())
        seen.update(plain.reshape(-1).view(np.uint8).data)
    return seen.hexdigest()[:16]


def of_data(data: PyTree) -> str:
    """The digest of the data that a run reads; empty for none."""
    leaves = jax.tree.leaves(data)
    return digest(leaves, str(getattr(data, "counts", ""))) if leaves else ""


def of_parameters(config: Configuration, data: PyTree) -> str:
    """The digest of the shapes of what a configuration trains on such data; no parameter is made for it."""

    def parameters(data):
        return trainable(config.learner(data, numbers_of(config)).model(jax.random.PRNGKey(0)))[0]

    return digest((), str([leaf.shape for leaf in jax.tree.leaves(eqx.filter_eval_shape(parameters, data))]))


def of_run(config: Configuration, data: PyTree, data_digest: str) -> dict[str, str]:
    """What a run's result depends on beside its configuration, as its record keeps it."""
    return {"data": data_digest, "parameters": of_parameters(config, data)}
