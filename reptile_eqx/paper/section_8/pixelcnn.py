"""A small PixelCNN (van den Oord et al. 2016): each pixel of a drawing given those before it, row after row."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...checks import whole
from ...nn.convolution import Kernel, convolution

Drawings = Float[Array, "batch height width 1"]
Logits = Float[Array, "batch height width"]

# Which of a 3×3 kernel's taps read pixels before the one in the middle; the later layers read the middle as well.
_BEFORE = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32)[:, :, None, None]
_SO_FAR = _BEFORE + np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)[:, :, None, None]


class PixelCNN(eqx.Module):
    """A masked convolution, masked residual convolutions, and a logit for each pixel.

    Pixel (i, j) sees what the masks let through: up to `layers + 1` rows above it, in row i - d the columns up to
    j + d, so that a part of the rows above, at the right, is a blind spot. `place` is added to the first layer's
    output: what is learned of a position, whatever is drawn.
    """

    first: Kernel
    place: Float[Array, "height width channel"]
    kernels: tuple[Kernel, ...]
    biases: tuple[Float[Array, " channel"], ...]
    head: Float[Array, " channel"]
    head_bias: Float[Array, ""]

    def __init__(self, shape: Sequence[int], *, channels: int = 16, layers: int = 6, key: PRNGKeyArray):
        """A fresh network for drawings of `shape`, `(height, width)`; He-normal kernels, all else zero."""
        channels, layers = whole("channels", channels), whole("layers", layers)
        first_key, *keys = jax.random.split(key, layers + 1)
        self.first = _he(first_key, 1, channels, _BEFORE)
        self.place = jnp.zeros((*shape, channels))
        self.kernels = tuple(_he(k, channels, channels, _SO_FAR) / layers**0.5 for k in keys)
        self.biases = (jnp.zeros(channels),) * layers
        self.head, self.head_bias = jnp.zeros(channels), jnp.zeros(())

    def __call__(self, x: Drawings) -> Logits:
        """Log-odds that each pixel is ink given those before it, of a batch of drawings: ink 1, paper 0."""
        x = x.astype(self.head.dtype)
        h = convolution(x, self.first * _BEFORE, 1) + self.place
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            h = h + convolution(jax.nn.relu(h), kernel * _SO_FAR, 1) + bias
        return jax.nn.relu(h) @ self.head + self.head_bias


def _he(key, channels, filters, mask):
    return jax.random.normal(key, (3, 3, channels, filters)) * (2 / (mask.sum() * channels)) ** 0.5


def bits_per_pixel(model: PixelCNN, drawings: Drawings) -> Float[Array, ""]:
    """-log₂ of the probability that the model gives to drawings (ink 1, paper 0), per pixel, mean over them."""
    ink = drawings[..., 0]
    # -log p = log(1 + exp(∓logit))
    return jax.nn.softplus(jnp.where(ink > 0.5, -1, 1) * model(drawings)).mean() / jnp.log(2)


def sample(model: PixelCNN, key: PRNGKeyArray, count: int) -> Drawings:
    """`count` drawings that the model makes up, pixel after pixel."""
    height, width, _ = model.place.shape
    luck = jax.random.uniform(key, (height * width, count))
    seen = min(height, len(model.kernels) + 2)  # rows that a pixel's logit depends on, its own among them

    def draw(pixel, drawings):
        i, j = pixel // width, pixel % width
        top = jnp.maximum(i + 1 - seen, 0)
        place, rows = (
            jax.lax.dynamic_slice_in_dim(some, top, seen, axis) for some, axis in ((model.place, 0), (drawings, 1))
        )
        logits = eqx.tree_at(lambda m: m.place, model, place)(rows)
        ink = luck[pixel] < jax.nn.sigmoid(logits[:, i - top, j])
        return drawings.at[:, i, j, 0].set(ink.astype(drawings.dtype))

    return jax.lax.fori_loop(0, height * width, draw, jnp.zeros((count, height, width, 1), model.head.dtype))
