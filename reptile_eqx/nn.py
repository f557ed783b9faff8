"""Networks of the paper as Equinox modules, on a convolution that stays fast inside a loop on the CPU.

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

Images = Float[Array, "batch height width channel"]
Kernel = Float[Array, "3 3 channel filter"]
Channels = Float[Array, "channel"]


def sine_network(key: PRNGKeyArray, activation: Callable = jnp.tanh) -> eqx.nn.MLP:
    """The MLP 1 → 64 → 64 → 1 of Section 4. Maps one point, shape `(1,)`; `jax.vmap` it over a batch."""
    return eqx.nn.MLP(1, 1, width_size=64, depth=2, activation=activation, key=key)


def _same_padding(size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that a 3-wide SAME convolution gives ceil(size / stride) outputs."""
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    return total // 2, total - total // 2


def _patches(x: Images, stride: int) -> Float[Array, "batch rows columns 9*channel"]:
    """The 3×3 neighbourhoods that a SAME convolution reads, laid side by side in the kernel's order."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), _same_padding(height, stride), _same_padding(width, stride), (0, 0)))
    rows, columns = -(-height // stride), -(-width // stride)
    return jnp.concatenate(
        [
            x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )


@jax.custom_vjp
def strided_convolution(x: Images, kernel: Kernel) -> Float[Array, "batch rows columns filter"]:
    """A 3×3 convolution with stride 2 and SAME padding (zeros: none before, one after, on an even size).

    Equal to `lax.conv_general_dilated` with layouts NHWC and HWIO. XLA has a fast CPU path for a convolution in
    that canonical form but none for the gradients that JAX derives from it (jax issue 12868), so the forward
    pass and both gradients are stated here as matrix products of 3×3 neighbourhoods, each in the orientation
    that runs at the machine's matrix-product peak. Second derivatives go through the same products.

    **Arguments:**

    - `x`: images, shape `(batch, height, width, channel)`.
    - `kernel`: weights, shape `(3, 3, channel, filter)`.

    **Returns:** shape `(batch, ceil(height / 2), ceil(width / 2), filter)`.
    """
    patches = _patches(x, 2)
    return patches @ kernel.reshape(patches.shape[-1], -1)


def _forward(x, kernel):
    patches = _patches(x, 2)
    return patches @ kernel.reshape(patches.shape[-1], -1), (patches, kernel, x.shape)


def _backward(residuals, dy):
    patches, kernel, shape = residuals
    return _input_gradient(dy, kernel, shape), _kernel_gradient(patches, dy).reshape(kernel.shape)


strided_convolution.defvjp(_forward, _backward)


def _input_gradient(dy, kernel, shape):
    """dy · Wᵀ, the patches' gradients, added back to the pixels they were taken from, one axis at a time."""
    batch, rows, columns, filters = dy.shape
    channels = kernel.shape[2]
    taps = (dy @ kernel.reshape(-1, filters).T).reshape(batch, rows, columns, 3, 3, channels)
    # Without the barrier XLA folds the interleaving below into nine strided sums per pixel.
    taps = lax.optimization_barrier(taps)
    taps = _interleave(taps, axis=1, tap_axis=3, size=shape[1])
    return _interleave(taps, axis=2, tap_axis=3, size=shape[2])


def _interleave(taps, axis, tap_axis, size):
    """Sum three taps of stride 2 along `axis`: tap t of output o belongs to (padded) input 2·o + t."""
    first, middle, last = (lax.index_in_dim(taps, t, tap_axis, keepdims=False) for t in range(3))
    before, after = [(0, 0)] * first.ndim, [(0, 0)] * first.ndim
    before[axis], after[axis] = (1, 0), (0, 1)
    even = jnp.pad(first, after) + jnp.pad(last, before)
    odd = jnp.pad(middle, after)
    pixels = jnp.stack([even, odd], axis + 1)
    pixels = pixels.reshape(*pixels.shape[:axis], -1, *pixels.shape[axis + 2 :])
    low, _ = _same_padding(size, 2)
    return lax.slice_in_dim(pixels, low, low + size, axis=axis)


def _kernel_gradient(patches, dy):
    """patchesᵀ · dy, with the smaller of the two turned first, which is a third faster than leaving it to XLA."""
    patches, dy = patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # Without the barriers XLA folds the transposes back into one product of the slow orientation.
    if patches.shape[1] < dy.shape[1]:
        return lax.optimization_barrier(patches.T) @ dy
    return lax.optimization_barrier(lax.optimization_barrier(dy.T) @ patches).T


