"""The networks of the paper as Equinox modules.

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

from .convolution import Images, Kernel, convolution
from .normalisation import Channels, batch_norm_pool_relu, batch_norm_relu, normalise


def sine_network(key: PRNGKeyArray, activation: Callable = jnp.tanh) -> eqx.nn.MLP:
    """The MLP 1 → 64 → 64 → 1 of Section 4. Maps one point, shape `(1,)`; `jax.vmap` it over a batch."""
    return eqx.nn.MLP(1, 1, width_size=64, depth=2, activation=activation, key=key)


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
        self, channels: int, filters: int, activation: Callable = jax.nn.relu, *, pool: bool = False, key: PRNGKeyArray
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
        slope, offset, _ = normalise(h, self.scale, self.shift)
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
