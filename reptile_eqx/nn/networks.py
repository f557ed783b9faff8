"""The networks of the paper as Equinox modules.

The classifiers map a whole batch at once, because batch norm has no running statistics here: it always
normalises with the batch in front of it, in training and in evaluation. The prediction for one image
therefore depends on the images beside it, which is where the transductive question (Section 6.1) comes from.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import whole
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
    the norm and the ReLU. With a stride of 1 it stays.
    """

    kernel: Kernel
    bias: Channels
    scale: Channels
    shift: Channels
    activation: Callable = eqx.field(static=True)
    pool: bool = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        filters: int,
        activation: Callable = jax.nn.relu,
        *,
        pool: bool = False,
        stride: int = 2,
        key: PRNGKeyArray,
    ):
        """`channels` in, `filters` out; Glorot-uniform kernel, zero bias; a stride of 1 or 2, which `pool` leaves out.

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
        self.stride = whole("stride", stride, 1, 2)

    def __call__(self, x: Images) -> Float[Array, "batch rows columns filter"]:
        """Maps `(batch, height, width, channel)` to `(batch, rows, columns, filter)`: half as many, rounded up, or as
        many with a stride of 1."""
        # The bias is a parameter as in the reference, but never added: batch norm takes out whatever it adds.
        kernel, scale, shift = (leaf.astype(x.dtype) for leaf in (self.kernel, self.scale, self.shift))
        if self.pool:
            # Where the scale is negative the norm turns the order round; the sign is moved into the kernel.
            sign = lax.stop_gradient(jnp.where(scale < 0, -1, 1).astype(scale.dtype))
            return batch_norm_pool_relu(convolution(x, kernel * sign, 1), scale * sign, shift)
        h = convolution(x, kernel, self.stride)
        if self.activation is jax.nn.relu:
            return batch_norm_relu(h, scale, shift)
        slope, offset, _ = normalise(h, scale, shift)
        return self.activation(h * slope + offset)


class ConvNetwork(eqx.Module):
    """A classifier of images of any size: blocks of convolution, batch norm and activation, then a dense head.

    The paper's two (`OmniglotNetwork`, `MiniImageNetNetwork`) are of this kind. `shape` is an image's, `(height, width,
    channel)`.
    """

    blocks: tuple[ConvBlock, ...]
    head: Float[Array, "feature way"]
    head_bias: Float[Array, "way"]
    shape: tuple[int, int, int] = eqx.field(static=True)
    skip: bool = eqx.field(static=True)
    average_features: bool = eqx.field(static=True)

    def __init__(
        self,
        ways: int,
        shape: Sequence[int],
        *,
        filters: int = 64,
        blocks: int = 4,
        pool: bool = False,
        skip: bool = False,
        average_features: bool = False,
        activation: Callable = jax.nn.relu,
        key: PRNGKeyArray,
    ):
        """A fresh network. A block halves the resolution (rounding up) until that is 1×1; later ones keep it.

        **Arguments:**

        - `ways`: how many classes it tells apart.
        - `shape`: of an image, `(height, width, channel)`.
        - `filters`, `blocks`: of each block, and how many blocks.
        - `pool`: whether blocks halve the resolution by a 2×2 max-pool rather than by a stride of 2.
        - `skip`: whether a block adds its input, reduced by a mean over 2×2, to its output; the first does not.
        - `average_features`: whether the head takes each filter's mean over all places, rather than its value at each.
        - `activation`: with `pool`, ReLU only.
        - `key`: for the kernels and the head.

        Raises `ValueError` for numbers below 1 and for a shape that is not an image's.
        """
        ways, filters, blocks = whole("ways", ways), whole("filters", filters), whole("blocks", blocks)
        if len(shape) != 3:
            raise ValueError(f"`shape` is an image's (height, width, channel); given {tuple(shape)}")
        height, width, channels = (whole("shape", side) for side in shape)
        self.shape = height, width, channels
        *keys, head_key = jax.random.split(key, blocks + 1)
        self.blocks = tuple(
            ConvBlock(filters if i else channels, filters, activation, pool=pool, key=k) for i, k in enumerate(keys)
        )
        for _ in range(blocks):
            height, width = -(-height // 2), -(-width // 2)
        features = filters if average_features else height * width * filters
        self.head, self.head_bias = _glorot(head_key, (features, ways), features, ways), jnp.zeros(ways)
        self.skip, self.average_features = skip, average_features

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "batch way"]:
        """Logits of a whole batch of images, in [0, 1], shape `(batch, height, width, channel)`; another shape raises
        `ValueError`."""
        if x.shape[1:] != self.shape or x.ndim != 4:
            raise ValueError(
                f"the network takes a batch of images, (batch, {', '.join(map(str, self.shape))}); given {x.shape}"
                + (": one image is a batch of one, x[None]" if x.shape == self.shape else "")
            )
        # float32 parameters stay float32 also under x64; narrower ones are computed with in float32.
        x = x.astype(jnp.promote_types(self.head.dtype, jnp.float32))
        for i, block in enumerate(self.blocks):
            x = block(x) + _halved(x) if self.skip and i else block(x)
        features = x.mean((1, 2)) if self.average_features else x.reshape(x.shape[0], -1)
        return features @ self.head + self.head_bias

    def settings(self) -> dict[str, Any]:
        """The arguments that made it, but for the key."""
        first = self.blocks[0]
        return {
            "ways": self.head.shape[1], "shape": self.shape, "filters": len(first.bias), "blocks": len(self.blocks),
            "pool": first.pool, "skip": self.skip, "average_features": self.average_features,
            "activation": first.activation,
        }  # fmt: skip

    def for_ways(self, ways: int) -> "ConvNetwork":
        """The network with a head for another number of classes: the first columns of its own, over and over.

        A task names its classes in any order, so no column of a meta-learned head is any class's own, and yet they are
        worth keeping. From the published Omniglot initialisation for 5 classes, with one shot, 3, 7 and 10 classes are
        told apart with 97.3, 89.5 and 82.6 % (a fresh head: 93.0, 82.0 and 77.8 %), and 20 with 68.5 %, where the one
        for 20 has 83.0 % (200 tasks, and 60 for 20 classes; ± 1.3 to 2.8). Raises `ValueError` for a number below 1.
        """
        ways = whole("ways", ways)
        heads = over_and_over(self.head, ways), over_and_over(self.head_bias, ways)
        return eqx.tree_at(lambda net: (net.head, net.head_bias), self, heads)


def over_and_over(leaf: Array, count: int) -> Array:
    """`count` entries of the last axis: the first ones, and where these are too few, the same again."""
    return leaf[..., jnp.arange(count) % leaf.shape[-1]]


def _halved(x):
    """Means over 2×2, of what there is at an odd edge."""
    rows, columns = x.shape[1] % 2, x.shape[2] % 2
    return (
        jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
        .reshape(x.shape[0], (x.shape[1] + rows) // 2, 2, (x.shape[2] + columns) // 2, 2, x.shape[3])
        .mean((2, 4))
    )


class OmniglotNetwork(ConvNetwork):
    """The Omniglot classifier of Section 6.1 (after Finn et al.): four blocks of 64 filters and a dense head."""

    def __init__(
        self, ways: int, activation: Callable = jax.nn.relu, *, average_features: bool = False, key: PRNGKeyArray
    ):
        """A fresh network for `ways` classes and 28×28 drawings (ink 0, paper 1); 113,221 parameters for 5.

        The paper's activation is ReLU, and its head takes the features of all places; Finn et al.'s takes their mean.
        """
        super().__init__(ways, (28, 28, 1), activation=activation, average_features=average_features, key=key)


class MiniImageNetNetwork(ConvNetwork):
    """The Mini-ImageNet classifier of Section 6.1: four blocks of 32 filters with max-pools, and a dense head."""

    def __init__(self, ways: int, *, average_features: bool = False, key: PRNGKeyArray):
        """A fresh network for `ways` classes and 84×84 pictures; 34,661 parameters for 5.

        The paper's head takes the features of all places (`average_features`: their mean).
        """
        super().__init__(ways, (84, 84, 3), filters=32, pool=True, average_features=average_features, key=key)
