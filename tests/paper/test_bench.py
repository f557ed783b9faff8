"""The benchmark: operations by hand against XLA's count, what it writes, mistakes named. No timing is judged."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from reptile_eqx import start
from reptile_eqx.cli import main
from reptile_eqx.datasets import FACTS, ImageClasses
from reptile_eqx.paper import bench, operations
from reptile_eqx.runs.configuration import numbers_of


def plain_forward(images, filters, stride, ways):
    """Four 3×3 convolutions by `lax` and a dense head: nothing else that XLA would count."""
    for _ in range(4):
        size = images.shape[1]
        total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
        padding = (total // 2, total - total // 2)
        # Padded beforehand: XLA does not count multiplications by a convolution's own padding, a CPU makes them.
        images = jnp.pad(images, ((0, 0), padding, padding, (0, 0)))
        kernel = jnp.ones((3, 3, images.shape[-1], filters))
        images = lax.conv_general_dilated(
            images, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if stride == 1:
            images = lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    flat = images.reshape(images.shape[0], -1)
    return flat @ jnp.ones((flat.shape[1], ways))


@pytest.mark.parametrize(
    ("name", "shape", "filters", "stride"),
    [
        ("omniglot-5way", (10, 28, 28, 1), 64, 2),
        ("omniglot-20way", (20, 28, 28, 1), 64, 2),
        ("mini-imagenet-5way", (10, 84, 84, 3), 32, 1),
    ],
)
def test_layers_by_hand_are_what_xla_counts_of_a_plain_forward_pass(name, shape, filters, stride):
    (config,) = bench.configurations(name, 1)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    plain = jax.jit(plain_forward, static_argnums=(1, 2, 3)).lower(images, filters, stride, config.ways)
    assert 2 * shape[0] * sum(operations.multiplications(config)) == pytest.approx(
        plain.cost_analysis()["flops"], rel=0.1
    )


def test_an_omniglot_5_way_outer_iteration_is_3_93_gflop():
    (config,) = bench.configurations("omniglot-5way", 1)
    assert operations.examples_per_iteration(config) == 5 * 5 * 10
    assert operations.of_iteration(config) == pytest.approx(3.93e9, rel=2e-3)


def by_xla(config):
    """Operations of an outer iteration by XLA's cost analysis of the compiled inner step, with all that it does."""
    one, data = dataclasses.replace(config, inner_iterations=1), None
    if hasattr(config, "dataset"):
        facts = FACTS[config.dataset]
        data = ImageClasses(jnp.zeros((100, *facts.shape[1:]), jnp.uint8), (), config.dataset, "", facts)
        one = dataclasses.replace(one, train_classes=64)
    learner = one.learner(data, numbers_of(one))
    state = start(learner, jax.random.PRNGKey(0))
    arrays, still = eqx.partition((state.model, state.inner), eqx.is_array)

    def step(arrays, task, key):
        model, inner = eqx.combine(arrays, still)
        return eqx.filter(learner.gradient.estimate(model, inner, task, key), eqx.is_array)

    task = jax.eval_shape(learner.tasks, jax.random.PRNGKey(0))
    return (
        counted(jax.make_jaxpr(step)(arrays, task, jax.random.PRNGKey(0)))
        * config.meta_batch_size
        * config.inner_iterations
    )


def counted(program):
    """XLA's count for a program, its loops' bodies as often as they run; XLA itself counts each once."""
    return _once(program) + sum(
        loop["length"] * counted(loop["jaxpr"]) - _once(loop["jaxpr"]) for loop in _loops(program.jaxpr)
    )


def _once(program):
    arguments = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in program.in_avals]
    # For a GPU, XLA leaves out the products that it hands to cuBLAS.
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(jaxpr_as_fun(program)).lower(*arguments).compile().cost_analysis().get("flops", 0.0)


