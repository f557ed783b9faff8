"""Networks: the fast convolution, pooling and norm are the plain ones, and nothing remembers an earlier batch."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from reptile_eqx import nn, sum_cross_entropy
from reptile_eqx.nn.convolution import convolution, max_pool
from reptile_eqx.nn.normalisation import batch_norm_relu

# Most of a test's time is compilation, so programs are compiled quickly rather than to run quickly.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(eqx.filter_jit, compiler_options=QUICK)


def plain_convolution(x, kernel, stride=2):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_norm(h, scale, shift):
    mean, variance = h.mean((0, 1, 2)), h.var((0, 1, 2))
    return (h - mean) / jnp.sqrt(variance + 1e-3) * scale + shift


def plain_norm_relu(h, scale, shift):
    return jax.nn.relu(plain_norm(h, scale, shift))


def plain_pool(h):
    """Each window's values side by side, then the first of the largest."""
    batch, height, width, channels = h.shape
    h = jnp.pad(h, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    corners = jnp.stack([h[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
    return jnp.take_along_axis(corners, corners.argmax(-1)[..., None], -1)[..., 0]


def defined_convolution(x, kernel, stride):
    """The nine shifted products that a convolution is; its own gradient is quicker than that of `lax`'s."""
    sizes = [-(-size // stride) for size in x.shape[1:3]]
    total = [max((n - 1) * stride + 3 - size, 0) for n, size in zip(sizes, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    ends = [(n - 1) * stride + 1 for n in sizes]
    shifted = [[x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for j in range(3)] for i in range(3)]
    return sum(shifted[i][j] @ kernel[i, j] for i in range(3) for j in range(3))


def plain_network(network, x):
    for block in network.blocks:
        h = defined_convolution(x, block.kernel, 1 if block.pool else 2)
        x = plain_norm(h + block.bias, block.scale, block.shift)
        x = jax.nn.relu(plain_pool(x) if block.pool else x)
    return x.reshape(len(x), -1) @ network.head + network.head_bias


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


apply = jit(lambda network, x: network(x))


@functools.cache
def omniglot():
    return jit(lambda key: nn.OmniglotNetwork(5, key=key))(jax.random.key(0))


def assert_agree(ours, plain, *arguments):
    """Values, gradients and the gradients' own gradients, to float64 rounding."""
    weights = normal(9, *jax.eval_shape(plain, *arguments).shape)
    every = tuple(range(len(arguments)))

    def all_of(f):
        def first(*a):
            y = f(*a)
            return (weights * jnp.sin(y)).sum(), y

        def second(*a):
            gradients, y = jax.grad(first, every, has_aux=True)(*a)
            return sum(jnp.cos(g).sum() for g in gradients), (y, gradients)

        return jit(jax.grad(second, every, has_aux=True))(*arguments)

    for mine, theirs in zip(jax.tree.leaves(all_of(ours)), jax.tree.leaves(all_of(plain)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


# All sizes from 1 to 9, and each of odd and even beside each; once with more filters than a patch has numbers, and
# twice with few channels and so many filters that a CPU takes its own convolution.
@pytest.mark.parametrize(
    ("stride", "size", "channels", "filters"),
    [
        (2, (1, 8), 2, 2),
        (2, (9, 2), 1, 4),
        (2, (3, 6), 1, 10),
        (2, (7, 4), 3, 2),
        (2, (5, 5), 2, 3),
        (1, (1, 4), 9, 2),
        (1, (5, 2), 8, 10),
        (1, (3, 6), 3, 2),
        (1, (4, 7), 3, 18),
        (1, (2, 2), 4, 17),
    ],
)
def test_convolution_is_the_plain_one_with_its_derivatives(stride, size, channels, filters):
    with jax.enable_x64(True):
        x, kernel = normal(0, 3, *size, channels), normal(1, 3, 3, channels, filters)
        ours = lambda x, kernel: convolution(x, kernel, stride)  # noqa: E731
        assert_agree(ours, lambda x, kernel: plain_convolution(x, kernel, stride), x, kernel)


@pytest.mark.parametrize(("on", "channels", "filters"), [("cpu", 9, 2), ("cpu", 3, 17), ("gpu", 9, 2)])
def test_both_forms_of_the_convolution_have_the_same_third_derivatives(on, channels, filters, monkeypatch):
    """The form for GPUs runs anywhere. Three derivatives pass through each face of the convolution."""
    with jax.enable_x64(True):
        x, dy = normal(0, 2, 3, 4, channels), normal(2, 2, 3, 4, filters)
        kernel = normal(1, 3, 3, channels, filters)

        def third(f):
            first = jax.grad(lambda x, k: (jnp.sin(f(x, k)) * dy).sum(), (0, 1))
            second = jax.grad(lambda x, k: sum(jnp.sin(g).sum() for g in first(x, k)), (0, 1))
            return jit(jax.grad(lambda x, k: sum(jnp.sin(g).sum() for g in second(x, k)), (0, 1)))

        plain = third(lambda x, kernel: plain_convolution(x, kernel, 1))(x, kernel)
        monkeypatch.setattr(jax, "default_backend", lambda: on)
        for mine, theirs in zip(third(lambda x, kernel: convolution(x, kernel, 1))(x, kernel), plain, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


# The last two have the kernel gradient as a sum of 3 and of 7 products.
@pytest.mark.parametrize(
    ("stride", "shape"),
    [(1, (2, 5, 4, 3)), (2, (2, 9, 6, 2)), (2, (3, 1, 7, 1)), (1, (3, 17, 16, 3)), (2, (10, 28, 27, 1))],
)
def test_the_form_for_gpus_is_the_plain_one_with_its_gradients(stride, shape, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.enable_x64(True):
        x, kernel = normal(0, *shape), normal(1, 3, 3, shape[-1], 4)
        y, ours = jax.vjp(lambda *a: convolution(*a, stride), x, kernel)
        plain, theirs = jax.vjp(lambda *a: plain_convolution(*a, stride), x, kernel)
        np.testing.assert_allclose(y, plain, rtol=1e-9, atol=1e-9)
        for mine, their in zip(ours(jnp.cos(y)), theirs(jnp.cos(plain)), strict=True):
            np.testing.assert_allclose(mine, their, rtol=1e-9, atol=1e-9)


def rounded(x, bits):
    """float32 numbers rounded to so many bits of mantissa, half to even, in float64."""
    dropped = 23 - bits
    whole = np.asarray(x).view(np.uint32)
    whole = whole + np.uint32(2 ** (dropped - 1) - 1) + (whole >> dropped & 1)
    return jnp.asarray((whole >> dropped << dropped).view(np.float32), jnp.float64)


# A GPU sees to TF32 itself.
@pytest.mark.parametrize(
    ("on", "precision", "bits"), [("cpu", "tensorfloat32", 10), ("cpu", "bfloat16", 7), ("gpu", "bfloat16", 7)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_at_lower_precision_each_product_rounds_its_operands_and_nothing_else(on, precision, bits, stride, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: on)
    x, kernel, dy = normal(0, 2, 5, 6, 9), normal(1, 3, 3, 9, 8), normal(2, 2, -(-5 // stride), 6 // stride, 8)
    with jax.default_matmul_precision(precision):
        ours = jit(
            lambda *a: (convolution(*a[:2], stride), *jax.vjp(lambda x, k: convolution(x, k, stride), *a[:2])[1](a[2]))
        )(x, kernel, dy)
    with jax.enable_x64(True):
        exact = [rounded(a, bits) for a in (x, kernel, dy)]
        y, gradients = jax.vjp(lambda x, k: plain_convolution(x, k, stride), *exact[:2])
        for mine, theirs in zip(ours, (y, *gradients(exact[2])), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_norm_is_the_plain_one_with_its_derivatives():
    """Also where a channel is constant, which only ε keeps from a division by zero."""
    with jax.enable_x64(True):
        h = normal(0, 3, 4, 5, 3).at[..., 0].set(3.0)
        assert_agree(batch_norm_relu, plain_norm_relu, h, 1 + normal(1, 3), jnp.array([0.5, -0.3, 0.2]))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)])
def test_the_largest_of_a_window_takes_the_gradient_and_the_first_of_equals(size):
    """Whole numbers, of which most windows hold several equal ones; every order of derivative goes the same way."""
    with jax.enable_x64(True):
        h = jnp.round(normal(0, 3, *size, 2))
        assert_agree(lambda h: max_pool(h)[0] ** 3, lambda h: plain_pool(h) ** 3, h)


@pytest.mark.parametrize("size", [(4, 2), (5, 3)])
def test_a_pooled_block_is_the_plain_one_with_its_derivatives(size):
    """Where a scale is negative the norm turns the order round, and the window's smallest is pooled."""
    with jax.enable_x64(True):
        block = nn.ConvBlock(3, 4, pool=True, key=jax.random.key(0))
        shift = jnp.array([0.5, -0.3, 0.2, 0.1])
        arguments = normal(3, 2, *size, 3), block.kernel, jnp.array([1.5, -0.5, 0.7, -1.2]), shift

        def ours(x, kernel, scale, shift):
            return eqx.tree_at(lambda b: (b.kernel, b.scale, b.shift), block, (kernel, scale, shift))(x)

        def plain(x, kernel, scale, shift):
            return jax.nn.relu(plain_pool(plain_norm(plain_convolution(x, kernel, 1), scale, shift)))

        assert_agree(ours, plain, *arguments)


def test_a_pooled_block_with_another_activation_is_an_error():
    with pytest.raises(ValueError, match="a pooled block has ReLU"):
        nn.ConvBlock(3, 4, jnp.tanh, pool=True, key=jax.random.key(0))


def test_a_block_takes_other_activations():
    with jax.enable_x64(True):
        block = nn.ConvBlock(2, 3, jnp.tanh, key=jax.random.key(0))
        block = eqx.tree_at(lambda b: (b.scale, b.shift), block, (1 + normal(1, 3), normal(2, 3)))
        x = normal(3, 2, 5, 4, 2)
        plain = jnp.tanh(plain_norm(plain_convolution(x, block.kernel), block.scale, block.shift))
        np.testing.assert_allclose(apply(block, x), plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "ways", "shape", "parameters"),
    [
        (nn.OmniglotNetwork, 5, (28, 28, 1), 113_221),
        (nn.OmniglotNetwork, 20, (28, 28, 1), 117_076),
        (nn.MiniImageNetNetwork, 5, (84, 84, 3), 34_661),
    ],
)
def test_a_network_has_the_references_parameters_and_a_logit_per_way(network, ways, shape, parameters):
    def build(key, x):
        built = network(ways, key=key)
        return built, built(x)

    built, logits = jax.eval_shape(build, jax.random.key(0), jnp.zeros((2, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(built)) == parameters
    assert logits.shape == (2, ways)


def test_weights_start_glorot_uniform_and_biases_zero():
    network = omniglot()
    weights = [(block.kernel, 9 * c, 9 * 64) for block, c in zip(network.blocks, (1, 64, 64, 64), strict=True)]
    for weight, fan_in, fan_out in [*weights, (network.head, 256, 5)]:
        limit = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.98 * limit < jnp.abs(weight).max() <= limit
        np.testing.assert_allclose(weight.std(), limit / 3**0.5, rtol=0.1)
        assert abs(weight.mean()) < 0.1 * limit
    for block in network.blocks:
        assert not block.bias.any() and not block.shift.any() and (block.scale == 1).all()
    assert not network.head_bias.any()
    assert not jnp.array_equal(network.blocks[1].kernel, network.blocks[2].kernel), "blocks share no key"


@pytest.mark.parametrize("make", [nn.OmniglotNetwork, nn.MiniImageNetNetwork])
def test_a_network_is_the_plain_one_with_its_gradient(make):
    """Four plain blocks and a dense head; the biases' gradient, zero but for rounding, is exactly zero here."""
    with jax.enable_x64(True):
        network = jit(lambda key: make(3, key=key))(jax.random.key(0))
        # Sizes 84, 42, 21 and 11: the last two end in half a window.
        network = jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.size, *leaf.shape), network)
        shape = (28, 28, 1) if make is nn.OmniglotNetwork else (84, 84, 3)
        batch = normal(1, 2, *shape), jnp.array([0, 2])

        def both(f, network, batch):
            gradient = jax.grad(lambda n: sum_cross_entropy(lambda x: f(n, x), batch))
            return f(network, batch[0]), gradient(network)

        (mine, ours), (theirs, plain) = (jit(both)(f, network, batch) for f in (lambda n, x: n(x), plain_network))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
        assert not any(block.bias.any() for block in ours.blocks)


def test_batch_norm_has_no_running_statistics():
    """An image's logits depend on the images beside it, not on their order, nor on any batch before."""
    network = omniglot()
    image, others = normal(1, 1, 28, 28, 1), normal(2, 4, 28, 28, 1)
    together = apply(network, jnp.concatenate([image, others]))
    reordered = apply(network, jnp.concatenate([others[::-1], image]))
    np.testing.assert_allclose(together[0], reordered[-1], rtol=1e-4, atol=1e-4)
    assert jnp.abs(together[0] - apply(network, jnp.concatenate([image, 3 * others + 1]))[0]).max() > 0.01
    apply(network, 50 * jnp.concatenate([image, others]))
    assert jnp.array_equal(together, apply(network, jnp.concatenate([image, others])))


def test_a_bias_before_batch_norm_changes_nothing():
    network, x = omniglot(), normal(1, 5, 28, 28, 1)
    moved = eqx.tree_at(lambda n: n.blocks[1].bias, network, normal(2, 64))
    np.testing.assert_allclose(apply(network, x), apply(moved, x), rtol=1e-3, atol=1e-4)


def test_the_network_can_be_mapped_over_batches():
    network, x = omniglot(), normal(1, 2, 5, 28, 28, 1)
    mapped = jit(jax.vmap(lambda batch: network(batch)))(x)
    np.testing.assert_allclose(mapped, jnp.stack([apply(network, b) for b in x]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("on", ["cpu", "gpu"])
def test_gradients_can_be_mapped_over_networks_and_batches(pool, on, monkeypatch):
    """Seeds trained side by side; each must see its own batch's statistics and its own kernel."""
    monkeypatch.setattr(jax, "default_backend", lambda: on)
    with jax.enable_x64(True):
        make = jit(jax.vmap(lambda key: nn.ConvBlock(8, 10, pool=pool, key=key)))
        blocks = make(jax.random.split(jax.random.key(0), 3))
        x = normal(1, 3, 2, 5, 4, 8)
        gradient = jax.grad(lambda block, batch: jnp.sin(block(batch)).sum())
        mapped, one = jit(jax.vmap(gradient))(blocks, x), jit(gradient)
        alone = [one(jax.tree.map(lambda leaf: leaf[i], blocks), x[i]) for i in range(3)]
        for a, *b in zip(jax.tree.leaves(mapped), *map(jax.tree.leaves, alone), strict=True):
            np.testing.assert_allclose(a, np.stack(b), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", [None, jax.nn.relu])
def test_the_sine_network_is_1_64_64_1_with_tanh_or_the_activation_asked_for(activation):
    key, x = jax.random.key(0), jnp.array([0.7])
    network = nn.sine_network(key, activation) if activation else nn.sine_network(key)
    first, second, last = network.layers
    assert [layer.weight.shape for layer in network.layers] == [(64, 1), (64, 64), (1, 64)]
    act = activation or jnp.tanh
    hidden = act(second.weight @ act(first.weight @ x + first.bias) + second.bias)
    np.testing.assert_allclose(network(x), last.weight @ hidden + last.bias, rtol=1e-4)
