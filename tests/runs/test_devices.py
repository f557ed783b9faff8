"""One mesh, any machine: processes on loopback and many virtual devices get the numbers that one device gets."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import reptile_eqx as rx
from reptile_eqx.paper.experiments import SineRegression
from reptile_eqx.runs import devices
from reptile_eqx.runs.devices import Spread, device_grid, mesh_for, replicated, use_devices
from reptile_eqx.training import advance

SINE = dict(outer_iterations=40, curve_points=2, curve_tasks=3, eval_tasks=4)

TRAINED = """
import json, os, sys
import jax
import reptile_eqx as rx
from test_devices import configurations

devices, distributed, counts = json.loads(sys.argv[1])
rx.use_devices(devices, sys.argv[2], distributed=distributed)
home = os.environ["REPTILE_HOME"]
for count in counts:
    os.environ["REPTILE_HOME"] = os.path.join(home, str(count))
    configs = configurations(count)
    records = [[record.curve, record.results] for record in rx.run(configs)]
    state = [leaf.tolist() for leaf in jax.tree.leaves(rx.load_state(configs[-1])) if hasattr(leaf, "tolist")]
    print("numbers", json.dumps([records, state]))
"""


@dataclasses.dataclass(frozen=True)
class TasksInParallel(SineRegression):
    """With a meta-batch that devices can share."""

    def learner(self, data, numbers):
        return super().learner(data, numbers)._replace(meta_batch_size=4, merge=rx.merge_average)


def configurations(count):
    """So many seeds; with none, one seed whose tasks run side by side."""
    if count == 0:
        return [TasksInParallel(**SINE | dict(outer_iterations=4))]  # what rounding changes grows with each
    return [SineRegression(seed=seed, **SINE) for seed in range(count)]


def process(home, cache, devices, counts, distributed=False):
    """Trains in a process of its own, once for each count of seeds, and writes down what came of it."""
    arguments = json.dumps([devices, distributed, counts])
    found = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"REPTILE_HOME": str(home), "JAX_PLATFORMS": "cpu", "PYTHONPATH": found}
    home.mkdir()
    with (home / "out").open("w") as out, (home / "err").open("w") as err:
        command = [sys.executable, "-c", TRAINED, arguments, str(cache)]
        return subprocess.Popen(command, env=environment, stdout=out, stderr=err)


def finish(home, started):
    """The numbers that a process wrote down, and what it showed on the way."""
    try:
        status = started.wait(timeout=300)
    finally:
        started.kill()
    shown = (home / "err").read_text()
    assert status == 0, shown[-3000:]
    lines = (home / "out").read_text().splitlines()
    return [json.loads(line.removeprefix("numbers")) for line in lines if line.startswith("numbers")], shown


def one_device(count, monkeypatch, home):
    """The same, in this process and on one device."""
    monkeypatch.setenv("REPTILE_HOME", str(home / str(count)))
    configs = configurations(count)
    records = [[record.curve, record.results] for record in rx.run(configs, devices=jax.devices()[:1])]
    state = [leaf.tolist() for leaf in jax.tree.leaves(rx.load_state(configs[-1])) if hasattr(leaf, "tolist")]
    return json.loads(json.dumps([records, state]))


def test_two_processes_get_the_numbers_of_one(tmp_path, monkeypatch):
    """Whether they share seeds or tasks. Each has a disk of its own: the first one alone has files, and says what is
    in them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    homes = [tmp_path / "first", tmp_path / "second"]
    joined = [dict(coordinator_address=address, num_processes=2, process_id=i) for i in (0, 1)]
    both = [process(home, tmp_path / "xla", 1, [3, 0], way) for home, way in zip(homes, joined, strict=True)]
    (first, progress), (second, silence) = map(finish, homes, both)
    assert first == second
    assert first[0] == one_device(3, monkeypatch, tmp_path)
    for shared, alone in zip(*map(jax.tree.leaves, (first[1], one_device(0, monkeypatch, tmp_path))), strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)
    assert len(list((homes[0] / "3" / "data" / "runs").glob("*.json"))) == 3
    assert "sine-reptile" in progress and "sine-reptile" not in silence
    assert not (homes[1] / "3").exists(), "the second process wrote something"