@jax.custom_vjp
def batch_norm_relu(
    h: Float[Array, "batch height width channel"], scale: Channels, shift: Channels
) -> Float[Array, "batch height width channel"]:
    """ReLU of `h` normalised per channel with its own batch's mean and variance (ε = 1e-3), scaled and shifted.

    There are no running statistics. The gradient is the closed form from two sums over the batch, which saves
    several passes over memory against differentiating the formula.
    """
    mean, inverse = _statistics(h)
    return jax.nn.relu((h - mean) * (inverse * scale) + shift)


def _statistics(h):
    mean = h.mean((0, 1, 2))
    variance = jnp.square(h - mean).mean((0, 1, 2))
    return mean, lax.rsqrt(variance + 1e-3)


def _norm_forward(h, scale, shift):
    mean, inverse = _statistics(h)
    y = jax.nn.relu((h - mean) * (inverse * scale) + shift)
    return y, (h, y, mean, inverse, scale)


def _norm_backward(residuals, dy):
    h, y, mean, inverse, scale = residuals
    count = h.size // h.shape[-1]
    d = jnp.where(y > 0, dy, 0)
    shift_gradient = d.sum((0, 1, 2))
    scale_gradient = (d * (h - mean)).sum((0, 1, 2)) * inverse
    towards_scale = (h - mean) * (inverse * scale_gradient / count)
    h_gradient = (d - shift_gradient / count - towards_scale) * (scale * inverse)
    return h_gradient, scale_gradient, shift_gradient


batch_norm_relu.defvjp(_norm_forward, _norm_backward)


def _glorot(key, shape, fan_in, fan_out):
    limit = (6 / (fan_in + fan_out)) ** 0.5
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class ConvBlock(eqx.Module):
    """3×3 convolution with stride 2, batch norm with the batch's own statistics, ReLU or another activation."""

    kernel: Kernel
    bias: Channels
    scale: Channels
    shift: Channels
    activation: Callable = eqx.field(static=True)

    def __init__(self, channels: int, filters: int, activation: Callable = jax.nn.relu, *, key: PRNGKeyArray):
        """`channels` in, `filters` out; Glorot-uniform kernel, zero bias."""
        self.kernel = _glorot(key, (3, 3, channels, filters), 9 * channels, 9 * filters)
        self.bias = jnp.zeros(filters)
        self.scale = jnp.ones(filters)
        self.shift = jnp.zeros(filters)
        self.activation = activation

    def __call__(self, x: Images) -> Float[Array, "batch rows columns filter"]:
        """Maps `(batch, height, width, channel)` to `(batch, ceil(height / 2), ceil(width / 2), filter)`."""
        # Batch norm takes out whatever the bias adds; its gradient, zero but for rounding, is not worth a pass.
        h = strided_convolution(x, self.kernel) + lax.stop_gradient(self.bias)
        if self.activation is jax.nn.relu:
            return batch_norm_relu(h, self.scale, self.shift)
        mean, inverse = _statistics(h)
        return self.activation((h - mean) * (inverse * self.scale) + self.shift)


class OmniglotNetwork(eqx.Module):
    """The Omniglot classifier of Section 6.1 (after Finn et al.): four blocks of 64 filters and a dense head."""

    blocks: tuple[ConvBlock, ...]
    head: Float[Array, "feature way"]
    head_bias: Float[Array, "way"]

    def __init__(self, ways: int, activation: Callable = jax.nn.relu, *, key: PRNGKeyArray):
        """A fresh network for `ways` classes; 113,221 parameters for 5. The paper's activation is ReLU."""
        *keys, head_key = jax.random.split(key, 5)
        channels = (1, 64, 64, 64)
        self.blocks = tuple(ConvBlock(c, 64, activation, key=k) for c, k in zip(channels, keys, strict=True))
        self.head = _glorot(head_key, (256, ways), 256, ways)
        self.head_bias = jnp.zeros(ways)

    def __call__(self, x: Float[Array, "batch 28 28 1"]) -> Float[Array, "batch way"]:
        """Logits of a whole batch of images (ink 0, paper 1)."""
        for block in self.blocks:
            x = block(x)
        return x.reshape(x.shape[0], -1) @ self.head + self.head_bias
