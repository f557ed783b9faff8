"""What a computation is traced for: asked here, where it begins, and handed on. `runs` knows it from its devices."""

from typing import NamedTuple

import jax


class Hardware(NamedTuple):
    """The platform of JAX's default devices, and the precision that `jax.default_matmul_precision` sets."""

    cpu: bool
    precision: str | None


def hardware() -> Hardware:
    """What JAX would run a computation on that is traced now, and how precise its products are to be."""
    precision = jax.config.jax_default_matmul_precision  # ty: ignore[missing-attribute]
    return Hardware(jax.default_backend() == "cpu", precision)
