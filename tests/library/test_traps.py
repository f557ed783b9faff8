"""What people fall into: each trap has an error or a warning that says what to do."""

import os
import random
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reptile_eqx as rx


def mlp(key):
    return eqx.nn.MLP(1, 1, 8, 1, key=key)


def learner(tasks=None, gradient=None, model=mlp, outer=None):
    gradient = gradient or rx.reptile(rx.mean_squared_error, optax.sgd(0.02), steps=3, batch_size=5)
    return rx.Learner(model, tasks or rx.SineWaves(), gradient, outer or optax.sgd(0.1))


def begin(one):
    return rx.start(one, jax.random.key(0))


def task_of(x, y):
    return rx.Task((jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))


def numpy_alone(key):
    x = np.random.default_rng().uniform(-1, 1, (10, 1))
    return task_of(x, x)


def numpy_beside_the_key(key):
    x = jax.random.uniform(key, (10, 1))
    return task_of(x, x * np.random.default_rng().normal())


def python_beside_the_key(key):
    x = jax.random.uniform(key, (10, 1))
    return task_of(x, x * random.random())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [(numpy_alone, "it sees one task for ever"), (numpy_beside_the_key, "stays the same for ever"),
     (python_beside_the_key, "stays the same for ever")],
)  # fmt: skip
def test_tasks_that_do_not_come_of_their_key(tasks, message):
    with pytest.warns(UserWarning, match=f"random numbers from its key: .*{message}.*jax.random"):
        begin(learner(tasks))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("jitted", [False, True])
def test_good_tasks_are_not_warned_of(jitted):
    stacked = jax.random.normal(jax.random.key(0), (4, 10, 1))
    images = np.zeros((6, 3, 4, 4, 1), np.uint8)
    for tasks in (
        rx.SineWaves(),
        lambda key: task_of(*[stacked[jax.random.randint(key, (), 0, 4)]] * 2),
        rx.FewShot(images, np.arange(6), 2, 1),
        jax.jit(rx.SineWaves()),
    ):
        if jitted:
            jax.jit(lambda key, tasks=tasks: begin(learner(tasks)).key + key)(jax.random.PRNGKey(0))
        else:
            begin(learner(tasks))


def test_tasks_in_a_python_list():
    waves = [task_of(np.ones((3, 1)), np.full((3, 1), i)) for i in range(4)]
    for tasks in (lambda key: waves[int(jax.random.randint(key, (), 0, 4))], lambda key: waves[np.asarray(key)[0]]):
        with pytest.raises(TypeError, match=r"stack the tasks, as rx.TaskList\(tasks\) does"):
            begin(learner(tasks))
    with pytest.raises(TypeError, match=r"given a list: rx.TaskList\(tasks\) makes one"):
        from reptile_eqx.tasks import check_tasks

        check_tasks(waves)
    drawn = jax.vmap(rx.TaskList(waves))(jax.random.split(jax.random.key(0), 100))
    assert set(np.asarray(drawn.support[1]).ravel()) == {0, 1, 2, 3} and drawn.query is None
    with pytest.raises(ValueError, match=r"task 1 has arrays of \(4, 1\), \(4, 1\), and task 0 of \(3, 1\).*rx.pad"):
        rx.TaskList([waves[0], task_of(np.ones((4, 1)), np.ones((4, 1)))])
    with pytest.raises(ValueError, match="needs a task"):
        rx.TaskList([])


def test_what_is_no_task_or_no_list_of_them():
    one = rx.SineWaves()(jax.random.key(0))
    for wrong in (one, [one.support]):
        with pytest.raises(TypeError, match="has a `Task.support, query.` in every place"):
            rx.TaskList(wrong)
    with pytest.raises(TypeError, match="returned a tuple; expected rx.Task"):
        begin(learner(lambda key: rx.SineWaves()(key).support))
    x = np.ones((3, 1))
    for wrong in (x, {"x": x, "y": x}, one, (x,)):
        with pytest.raises(TypeError, match="only examples .x, y. can be padded"):
            rx.pad(wrong, 5)


