"""A 3×3 convolution and max-pooling that stay fast inside a loop on the CPU, with all their derivatives.

XLA has a fast CPU path for a convolution in the canonical form (layouts NHWC and HWIO, nothing transposed or
dilated) but none for the gradients that JAX derives from it (jax issue 12868). So each is stated here, in its
quickest form: a canonical convolution, or a matrix product of the 3×3 neighbourhoods (*patches*).

A convolution y(x, k) and its two gradients are three faces of one form, linear in x, in k and in dy:
⟨y(x, k), dy⟩ = ⟨x, `input_gradient`(dy, k)⟩ = ⟨k, `kernel_gradient`(x, dy)⟩. The derivatives of any of the
three are the other two, so that derivatives of every order (MAML's are the second) stay on these paths.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..hardware import Hardware, hardware

Images = Float[Array, "batch height width channel"]
Filtered = Float[Array, "batch rows columns filter"]
Pooled = Float[Array, "batch rows columns channel"]
Place = Int[Array, "batch rows columns channel"]
Kernel = Float[Array, "3 3 channel filter"]


class Form(NamedTuple):
    """How a convolution is computed: its stride, and what for. Its gradients, of any order, are computed likewise."""

    stride: int
    hardware: Hardware

    def by_patches(self, channels: int, filters: int) -> bool:
        """Whether it is a matrix product of patches, rather than XLA's own convolution.

        XLA's own is slow on a CPU with few channels: before JAX 0.10 always, from then on with few filters too. On a
        GPU one network for each task or seed makes a grouped convolution, slow where a batched product is not.
        """
        slow = channels <= _FEW_CHANNELS and (jax.__version_info__ < (0, 10) or filters <= _FEW_FILTERS)
        return self.stride == 2 or not self.hardware.cpu or slow


def convolution(x: Images, kernel: Kernel, stride: int) -> Filtered:
    """A 3×3 convolution with SAME padding (zeros; with stride 2 on an even size none before and one after).

    Equal to `lax.conv_general_dilated` with layouts NHWC and HWIO, whose forward mode it lacks.

    **Arguments:**

    - `x`: images, shape `(batch, height, width, channel)`.
    - `kernel`: weights, shape `(3, 3, channel, filter)`.
    - `stride`: 1 or 2.

    **Returns:** shape `(batch, ceil(height / stride), ceil(width / stride), filter)`.
    """
    return filtered(x, kernel, Form(stride, hardware()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def filtered(x: Images, kernel: Kernel, form: Form) -> Filtered:
    """y(x, k): `convolution` in a given form."""
    if form.by_patches(*kernel.shape[2:]):
        patches = _patches(_operand(x, form), form)
        return _product(patches, _operand(kernel, form).reshape(patches.shape[-1], -1))
    return _canonical(_rounded(x, form), _rounded(kernel, form))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def input_gradient(dy: Filtered, kernel: Kernel, form: Form, size: tuple[int, int]) -> Images:
    """The gradient of ⟨y(x, k), dy⟩ with respect to x, whose height and width are `size`."""
    if form.stride == 1:
        return filtered(dy, kernel[::-1, ::-1].swapaxes(2, 3), form)
    return _scattered(dy, kernel, form, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(x: Images, dy: Filtered, form: Form) -> Kernel:
    """The gradient of ⟨y(x, k), dy⟩ with respect to k."""
    x_read, dy_read = _operand(x, form), _operand(dy, form)
    if form.by_patches(x.shape[-1], dy.shape[-1]):
        return _patches_times(_patches(x_read, form), dy_read, form).reshape(3, 3, x.shape[-1], -1)
    return _two_by_two(x_read, dy_read) if x.shape[-1] <= _FEW_CHANNELS else _image_by_image(x_read, dy_read)


filtered.defvjp(
    lambda x, kernel, form: (filtered(x, kernel, form), (x, kernel)),
    lambda form, saved, dy: (
        input_gradient(dy, saved[1], form, saved[0].shape[1:3]),
        kernel_gradient(saved[0], dy, form),
    ),
)
input_gradient.defvjp(
    lambda dy, kernel, form, size: (input_gradient(dy, kernel, form, size), (dy, kernel)),
    lambda form, size, saved, x: (filtered(x, saved[1], form), kernel_gradient(x, saved[0], form)),
)
kernel_gradient.defvjp(
    lambda x, dy, form: (kernel_gradient(x, dy, form), (x, dy)),
    lambda form, saved, kernel: (
        input_gradient(saved[1], kernel, form, saved[0].shape[1:3]),
        filtered(saved[0], kernel, form),
    ),
)


_FEW_CHANNELS, _FEW_FILTERS = 7, 16
_PIXELS_IN_A_PIECE = 256
_MANTISSA_BITS = {"tensorfloat32": 10, "bfloat16": 7}


def _operand(x, form):
    """What a product reads of `x` at the form's precision.

    To JAX "bfloat16" only allows it, and float32 operands then stay TF32 on a GPU; here they are cast. A CPU has no
    TF32, and few have products of bfloat16 that are not several times slower, so that there operands are rounded and
    stay float32. All sum in float32.
    """
    narrow = form.hardware.precision == "bfloat16" and x.dtype == jnp.float32
    return x.astype(jnp.bfloat16) if narrow and not form.hardware.cpu else _rounded(x, form)


def _rounded(x, form):
    """`_operand` in the dtype of `x`, for a CPU's own convolution."""
    bits = _MANTISSA_BITS.get(form.hardware.precision)
    if bits is None or x.dtype != jnp.float32 or not form.hardware.cpu:
        return x
    return lax.reduce_precision(x, 8, bits)


