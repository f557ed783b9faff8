"""Frozen parts, inner loops of one part (ANIL), learnt step sizes, adapters, padded tasks, networks of any size."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reptile_eqx as rx


class Net(eqx.Module):
    body: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.body = eqx.nn.MLP(1, 8, 8, 1, final_activation=jnp.tanh, key=a)
        self.head = eqx.nn.Linear(8, 1, key=b)

    def __call__(self, x):
        return self.head(self.body(x))


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def moved(before, after):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(leaves(before), leaves(after), strict=True))


def trained(gradient, model=Net, merge=None, iterations=3, outer=0.1):
    one = rx.Learner(model, rx.SineWaves(points=10), gradient, optax.sgd(outer), 2, merge)
    begun = rx.start(one, jax.random.key(0))
    return begun, eqx.filter_jit(rx.train)(one, begun, iterations)[0]


HEAD = rx.only(optax.sgd(0.02), lambda net: net.head)


@pytest.mark.parametrize(
    ("gradient", "body_learns"),
    [
        (rx.reptile(rx.mean_squared_error, HEAD, steps=3, batch_size=5), False),
        (rx.fomaml(rx.mean_squared_error, HEAD, steps=3, batch_size=5), False),
        (rx.fomaml(rx.mean_squared_error, HEAD, steps=3, batch_size=5, gradients=True), True),
        (rx.maml(rx.mean_squared_error, HEAD, steps=3, batch_size=5), True),
    ],
)
@pytest.mark.parametrize("merge", [None, rx.merge_average])
def test_an_inner_loop_of_the_head_alone(gradient, body_learns, merge):
    """ANIL where the meta-gradient is a gradient; where it is the inner updates, the rest is held still outside too."""
    begun, done = trained(gradient, merge=merge)
    assert moved(begun.model.head, done.model.head) > 0
    assert (moved(begun.model.body, done.model.body) > 0) == body_learns


def test_the_inner_loop_of_the_head_is_slow_anils():
    """First-order MAML's gradient at the adapted head, by hand."""
    gradient = rx.fomaml(rx.mean_squared_error, HEAD, steps=2, batch_size=5, gradients=True)
    model, task, key = Net(jax.random.key(0)), rx.SineWaves(points=5)(jax.random.key(1)), jax.random.key(2)
    estimate, _, _ = gradient.estimate(model, gradient.start(model), task, key)
    slope = eqx.filter_grad(rx.mean_squared_error)(model, task.support)
    head = jax.tree.map(lambda p, g: p - 0.02 * g, model.head, slope.head)
    adapted = eqx.tree_at(lambda net: net.head, model, head)
    expected = eqx.filter_grad(rx.mean_squared_error)(adapted, task.query)
    for a, b in zip(leaves(estimate), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_labels_that_are_a_module_are_told_what_to_pass():
    labels = jax.tree.map(lambda _: "still", eqx.filter(Net(jax.random.key(0)), eqx.is_inexact_array))
    wrong = optax.partition({"still": optax.set_to_zero()}, labels)
    with pytest.raises(TypeError, match=r"give it `lambda _: labels`, or take rx.only"):
        trained(rx.reptile(rx.mean_squared_error, wrong, steps=3, batch_size=5))
    right = optax.partition({"still": optax.set_to_zero()}, lambda _: labels)
    with pytest.warns(UserWarning, match="changed no parameter"):
        trained(rx.reptile(rx.mean_squared_error, right, steps=3, batch_size=5))
        jax.effects_barrier()


class LowRank(eqx.Module):
    """A frozen layer with a low-rank matrix added to it."""

    frozen: rx.Frozen
    a: jax.Array
    b: jax.Array

    def __init__(self, layer, rank, key):
        self.frozen = rx.Frozen(layer)
        self.a = jax.random.normal(key, (rank, layer.in_features)) / layer.in_features
        self.b = jnp.zeros((layer.out_features, rank))

    def __call__(self, x, *, key=None):
        return self.frozen(x) + self.b @ (self.a @ x)


def with_adapters(key):
    net = eqx.nn.MLP(1, 1, 64, 2, key=jax.random.key(7))
    layers = tuple(LowRank(layer, 2, k) for layer, k in zip(net.layers, jax.random.split(key, 3), strict=True))
    return eqx.tree_at(lambda n: n.layers, net, layers)


@pytest.mark.parametrize("algorithm", [rx.reptile, rx.fomaml, rx.maml])
def test_adapters_on_a_frozen_network(algorithm):
    gradient = algorithm(rx.mean_squared_error, rx.reference_adam(0.01), steps=2, batch_size=5)
    begun, done = trained(gradient, with_adapters, outer=1e-4)
    for before, after in zip(begun.model.layers, done.model.layers, strict=True):
        assert eqx.tree_equal(before.frozen, after.frozen)
        assert moved((before.a, before.b), (after.a, after.b)) > 0
    # Nothing of the frozen part is kept twice: no state, no gradient.
    adapters = sum(leaf.size for layer in begun.model.layers for leaf in (layer.a, layer.b))
    assert sum(leaf.size for leaf in leaves(begun.inner.square)) == adapters
    direction, _, _ = gradient.estimate(begun.model, begun.inner, rx.SineWaves()(jax.random.key(1)), jax.random.key(2))
    assert sum(leaf.size for leaf in leaves(direction)) == adapters


def test_a_model_that_is_frozen_whole_has_nothing_to_train():
    with pytest.raises(ValueError, match="no floating-point arrays to train"):
        trained(rx.reptile(rx.mean_squared_error, HEAD, steps=1, batch_size=5), lambda key: rx.Frozen(Net(key)))


@pytest.mark.parametrize("per", ["parameter", "array"])
def test_meta_sgd_learns_its_step_sizes(per):
    """Meta-SGD: the meta-gradient of the step sizes is minus the product of two gradients (one inner step, by hand)."""
    gradient = rx.maml(rx.mean_squared_error, rx.own_sgd(), steps=2, batch_size=5)

    def model(key):
        return rx.OwnSteps(Net(key), 0.02, per)

    begun, done = trained(gradient, model)
    assert moved(begun.model.steps, done.model.steps) > 0 and moved(begun.model.model, done.model.model) > 0
    task, key = rx.SineWaves(points=5)(jax.random.key(1)), jax.random.key(2)
    estimate, _, _ = gradient.estimate(begun.model, begun.inner, task, key)
    inner = eqx.filter_grad(rx.mean_squared_error)(begun.model.model, task.support)
    adapted = jax.tree.map(
        lambda p, g: p - 0.02 * g, *(eqx.filter(m, eqx.is_array) for m in (begun.model.model, inner))
    )
    outer = eqx.filter_grad(rx.mean_squared_error)(eqx.combine(adapted, begun.model.model), task.query)
    for got, g, h in zip(leaves(estimate.steps), leaves(inner), leaves(outer), strict=True):
        np.testing.assert_allclose(got, -g * h if per == "parameter" else -(g * h).sum(), rtol=1e-3, atol=1e-5)


def test_own_sgd_with_equal_steps_is_sgd():
    own = rx.reptile(rx.mean_squared_error, rx.own_sgd(), steps=3, batch_size=5)
    sgd = rx.reptile(rx.mean_squared_error, optax.sgd(0.02), steps=3, batch_size=5)
    _, done = trained(own, lambda key: rx.OwnSteps(Net(key), 0.02))
    _, expected = trained(sgd)
    for a, b in zip(leaves(done.model.model), leaves(expected.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    with pytest.raises(TypeError, match="needs a model wrapped in rx.OwnSteps; given Net"):
        trained(own)
    with pytest.raises(ValueError, match="`per` is 'layer'; expected 'parameter' or 'array'"):
        rx.OwnSteps(Net(jax.random.key(0)), 0.02, "layer")


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(6, 9), st.sampled_from(["mse", "sum", "mean"]))
def test_padding_counts_for_nothing(count, length, kind):
    x = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    linear = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    if kind == "mse":
        y, model, loss = x @ np.ones((3, 4), np.float32), linear, rx.mean_squared_error
    else:
        y, model = np.arange(count) % 4, lambda x: jax.vmap(linear)(x)
        loss = rx.sum_cross_entropy if kind == "sum" else rx.mean_cross_entropy
    padded = rx.pad((x, y), length)
    assert [leaf.shape[0] for leaf in padded] == [length] * 3 and padded[2].sum() == count
    np.testing.assert_allclose(loss(model, padded), loss(model, (jnp.asarray(x), jnp.asarray(y))), rtol=2e-6)
    nothing = tuple(leaf[count:] for leaf in padded)
    if len(nothing[0]):
        assert loss(model, nothing) == 0
    with pytest.raises(ValueError, match="cannot be padded"):
        rx.pad((x, y), count - 1)


def test_batches_of_padding_alone_train_without_nan():
    waves = [rx.SineWaves(points=n)(jax.random.key(n)).support for n in (1, 2, 9)]
    tasks = rx.TaskList([rx.Task(rx.pad(wave, 12), rx.pad(wave, 12)) for wave in waves])
    for gradient in (
        rx.reptile(rx.mean_squared_error, rx.reference_adam(0.01), steps=8, batch_size=1),
        rx.maml(rx.mean_squared_error, optax.sgd(0.01), steps=8, batch_size=1),
    ):
        one = rx.Learner(Net, tasks, gradient, optax.sgd(0.1))
        state, loss = eqx.filter_jit(rx.train)(one, rx.start(one, jax.random.key(0)), 10)
        assert jnp.isfinite(loss) and all(jnp.isfinite(leaf).all() for leaf in leaves(state.model))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("shape", "blocks"), [((5, 9, 2), 1), ((7, 3, 3), 4)])
def test_networks_of_any_size(shape, blocks, pool, skip, average):
    given = dict(filters=4, blocks=blocks, pool=pool, skip=skip, average_features=average)
    net = rx.nn.ConvNetwork(3, shape, **given, key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (6, *shape))
    assert eqx.filter_eval_shape(net, x).shape == (6, 3)
    slope = eqx.filter_jit(eqx.filter_grad(rx.sum_cross_entropy))(net, (x, jnp.arange(6) % 3))
    assert all(jnp.isfinite(leaf).all() for leaf in leaves(slope))
    settings = net.settings()
    assert settings["shape"] == shape and (settings["blocks"], settings["filters"]) == (blocks, 4)
    again = rx.nn.ConvNetwork(**settings, key=jax.random.key(0))
    assert eqx.tree_equal(net, again)


def test_a_skip_adds_the_mean_of_the_blocks_input():
    net = rx.nn.ConvNetwork(2, (8, 8, 3), filters=3, blocks=2, skip=True, key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    h = net.blocks[0](x)
    means = h.reshape(4, 2, 2, 2, 2, 3).mean((2, 4))
    expected = (net.blocks[1](h) + means).reshape(4, -1) @ net.head + net.head_bias
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", [rx.nn.OmniglotNetwork, rx.nn.MiniImageNetNetwork])
def test_average_features_are_the_mean_over_places(network):
    net = network(5, average_features=True, key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (2, *net.shape))
    h = x
    for block in net.blocks:
        h = block(h)
    expected = h.reshape(2, -1, h.shape[-1]).sum(1) / (h.shape[1] * h.shape[2]) @ net.head + net.head_bias
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-5)
    places = network(5, key=jax.random.key(0)).head.shape[0]
    assert len(net.head) == h.shape[-1] and places == h.shape[-1] * h.shape[1] * h.shape[2]


def test_the_papers_networks_are_instances():
    omniglot = rx.nn.OmniglotNetwork(5, key=jax.random.key(0))
    same = rx.nn.ConvNetwork(5, (28, 28, 1), key=jax.random.key(0))
    assert all(map(np.array_equal, leaves(omniglot), leaves(same)))
    for wrong, message in (
        ({"blocks": 0}, "`blocks` is 0"),
        ({"filters": 0}, "`filters` is 0"),
        ({"ways": 0}, "`ways` is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rx.nn.ConvNetwork(**{"ways": 2, "shape": (8, 8, 1), "key": jax.random.key(0)} | wrong)
    with pytest.raises(ValueError, match=r"an image's \(height, width, channel\); given \(8, 8\)"):
        rx.nn.ConvNetwork(2, (8, 8), key=jax.random.key(0))
