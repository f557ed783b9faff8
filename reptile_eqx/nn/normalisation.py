"""Batch norm without running statistics, with the ReLU and the max-pool that follow it, and their gradients."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .convolution import Images, Pooled, max_pool, spread

Channels = Float[Array, "channel"]


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


def normalise(h: Images, scale: Channels, shift: Channels) -> tuple[Channels, Channels, tuple[Channels, ...]]:
    """The norm of `h` as the slope and the offset that it comes to for each channel, and what their gradient needs."""
    # The variance from two sums saves a pass over memory; in float32 it is as exact as from deviations, since a
    # convolution's mean is at most a few standard deviations.
    mean = h.mean((0, 1, 2))
    variance = jnp.maximum(jnp.square(h).mean((0, 1, 2)) - jnp.square(mean), 0)
    inverse = lax.rsqrt(variance + 1e-3)
    slope = inverse * scale
    return slope, shift - mean * slope, (mean, inverse, slope)


def _norm_forward(h, scale, shift):
    slope, offset, norm = normalise(h, scale, shift)
    y = jax.nn.relu(h * slope + offset)
    return y, (h, y, norm)


def _pooled_forward(h, scale, shift):
    slope, offset, norm = normalise(h, scale, shift)
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