def _product(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _same_padding(size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that a 3-wide SAME convolution gives ceil(size / stride) outputs."""
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    return total // 2, total - total // 2


def _patches(x: Images, form: Form) -> Float[Array, "batch rows columns 9*channel"]:
    """The 3×3 neighbourhoods that a SAME convolution reads, each as one vector in the kernel's order."""
    (_, height, width, _), stride = x.shape, form.stride
    x = jnp.pad(x, ((0, 0), _same_padding(height, stride), _same_padding(width, stride), (0, 0)))
    rows, columns = -(-height // stride), -(-width // stride)
    if not form.hardware.cpu:
        # With nine slices instead, Mini-ImageNet's training takes 1.4 times as long on a GPU.
        tap, row, column = np.arange(3), stride * np.arange(rows), stride * np.arange(columns)
        row, column = row[:, None, None, None] + tap[:, None], column[:, None, None] + tap
        return x.at[:, row, column].get(mode="promise_in_bounds").reshape(x.shape[0], rows, columns, -1)
    return jnp.concatenate(
        [
            x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )


def _patches_times(patches, dy, form):
    """patchesᵀ · dy. On a CPU one of the two is turned first, which is a third faster than leaving it to XLA.

    Turning dy takes less, but leaves a result to be turned as well, which only many patches make up for.
    """
    if not form.hardware.cpu:
        return _summed_in_pieces(patches, dy)
    patches, dy = patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # Without the barriers XLA folds the transposes back into one product of the slow orientation.
    if patches.shape[1] < dy.shape[1] or 2 * patches.shape[0] < patches.shape[1]:
        return _product(lax.optimization_barrier(patches.T), dy)
    return lax.optimization_barrier(_product(lax.optimization_barrier(dy.T), patches)).T


def _summed_in_pieces(patches, dy):
    """patchesᵀ · dy on a GPU, as the sum of many products of some hundred pixels each.

    One product has a small result and so few blocks that most of the GPU waits; on Mini-ImageNet that took half of the
    training's time.
    """
    lines, pixels = dy.shape[0] * dy.shape[1], dy.shape[0] * dy.shape[1] * dy.shape[2]
    pieces = max(n for n in range(1, lines + 1) if lines % n == 0 and (n == 1 or pixels // n >= _PIXELS_IN_A_PIECE))
    patches, dy = (part.reshape(pieces, -1, part.shape[-1]) for part in (patches, dy))
    # Without the barrier XLA makes one product of them again.
    return lax.optimization_barrier(_product(patches.swapaxes(1, 2), dy)).sum(0)


def _canonical(x, kernel):
    """XLA's own convolution with one zero all around. One more channel, of zeros, costs less than an odd number."""
    odd = x.shape[-1] % 2
    x, kernel = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, odd))), jnp.pad(kernel, ((0, 0), (0, 0), (0, odd), (0, 0)))
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _image_by_image(x, dy):
    """The stride-1 kernel gradient summed over images: what one needs stays in the core's own cache.

    Three neighbours of a row are one vector, so that each of the kernel's rows is a product of dyᵀ with them.
    """
    _, height, width, channels = x.shape
    pixels, filters = height * width, dy.shape[-1]

    def add(total, image):
        x, dy = image
        x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        x = jnp.concatenate([x[:, j : j + width] for j in range(3)], -1).reshape(-1, 3 * channels)
        dy = lax.optimization_barrier(dy.reshape(pixels, filters).T)
        return total + jnp.stack([_product(dy, x[i * width : i * width + pixels]) for i in range(3)]), None

    total = jnp.zeros((3, filters, 3 * channels), jnp.promote_types(x.dtype, jnp.float32))
    total, _ = lax.scan(add, total, (x, dy))
    return total.reshape(3, filters, 3, channels).transpose(0, 2, 3, 1)


def _two_by_two(x, dy):
    """The stride-1 kernel gradient of few channels as a canonical convolution: its images are x's channels, its kernel
    is dy, and its own channels are images, two at a time: what these need stays in the core's own cache."""

    def pairs(images):
        return jnp.pad(images, ((0, len(images) % 2), *[(0, 0)] * 3)).reshape(-1, 2, *images.shape[1:])

    def add(total, two):
        x, dy = two
        return total + _canonical(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)), None

    total, _ = lax.scan(add, jnp.zeros((x.shape[-1], 3, 3, dy.shape[-1]), x.dtype), (pairs(x), pairs(dy)))
    return total.transpose(1, 2, 0, 3)


def _scattered(dy, kernel, form, size):
    """dy · Wᵀ, the patches' gradients, added back to the pixels they were taken from, one axis at a time."""
    batch, rows, columns, filters = dy.shape
    channels = kernel.shape[2]
    taps = _product(_operand(dy, form), _operand(kernel, form).reshape(-1, filters).T)
    taps = taps.reshape(batch, rows, columns, 3, 3, channels)
    # Without the barrier XLA folds the interleaving below into nine strided sums per pixel.
    taps = lax.optimization_barrier(taps)
    taps = _interleave(taps, axis=1, tap_axis=3, size=size[0])
    return _interleave(taps, axis=2, tap_axis=3, size=size[1])


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


@jax.custom_vjp
def max_pool(h: Images) -> tuple[Pooled, Place]:
    """The largest value in each 2×2 window, and where in the window it is; stride 2, SAME padding.

    **Arguments:**

    - `h`: shape `(batch, height, width, channel)`. On an odd size the last row or column has half a window.

    **Returns:** the values, shape `(batch, ceil(height / 2), ceil(width / 2), channel)`, and their places 0 to 3,
    row after row, of the same shape. Ties go to the first.
    """
    windows = _windows(h, -jnp.inf)
    first, *rest = corners = [windows[:, :, i, :, j] for i in range(2) for j in range(2)]
    values = functools.reduce(jnp.maximum, rest, first)
    place = functools.reduce(lambda later, i: jnp.where(corners[i] == values, i, later), (2, 1, 0), jnp.int32(3))
    return values, place


@jax.custom_vjp
def gather(h: Images, place: Place) -> Pooled:
    """The value at `place` in each 2×2 window of `h`, as `max_pool` numbers them."""
    return jnp.where(_at(place), _windows(h, 0), 0).sum((2, 4))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def spread(d: Pooled, place: Place, size: tuple[int, int]) -> Images:
    """`d` at `place` in each 2×2 window of images whose height and width are `size`, zero elsewhere.

    The gradient of `gather` and of `max_pool`, whose own is `gather`."""
    batch, rows, columns, channels = d.shape
    d = jnp.where(_at(place), d[:, :, None, :, None], 0)
    return d.reshape(batch, 2 * rows, 2 * columns, channels)[:, : size[0], : size[1]]


def _pool_forward(h):
    values, place = max_pool(h)
    return (values, place), (place, h.shape[1:3])


max_pool.defvjp(_pool_forward, lambda saved, d: (spread(d[0], *saved),))
gather.defvjp(lambda h, place: (gather(h, place), (place, h.shape[1:3])), lambda saved, d: (spread(d, *saved), None))
spread.defvjp(lambda d, place, size: (spread(d, place, size), place), lambda size, place, h: (gather(h, place), None))


def _windows(h, fill):
    """The 2×2 windows of `h`, shape `(batch, rows, 2, columns, 2, channel)`, an odd size filled up."""
    batch, height, width, channels = h.shape
    h = jnp.pad(h, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=fill)
    return h.reshape(batch, h.shape[1] // 2, 2, h.shape[2] // 2, 2, channels)


def _at(place):
    # A constant: XLA would compute positions of the full size once, and then read them from memory every time.
    return place[:, :, None, :, None] == np.arange(4, dtype=np.int32).reshape(2, 1, 2, 1)