def test_classes_that_are_not_positions():
    images = np.zeros((4, 3, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="names a class more than once"):
        rx.FewShot(images, [1, 1], 2, 1)
    for names in (("a", "b"), [0.0, 1.0]):
        with pytest.raises(ValueError, match="positions of classes, a vector of integers such as `split"):
            rx.FewShot(images, names, 2, 1)
    for counts in ([2.5, 0.5, 9, 0], [-3, 12, 2, 1], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match="`counts` are how many drawings each class has, 12 in all"):
            rx.FewShot(images.reshape(12, 2, 2, 1), np.arange(4), 2, 1, counts=np.array(counts))


def test_arguments_in_the_wrong_places():
    with pytest.raises(TypeError, match="`optimiser` is an optax transformation; .* the loss comes first"):
        rx.reptile.__wrapped__(optax.sgd(0.1), rx.mean_squared_error, steps=1, batch_size=1)
    with pytest.raises(ValueError, match="`steps` is 3.5; expected a whole number, 1 or more"):
        rx.reptile.__wrapped__(rx.mean_squared_error, optax.sgd(0.1), steps=3.5, batch_size=1)
    model = mlp(jax.random.key(0))
    state = rx.start_optimiser(optax.adam(0.1), model)
    batches = (jnp.ones((1, 2, 1)), jnp.ones((1, 2, 1)))
    with pytest.raises(ValueError, match="the state is another optimiser's"):
        rx.adapt(rx.mean_squared_error, optax.sgd(0.1), model, state, batches)


def test_a_narrow_network_trains_under_adam():
    net = rx.nn.ConvNetwork(2, (8, 8, 1), filters=4, blocks=2, key=jax.random.key(0))
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, net)
    x = jax.random.uniform(jax.random.key(1), (1, 4, 8, 8, 1))
    adam = rx.reference_adam(1e-2)
    after = rx.adapt(
        rx.sum_cross_entropy, adam, net, rx.start_optimiser(adam, net), (x, jnp.array([[0, 1, 0, 1]]))
    ).model
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(after, eqx.is_array))} == {jnp.dtype(jnp.bfloat16)}
    assert not eqx.tree_equal(net, after)


def test_labels_beyond_the_head():
    net = rx.nn.OmniglotNetwork(5, key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (7, 28, 28, 1))
    for labels in (jnp.arange(7), jnp.arange(7) - 1):
        with pytest.raises(ValueError, match="the network has 5 outputs"):
            rx.sum_cross_entropy(net, (x, labels))
        assert jnp.isnan(eqx.filter_jit(rx.sum_cross_entropy)(net, (x, labels)))
    with pytest.raises(ValueError, match="labels are integers"):
        rx.sum_cross_entropy(net, (x, jnp.arange(7.0)))
    tasks = rx.FewShot(np.zeros((8, 3, 28, 28, 1), np.uint8), np.arange(8), ways=7, shots=1, queries=1)
    sgd = optax.sgd(0.1)

    def accuracy(key):
        return rx.few_shot_accuracy(
            rx.sum_cross_entropy, sgd, net, rx.start_optimiser(sgd, net), tasks(key), key, steps=1, batch_size=2
        )

    with pytest.raises(ValueError, match="the network has 5 outputs"):
        accuracy(jax.random.key(0))
    assert all(jnp.isnan(share) for share in jax.jit(accuracy)(jax.random.key(0)))


def test_one_example_at_a_time_where_a_batch_is_meant():
    with pytest.raises(ValueError, match=r"jax.vmap inside its __call__"):
        rx.sum_cross_entropy(lambda x: x.sum((0, 1)), (jnp.ones((4, 3)), jnp.arange(4)))


def own_loss(model, batch):
    return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)


@pytest.mark.parametrize("loss", [own_loss, eqx.filter_jit(own_loss), lambda m, b: own_loss(m, b)])
def test_predictions_and_targets_that_broadcast(loss, recwarn):
    def flat(key):
        (x, y), _ = rx.SineWaves(points=10)(key)
        return rx.Task((x, y[:, 0]))

    gradient = rx.reptile(loss, optax.sgd(0.02), steps=3, batch_size=5)
    for tasks, warned in ((rx.SineWaves(), False), (flat, True)):
        one = learner(tasks, gradient)
        eqx.filter_jit(rx.train)(one, begin(one), 1)
        assert any("all pairs of a batch" in str(w.message) for w in recwarn) == warned
    ours = learner(flat, rx.maml(rx.mean_squared_error, optax.sgd(0.02), steps=3, batch_size=5, separate_tail=False))
    with pytest.raises(ValueError, match=r"predictions have the shape \(5, 1\) and y \(5,\)"):
        rx.train(ours, begin(ours), 1)


@pytest.mark.parametrize("algorithm", [rx.reptile, rx.maml, rx.fomaml])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: (own_loss(m, b), {}), "one floating-point number; given a tuple"),
        (lambda m, b: jnp.square(jax.vmap(m)(b[0]) - b[1])[:, 0], r"given an array of shape \(5,\), float32"),
        (lambda m, b: jnp.int32(own_loss(m, b)), "given an array of shape .., int32"),
    ],
)
def test_a_loss_that_is_not_one_number(algorithm, loss, message):
    more = {} if algorithm is rx.reptile else {"separate_tail": False}
    one = learner(gradient=algorithm(loss, optax.sgd(0.02), steps=2, batch_size=5, **more))
    with pytest.raises(TypeError, match=message):
        rx.train(one, begin(one), 1)


STEPS = 5
SCHEDULES = {
    "cosine": (optax.cosine_decay_schedule(0.02, STEPS), True),
    "warm-up": (optax.linear_schedule(0.0, 0.02, STEPS), True),
    "steps": (optax.piecewise_constant_schedule(0.1, {2: 0.1}), True),
    "constant": (optax.constant_schedule(0.02), False),
    "over the whole training": (optax.cosine_decay_schedule(0.02, 10_000), False),
}


@pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.inject_hyperparams(optax.sgd)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rolling_schedule_that_ends_with_the_first_task_is_refused(name, make):
    schedule, refused = SCHEDULES[name]
    for inner_state in ("rolling", "fresh"):
        gradient = rx.reptile(rx.mean_squared_error, make(schedule), steps=STEPS, batch_size=5, inner_state=inner_state)
        if refused and inner_state == "rolling":
            with pytest.raises(ValueError, match="schedule ends with the first task's 5 steps.*inner_state='fresh'"):
                begin(learner(gradient=gradient))
        else:
            one = learner(gradient=gradient)
            begun = eqx.filter_jit(rx.train)(one, begin(one), 3)[0]
            after = eqx.filter_jit(rx.train)(one, begun, 3)[0]
            assert not eqx.tree_equal(begun.model, after.model)


def test_a_fresh_state_is_every_tasks_own():
    """Two tasks with momentum, by hand."""
    momentum = optax.sgd(0.02, momentum=0.9)
    gradient = rx.reptile(rx.mean_squared_error, momentum, steps=2, batch_size=5, inner_state="fresh")
    model, task = mlp(jax.random.key(0)), rx.SineWaves()(jax.random.key(1))
    state = gradient.start(model)
    once, state, _ = gradient.estimate(model, state, task, jax.random.key(2))
    again, _, _ = gradient.estimate(model, state, task, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, once, again)
    with pytest.raises(ValueError, match="`inner_state` is 'new'; expected 'rolling' or 'fresh'"):
        rx.reptile(rx.mean_squared_error, momentum, steps=2, batch_size=5, inner_state="new")


def test_adam_inside_maml_is_warned_of(recwarn):
    for optimiser, warned in (
        (rx.reference_adam(1e-2), 0), (optax.adam(1e-2, eps_root=1e-8), 0), (optax.sgd(0.1, momentum=0.9), 0),
        (optax.adam(1e-2), 1), (optax.rmsprop(1e-2, eps_in_sqrt=False), 2),
    ):  # fmt: skip
        begin(learner(gradient=rx.maml(rx.mean_squared_error, optimiser, steps=3, batch_size=5)))
        assert sum("no derivative where a gradient is 0" in str(w.message) for w in recwarn) == warned


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_reference_adam_leaves_what_has_no_gradient_where_it_is(dtype):
    optimiser, parameters = rx.reference_adam(1e-3), {"used": jnp.ones(2, dtype), "unused": jnp.ones(2, dtype)}
    gradient = {"used": jnp.full(2, 0.5, dtype), "unused": jnp.zeros(2, dtype)}
    updates, _ = optimiser.update(gradient, optimiser.init(parameters), parameters)
    assert not updates["unused"].any() and updates["used"].dtype == dtype
    np.testing.assert_allclose(np.float32(updates["used"]), -1e-3, rtol=0.01)


def test_a_model_that_keeps_statistics_and_one_that_needs_keys():
    class WithState(eqx.Module):
        norm: eqx.nn.BatchNorm

    with pytest.raises(ValueError, match="keeps state from call to call.*use a norm of the batch"):
        begin(learner(model=lambda key: WithState(eqx.nn.BatchNorm(4, "batch", mode="batch"))))

    class WithDropout(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x, key=None):
            return self.linear(self.dropout(x, key=key))

    def model(key):
        return WithDropout(eqx.nn.Linear(1, 1, key=key), eqx.nn.Dropout(0.5))

    one = learner(model=model)
    with pytest.raises(RuntimeError) as error:
        rx.train(one, begin(one), 1)
    assert "make a key for each example part of the task" in error.value.__notes__[0]

    def tasks(key):
        (x, y), _ = rx.SineWaves()(key)
        return rx.Task((x, y, jax.random.split(jax.random.fold_in(key, 1), len(x))))

    def loss(model, batch):
        x, y, keys = batch
        return jnp.mean((jax.vmap(model)(x, keys) - y) ** 2)

    one = learner(tasks, rx.reptile(loss, optax.sgd(0.02), steps=3, batch_size=5), model)
    state, value = eqx.filter_jit(rx.train)(one, begin(one), 3)
    assert jnp.isfinite(value)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_state_is_saved_and_resumed_whatever_its_key(make, tmp_path):
    one = learner()
    train = eqx.filter_jit(rx.train)
    half = train(one, rx.start(one, make(0)), 3)[0]
    eqx.tree_serialise_leaves(tmp_path / "state", half)
    again = eqx.tree_deserialise_leaves(tmp_path / "state", rx.start(learner(), make(1)))
    assert eqx.tree_equal(train(one, again, 3)[0], train(one, rx.start(one, make(0)), 6)[0])


def test_jax_started_before_use_devices():
    program = "import jax; jax.numpy.ones(1) + 1\nimport reptile_eqx as rx\nrx.use_devices()"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "JAX had started with 1 CPU device before use_devices" in done.stderr
