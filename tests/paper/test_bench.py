"""The benchmark: FLOPs by hand against XLA's count, what it writes, mistakes named. No timing is judged."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from reptile_eqx import bench, flops, plots
from reptile_eqx.cli import main


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
    ("layers", "shape", "filters", "stride", "ways"),
    [
        (flops.omniglot_layers, (10, 28, 28, 1), 64, 2, 5),
        (flops.omniglot_layers, (20, 28, 28, 1), 64, 2, 20),
        (flops.mini_imagenet_layers, (10, 84, 84, 3), 32, 1, 5),
    ],
)
def test_layers_by_hand_are_what_xla_counts_of_a_plain_forward_pass(layers, shape, filters, stride, ways):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    counted = jax.jit(plain_forward, static_argnums=(1, 2, 3)).lower(images, filters, stride, ways).cost_analysis()
    assert 2 * shape[0] * sum(layers(ways)) == pytest.approx(counted["flops"], rel=0.1)


def test_an_omniglot_5_way_outer_iteration_is_3_93_gflop():
    workload = bench.workloads()["omniglot-5way"]
    config = workload.configs(1)[0]
    assert flops.examples_per_iteration(config) == 5 * 5 * 10
    assert flops.by_hand(config, workload.layers) == pytest.approx(3.93e9, rel=2e-3)


@pytest.mark.parametrize("name", [name for name in bench.workloads() if name != "omniglot-20way"])
def test_flops_of_training_by_hand_and_by_xla_agree(name):
    """Both gradients included. XLA also counts activations, norms and the optimiser, so it has more."""
    workload = bench.workloads()[name]
    config = workload.configs(1)[0]
    by_hand = flops.by_hand(config, workload.layers)
    assert by_hand < flops.by_xla(config, workload.images) < 1.2 * by_hand


def test_loops_count_as_often_as_they_run():
    """Products in a loop in a loop, under jit, beside one outside."""
    a = jnp.ones((32, 32))

    @jax.jit
    def thrice(x, _):
        return lax.scan(lambda x, _: (a @ x, None), x, None, length=3)[0], None

    program = jax.make_jaxpr(jax.jit(lambda x: a @ lax.scan(thrice, x, None, length=5)[0]))(a)
    assert flops.counted(program) == pytest.approx(16 * 2 * 32**3, rel=0.01)


def test_points_share_programs_side_by_side_and_grow_every_axis():
    config = bench.workloads()["omniglot-5way"].configs(1)[0]
    first, *rest = bench.points(config, 4, "cpu")
    assert first == bench.Point("paper", 4, 4, {})
    assert {point.axis for point in rest} == {"seeds", "devices", "meta_batch_size", "inner_iterations", "ways"}
    assert [point.seeds for point in rest if point.axis == "seeds"] == [8, 1, 2]
    assert [point.devices for point in rest if point.axis == "devices"] == [1, 2]
    assert len(set(map(str, rest))) == len(rest)


def test_a_gpu_is_given_eight_seeds_with_their_tasks_in_the_order_of_the_paper_there():
    first, *rest = bench.points(bench.workloads()["omniglot-5way"].configs(1)[0], 1, "gpu")
    assert first == bench.Point("paper", 8, 1, {})
    assert [point.seeds for point in rest if point.axis == "seeds"] == [1, 2, 4, 16, 32]
    assert bench.points(bench.workloads()["sine"].configs(1)[0], 1, "gpu", 3)[0].seeds == 3
    for order in ("exact", "parallel"):
        configs = bench._configs(bench.workloads()["omniglot-5way"], 2, {"order": order, "precision": "bfloat16"})
        assert [(config.order, config.precision) for config in configs] == [(order, "bfloat16")] * 2
    assert len(bench._configs(bench.workloads()["sine"], 2, {"order": "parallel"})) == 2


def test_only_what_was_measured_has_a_panel():
    paper = {"sine": {"share_of_peak": 0.2, "images_per_second": 1e6}}
    lines = {"seeds": {"sine": {1: 0.5, 2: 1.0}}, "devices": {"sine": {2: 1.0}}, "ways": {"sine": {}}}
    labels = [axes.get_xlabel() for axes in plots.speed(lines, paper, "").axes]
    assert labels == ["seeds", ""]
    assert len(plots.speed({}, paper, "").axes) == 1


def test_a_short_bench_writes_numbers_and_plot(tmp_path, capsys):
    short = ["--only", "sine", "--repeats", "1", "--seconds", "1", "--seeds", "2", "--order", "parallel"]
    assert main(["bench", *short, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "product peak" in printed and "left out for time" in printed and "bench.png" in printed
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert b"<svg" in (tmp_path / "bench.svg").read_bytes()
    written = json.loads((tmp_path / "bench.json").read_text())
    assert {"device", "versions", "commit", "date", "platform", "processor"} <= written["made"].keys()
    assert "random bytes" in written["how"]
    asked = dict(only=["sine"], repeats=1, devices=None, seconds=1.0, seeds=2, order="parallel")
    assert written["asked"] == asked
    (sine,) = written["workloads"]
    assert sine["config"]["inner_iterations"] == 5 and sine["peak_memory_bytes"] > 1e6
    paper = sine["points"][0]
    assert paper["axis"] == "paper"
    assert paper["seeds"] == 2 and paper["devices"] in (1, 2)
    assert paper["images_per_second"] == pytest.approx(50 * paper["outer_iterations_per_second"])
    achieved = paper["outer_iterations_per_second"] * sine["flops_per_iteration_by_hand"]
    assert paper["flops_per_second"] == pytest.approx(achieved)
    assert paper["share_of_peak"] == pytest.approx(achieved / paper["peak_flops_per_second"])
    assert 0 < paper["share_of_peak"] < 1 and paper["compile_seconds"] > 0
    assert sine["left_out_for_time"][0]["axis"] == "seeds"


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