def test_eight_devices_get_the_numbers_of_one(tmp_path, monkeypatch):
    """With fewer seeds than devices, as many, and more."""
    home = tmp_path / "eight"
    numbers, _ = finish(home, process(home, tmp_path / "xla", 8, [3, 8, 9]))
    records, state = one_device(9, monkeypatch, tmp_path)
    assert [seeds for seeds, _ in numbers] == [records[:3], records[:8], records]
    assert numbers[-1][1] == state


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("units", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_a_mesh_gives_every_process_its_part_and_every_unit_a_place(count, units, tasks):
    processes = [i * count // 8 for i in range(8)]
    grid = device_grid(processes, units, tasks)
    assert len(set(grid.flat)) == grid.size, "a device twice"
    assert {processes[device] for device in grid.flat} == set(range(count))
    assert grid.shape[0] >= min(units, 8)
    assert grid.shape[1] <= tasks
    if count == 1:
        assert grid.shape == (min(units, 8), min(tasks, 8 // min(units, 8)))


def test_images_are_copied_to_a_device_once():
    images = np.arange(64, dtype=np.uint8).reshape(4, 16)
    everywhere = replicated(images, mesh_for(jax.devices(), 2))
    narrower = replicated(everywhere, mesh_for(jax.devices(), 1))
    again = replicated(everywhere, mesh_for(jax.devices(), 1, tasks=2))

    def places(array):
        return {shard.device: shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}

    assert len(places(everywhere)) == 2 and places(again) == places(everywhere)
    assert places(narrower).items() < places(everywhere).items()
    np.testing.assert_array_equal(narrower, images)


def test_states_are_donated_on_the_devices_and_kept_on_the_host():
    def program(shared, unit, steps):
        return jax.lax.fori_loop(0, steps, lambda _, state: state * 2, unit["state"])

    doubled = Spread(program, None, 2, tasks=1)
    units = [{"state": np.full(4096, 1 + i, np.float32), "seed": np.uint32(i)} for i in range(2)]
    for _ in range(2):
        for i, result in enumerate(doubled(units, np.int32(3))):
            np.testing.assert_array_equal(result, 8.0 * (1 + i))
    for i, unit in enumerate(units):
        np.testing.assert_array_equal(unit["state"], 1 + i)
    memory = doubled._compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= memory.output_size_in_bytes == 4096 * 4


@pytest.mark.parametrize("tasks", [1, 5])
def test_tasks_spread_over_devices_change_nothing(tasks):
    gradient = rx.reptile(rx.mean_squared_error, rx.reference_adam(0.01), steps=2, batch_size=5)
    learner = rx.Learner(
        lambda key: eqx.nn.MLP(1, 1, 8, 1, key=key), rx.SineWaves(), gradient, rx.annealed_sgd(1.0, 6), tasks,
        rx.merge_adam(0.999),
    )  # fmt: skip

    def program(shared, seed, iterations):
        state, loss = advance(learner, rx.start(learner, jax.random.PRNGKey(seed)), iterations, "task")
        return eqx.filter(state, eqx.is_array), loss

    def trained(devices, spread):
        return Spread(program, None, 1, jax.devices()[:devices], spread)([np.uint32(3)], np.int32(6))[0]

    alone, spread = trained(1, 1), trained(2, tasks)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # a sum may be added up in another order
    assert spread[0].inner.count == 6 * tasks * 2


@pytest.mark.parametrize("given", [True, dict(coordinator_address="127.0.0.1:1")])
def test_processes_that_cannot_be_told_apart_are_an_error(given, monkeypatch):
    def undetected(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", undetected)
    with pytest.raises(ValueError, match="coordinator_address, num_processes and process_id"):
        use_devices(distributed=given)


def test_processes_that_join_too_late_are_told_what_to_do():
    jax.devices()
    with pytest.raises(RuntimeError, match="call use_devices before JAX computes anything .* restart the kernel"):
        use_devices(distributed=dict(coordinator_address="127.0.0.1:1", num_processes=1, process_id=0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("9000000 100000", 8)],
)
def test_a_container_has_the_cores_that_it_is_given(quota, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(devices, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert devices._cores() == cores


def test_compiled_programs_are_kept_where_jax_is_told(tmp_path):
    def place(**given):
        use_devices(**given)
        return jax.config.jax_compilation_cache_dir

    told = jax.config.jax_compilation_cache_dir
    try:
        assert place() == told
        assert place(compilation_cache=tmp_path) == str(tmp_path)
        jax.config.update("jax_compilation_cache_dir", None)
        assert place() == str(tmp_path / "home" / "data" / "cache" / "xla")
    finally:
        jax.config.update("jax_compilation_cache_dir", told)
