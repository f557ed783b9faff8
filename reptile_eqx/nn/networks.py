"""Networks of the paper as Equinox modules.

The classifiers map a whole batch at once, because batch norm has no running statistics here: it always
normalises with the batch in front of it, in training and in evaluation. The prediction for one image
therefore depends on the images beside it, which is where the transductive question (Section 6.1) comes from.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .convolution import Images, Kernel, Pooled, convolution, max_pool, spread

Channels = Float[Array, "channel"]


def sine_network(key: PRNGKeyArray, activation: Callable = jnp.tanh) -> eqx.nn.MLP:
    """The MLP 1 → 64 → 64 → 1 of Section 4. Maps one point, shape `(1,)`; `jax.vmap` it over a batch."""
    return eqx.nn.MLP(1, 1, width_size=64, depth=2, activation=activation, key=key)


@jax.custom_vjp
def batch_norm_relu(h: Images, scale: Channels, shift: Channels) -> Images:
    """ReLU of `h` normalised per channel with its own batch's mean and variance (ε = 1e-3), scaled and shifted.

    There are no running statistics. The gradient is the closed form from two sums over the batch, which saves
    several passes over memory against differentiating the formula.
    """
    return _norm_forward(h, scale, shift)[0]


@jax.custom_vjp
def batch_norm_pool_relu(h: Images, scale: Channels, shift: Channels) -> Pooled:
    """`batch_norm_relu`, max-pooled between the norm and the ReLU: 2×2 windows, stride 2, SAME; `scale` is positive.

    The norm keeps the order of a channel's values, so the largest are found before it and only they are normalised,
    with the statistics of all. Ties go to the window's first, and the gradient is again the closed form.
    """
    return _pooled_forward(h, scale, shift)[0]


def _normalise(h, scale, shift):
    """A norm as the slope and the offset per channel that it comes to, and what their gradient needs of it."""
    # The variance from two sums saves a pass over memory; in float32 it is as exact as from deviations, since a
    # convolution's mean is at most a few standard deviations.
    mean = h.mean((0, 1, 2))
    variance = jnp.maximum(jnp.square(h).mean((0, 1, 2)) - jnp.square(mean), 0)
    inverse = lax.rsqrt(variance + 1e-3)
    slope = inverse * scale
    return slope, shift - mean * slope, (mean, inverse, slope)


def _norm_forward(h, scale, shift):
    slope, offset, norm = _normalise(h, scale, shift)
    y = jax.nn.relu(h * slope + offset)
    return y, (h, y, norm)


def _pooled_forward(h, scale, shift):
    slope, offset, norm = _normalise(h, scale, shift)
    pooled, place = max_pool(h)
    y = jax.nn.relu(pooled * slope + offset)
    return y, (h, pooled, place, y, norm)


def _norm_backward(residuals, dy):
    h, y, norm = residuals
    d = jnp.where(y > 0, dy, 0)
    slope, factor, offset, *gradients = _through_norm(d, h, h.size // h.shape[-1], norm)
    return d * slope + h * factor + offset, *gradients


def _pooled_backward(residuals, dy):
    h, pooled, place, y, norm = residuals
    d = jnp.where(y > 0, dy, 0)
    slope, factor, offset, *gradients = _through_norm(d, pooled, h.size // h.shape[-1], norm)
    return spread(d * slope, place, h.shape[1:3]) + h * factor + offset, *gradients


def _through_norm(d, h, count, norm):
    """The gradient towards `count` values a channel, d·slope + h·factor + offset, and those of scale and shift."""
    mean, inverse, slope = norm
    shift_gradient = d.sum((0, 1, 2))
    scale_gradient = ((d * h).sum((0, 1, 2)) - mean * shift_gradient) * inverse
    factor = -slope * inverse * scale_gradient / count
    return slope, factor, -slope * shift_gradient / count - mean * factor, scale_gradient, shift_gradient


batch_norm_relu.defvjp(_norm_forward, _norm_backward)
batch_norm_pool_relu.defvjp(_pooled_forward, _pooled_backward)


def _glorot(key, shape, fan_in, fan_out):
    limit = (6 / (fan_in + fan_out)) ** 0.5
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class ConvBlock(eqx.Module):
    """3×3 convolution, batch norm with the batch's own statistics, ReLU or another activation.

    The resolution is halved (rounding up) by the convolution's stride of 2 or, with `pool`, by a 2×2 max-pool between
    the norm and the ReLU.
    """

    kernel: Kernel
    bias: Channels
    scale: Channels
    shift: Channels
    activation: Callable = eqx.field(static=True)
    pool: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        filters: int,
        activation: Callable = jax.nn.relu,
        *,
        pool: bool = False,
        key: PRNGKeyArray,
    ):
        """`channels` in, `filters` out; Glorot-uniform kernel, zero bias.

        Raises `ValueError` for a pooled block with another activation than ReLU, which it is made for.
        """
        if pool and activation is not jax.nn.relu:
            raise ValueError(f"a pooled block has ReLU; given {activation}: leave `pool` out, or the activation")
        self.kernel = _glorot(key, (3, 3, channels, filters), 9 * channels, 9 * filters)
        self.bias = jnp.zeros(filters)
        self.scale = jnp.ones(filters)
        self.shift = jnp.zeros(filters)
        self.activation = activation
        self.pool = pool

    def __call__(self, x: Images) -> Float[Array, "batch rows columns filter"]:
        """Maps `(batch, height, width, channel)` to `(batch, ceil(height / 2), ceil(width / 2), filter)`."""
        # The bias is a parameter as in the reference, but never added: batch norm takes out whatever it adds.
        if self.pool:
            # Where the scale is negative the norm turns the order round; the sign is moved into the kernel.
            sign = lax.stop_gradient(jnp.where(self.scale < 0, -1, 1).astype(self.scale.dtype))
            return batch_norm_pool_relu(convolution(x, self.kernel * sign, 1), self.scale * sign, self.shift)
        h = convolution(x, self.kernel, 2)
        if self.activation is jax.nn.relu:
            return batch_norm_relu(h, self.scale, self.shift)
        slope, offset, _ = _normalise(h, self.scale, self.shift)
        return self.activation(h * slope + offset)


class _Classifier(eqx.Module):
    blocks: tuple[ConvBlock, ...]
    head: Float[Array, "feature way"]
    head_bias: Float[Array, "way"]

    def __init__(self, channels, filters, features, ways, activation, pool, key):
        *keys, head_key = jax.random.split(key, 5)
        channels = (channels, filters, filters, filters)
        self.blocks = tuple(
            ConvBlock(c, filters, activation, pool=pool, key=k) for c, k in zip(channels, keys, strict=True)
        )
        self.head = _glorot(head_key, (features, ways), features, ways)
        self.head_bias = jnp.zeros(ways)

    def _logits(self, x):
        x = x.astype(self.head.dtype)  # float32 parameters stay float32 also under x64
        for block in self.blocks:
            x = block(x)
        return x.reshape(x.shape[0], -1) @ self.head + self.head_bias


class OmniglotNetwork(_Classifier):
    """The Omniglot classifier of Section 6.1 (after Finn et al.): four blocks of 64 filters and a dense head."""

    def __init__(self, ways: int, activation: Callable = jax.nn.relu, *, key: PRNGKeyArray):
        """A fresh network for `ways` classes; 113,221 parameters for 5. The paper's activation is ReLU."""
        super().__init__(1, 64, 256, ways, activation, False, key)

    def __call__(self, x: Float[Array, "batch 28 28 1"]) -> Float[Array, "batch way"]:
        """Logits of a whole batch of images (ink 0, paper 1)."""
        return self._logits(x)


class MiniImageNetNetwork(_Classifier):
    """The Mini-ImageNet classifier of Section 6.1: four blocks of 32 filters with max-pools, and a dense head."""

    def __init__(self, ways: int, *, key: PRNGKeyArray):
        """A fresh network for `ways` classes; 34,661 parameters for 5."""
        super().__init__(3, 32, 1152, ways, jax.nn.relu, True, key)

    def __call__(self, x: Float[Array, "batch 84 84 3"]) -> Float[Array, "batch way"]:
        """Logits of a whole batch of images, in [0, 1]."""
        return self._logits(x)
