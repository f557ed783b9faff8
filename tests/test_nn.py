"""Networks: the fast convolution and norm are the plain ones, and nothing remembers an earlier batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from reptile_eqx import nn


def plain_convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_norm(h, scale, shift):
    mean, variance = h.mean((0, 1, 2)), h.var((0, 1, 2))
    return jax.nn.relu((h - mean) / jnp.sqrt(variance + 1e-3) * scale + shift)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


apply = jax.jit(lambda network, x: network(x))


def assert_agree(ours, plain, *arguments):
    """Values, gradients and the gradients' own gradients, to float64 rounding."""
    weights = normal(9, *jax.eval_shape(plain, *arguments).shape)
    every = tuple(range(len(arguments)))

    def first(f):
        return jax.grad(lambda *a: (weights * jnp.sin(f(*a))).sum(), every)

    def second(f):
        return jax.grad(lambda *a: sum(jnp.cos(g).sum() for g in first(f)(*a)), every)

    def all_of(f):
        return jax.jit(lambda *a: (f(*a), first(f)(*a), second(f)(*a)))(*arguments)

    for mine, theirs in zip(jax.tree.leaves(all_of(ours)), jax.tree.leaves(all_of(plain)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "channels", "filters"), [((28, 28), 1, 4), ((7, 7), 3, 2), ((4, 5), 2, 3), ((1, 2), 2, 2)]
)
def test_convolution_is_the_plain_one_with_its_derivatives(size, channels, filters):
    with jax.enable_x64(True):
        assert_agree(
            nn.strided_convolution, plain_convolution, normal(0, 2, *size, channels), normal(1, 3, 3, channels, filters)
        )


def test_norm_is_the_plain_one_with_its_derivatives():
    with jax.enable_x64(True):
        assert_agree(nn.batch_norm_relu, plain_norm, normal(0, 3, 4, 5, 2), 1 + normal(1, 2), normal(2, 2))


def test_the_network_has_the_references_parameters():
    network = nn.OmniglotNetwork(5, key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == 113_221
    assert jax.eval_shape(nn.OmniglotNetwork(20, key=jax.random.key(0)), normal(0, 2, 28, 28, 1)).shape == (2, 20)
    for block, channels in zip(network.blocks, (1, 64, 64, 64), strict=True):
        limit = (6 / (9 * channels + 9 * 64)) ** 0.5
        assert 0.9 * limit < jnp.abs(block.kernel).max() <= limit, "Glorot-uniform"
        assert not block.bias.any()


def test_batch_norm_has_no_running_statistics():
    """An image's logits depend on the images beside it, not on their order, nor on any batch before."""
    network = nn.OmniglotNetwork(5, key=jax.random.key(0))
    image, others = normal(1, 1, 28, 28, 1), normal(2, 4, 28, 28, 1)
    together = apply(network, jnp.concatenate([image, others]))
    reordered = apply(network, jnp.concatenate([others[::-1], image]))
    np.testing.assert_allclose(together[0], reordered[-1], rtol=1e-4, atol=1e-4)
    assert jnp.abs(together[0] - apply(network, jnp.concatenate([image, 3 * others + 1]))[0]).max() > 0.01
    apply(network, 50 * jnp.concatenate([image, others]))
    assert jnp.array_equal(together, apply(network, jnp.concatenate([image, others])))


def test_a_bias_before_batch_norm_changes_nothing():
    network, x = nn.OmniglotNetwork(5, key=jax.random.key(0)), normal(1, 6, 28, 28, 1)
    moved = eqx.tree_at(lambda n: n.blocks[1].bias, network, normal(2, 64))
    np.testing.assert_allclose(apply(network, x), apply(moved, x), rtol=1e-3, atol=1e-4)


def test_the_network_can_be_mapped_over_batches():
    network, x = nn.OmniglotNetwork(5, key=jax.random.key(0)), normal(1, 3, 4, 28, 28, 1)
    np.testing.assert_allclose(jax.vmap(network)(x), jnp.stack([apply(network, b) for b in x]), rtol=1e-4, atol=1e-4)


def test_the_sine_network_is_1_64_64_1():
    network = nn.sine_network(jax.random.key(0))
    assert [layer.weight.shape for layer in network.layers] == [(64, 1), (64, 64), (1, 64)]