def _loops(jaxpr):
    """The parameters of the scans of a program that are in none of its other scans."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params
            continue
        for parameter in equation.params.values():
            if isinstance(parameter, Jaxpr | ClosedJaxpr):
                yield from _loops(getattr(parameter, "jaxpr", parameter))


@pytest.mark.parametrize("name", [name for name in bench.WORKLOADS if name != "omniglot-20way"])
def test_operations_of_training_by_hand_and_by_xla_agree(name):
    """Both gradients included. XLA also counts activations, norms and the optimiser, so it has more."""
    (config,) = bench.configurations(name, 1)
    by_hand = operations.of_iteration(config)
    assert by_hand < by_xla(config) < 1.2 * by_hand


def test_loops_count_as_often_as_they_run():
    """Products in a loop in a loop, under jit, beside one outside."""
    a = jnp.ones((32, 32))

    @jax.jit
    def thrice(x, _):
        return lax.scan(lambda x, _: (a @ x, None), x, None, length=3)[0], None

    program = jax.make_jaxpr(jax.jit(lambda x: a @ lax.scan(thrice, x, None, length=5)[0]))(a)
    assert counted(program) == pytest.approx(16 * 2 * 32**3, rel=0.01)


def test_points_begin_with_the_papers_and_grow_every_axis():
    (config,) = bench.configurations("omniglot-5way", 1)
    first, *rest = bench.points(config, 4, True)
    assert first == {"seeds": 4}
    assert [point["seeds"] for point in rest if len(point) == 1] == [1, 2, 8]
    assert [point["meta_batch_size"] for point in rest if "meta_batch_size" in point] == [10, 2]
    assert [point["inner_iterations"] for point in rest if "inner_iterations" in point] == [10, 2]


def test_a_gpu_is_given_eight_seeds_with_their_tasks_in_the_order_of_the_paper_there():
    first, *rest = bench.points(bench.configurations("omniglot-5way", 1)[0], 1, False)
    assert first == {"seeds": 8}
    assert [point["seeds"] for point in rest if len(point) == 1] == [1, 2, 4, 16, 32]
    assert next(bench.points(bench.configurations("sine", 1)[0], 1, False, 3)) == {"seeds": 3}
    for order in ("exact", "parallel"):
        configs = bench.configurations("omniglot-5way", 2, order=order, precision="bfloat16")
        assert [(config.order, config.precision) for config in configs] == [(order, "bfloat16")] * 2
    assert len(bench.configurations("sine", 2, order="parallel")) == 2


def test_a_short_bench_writes_numbers(tmp_path, capsys):
    short = ["--only", "sine", "--repeats", "1", "--seconds", "1", "--seeds", "2", "--order", "parallel"]
    assert main(["bench", *short, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "product peak" in printed and "left out" in printed and "bench.json" in printed
    assert (tmp_path / "bench.md").read_text() in printed
    written = json.loads((tmp_path / "bench.json").read_text())
    assert {"device", "versions", "commit", "date", "platform", "processor"} <= written["made"].keys()
    asked = dict(only=["sine"], repeats=1, devices=None, seconds=1.0, seeds=2, order="parallel")
    assert written["asked"] == asked
    (sine,) = written["workloads"]
    assert sine["config"]["inner_iterations"] == 5 and sine["peak_memory_bytes"] > 1e6
    paper = sine["points"][0]
    assert paper["seeds"] == 2 and paper["devices"] in (1, 2)
    assert paper["images_per_second"] == pytest.approx(50 * paper["outer_iterations_per_second"])
    achieved = paper["outer_iterations_per_second"] * sine["flops_per_iteration_by_hand"]
    assert paper["flops_per_second"] == pytest.approx(achieved)
    assert paper["share_of_peak"] == pytest.approx(achieved / paper["peak_flops_per_second"])
    assert 0 < paper["share_of_peak"] < 1 and paper["compile_seconds"] > 0
    assert sine["left_out_for_time"][-1]["inner_iterations"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "imagenet"], "nothing called imagenet to measure; there are sine, omniglot-5way"),
        (["--repeats", "0"], "`repeats` is 0; expected 1 or more"),
        (["--devices", "0"], "`devices` is 0; expected 1 or more"),
        (["--seconds", "-3"], "`seconds` is -3.0; expected 1 or more"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["bench", *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
