"""How fast training runs here, beside what this machine's matrix products reach: `reptile-eqx bench`.

Each of the paper's training configurations is measured in a process of its own, so that its peak memory is its own
and nothing that was compiled before helps it: first as the paper has it, then with more seeds, fewer devices, and
other meta-batches, ways and inner iterations. Every rate is the median of several calls of the compiled program,
each waited for, after a warm-up.
"""

import dataclasses
import functools
import gc
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from . import flops, places, plots, presets
from .devices import use_devices
from .experiments import same_program
from .report import write_figure, write_json
from .runner import Programs, Training
from .store import environment, write_text
from .training import start

SECONDS = 250.0
"""Default time for all configurations together; two idle cores measure everything in less than five minutes."""

_PAPER_TURN, _GROWTH_TURN = 1.0, 0.4  # seconds that a timed call is to take, where one iteration does not take longer
_SEEDS = 3  # of the paper's profile, which a GPU trains in one program
_IDLE = 0.5  # load average of a minute, above which it is said that something else runs
_PEAK_TURN, _PEAK_SIZE, _PEAK_PRODUCTS = 0.1, 1024, 4


class Workload(NamedTuple):
    """A training configuration of the paper.

    - `configs`: makes its run configurations, one for each of a number of seeds.
    - `images`: the shape of the images by class that it trains on; `None` for sine waves.
    - `layers`: multiplications of each layer in one example's forward pass, first layer first, by ways.
    """

    configs: Callable[[int], Sequence[Any]]
    images: tuple[int, int, int, int, int] | None
    layers: Callable[[int], tuple[int, ...]]


def workloads() -> dict[str, Workload]:
    """What is measured, by name: the sine waves of Section 4, Table 3's columns, Table 4."""
    known = {"sine": Workload(functools.partial(presets.sine_runs, "paper", "reptile"), None, flops.sine_layers)}
    classifiers = {
        "omniglot-5way": ((1623, 20, 28, 28, 1), flops.omniglot_layers),
        "omniglot-20way": ((1623, 20, 28, 28, 1), flops.omniglot_layers),
        "mini-imagenet-5way": ((100, 600, 84, 84, 3), flops.mini_imagenet_layers),
    }
    for name, (images, layers) in classifiers.items():
        configs = functools.partial(presets.classification_runs, f"{name}-reptile", "paper")
        known[name] = Workload(configs, images, layers)
    return known


def _configs(workload: Workload, seeds: int, settings: dict[str, Any]) -> list[Any]:
    """Its run configurations, with those of the `settings` that they have."""
    configs = workload.configs(seeds)
    own = {name: value for name, value in settings.items() if hasattr(configs[0], name)}
    return [dataclasses.replace(config, **own) for config in configs]


class Point(NamedTuple):
    """What is measured at once: a number of seeds on a number of devices, with a few settings changed."""

    axis: str
    seeds: int
    devices: int
    changes: dict[str, int]


def points(config: Any, devices: int, platform_name: str, seeds: int | None = None) -> list[Point]:
    """The paper's configuration (axis "paper"), then where each axis grows.

    A CPU trains a seed a device, so the paper's configuration is measured with as many seeds as there are devices; a
    GPU trains seeds in one batched program, and is given eight; both where `seeds` does not say how many.
    """
    on_cpu = platform_name == "cpu"
    seeds = seeds or (devices if on_cpu else 8 * devices)
    grown = sorted({1, 2, 4, 8} if on_cpu else {1, 2, 4, 8, 16, 32, 8 * devices, 32 * devices})
    if on_cpu:  # those that share the paper's program come first
        grown = [count for count in grown if count >= seeds] + [count for count in grown if count < seeds]
    chosen = [Point("paper", seeds, devices, {})]
    chosen += [Point("seeds", count, devices, {}) for count in grown]
    chosen += [Point("devices", seeds, 2**i, {}) for i in range(devices.bit_length()) if 2**i < devices]
    for axis, lowest in (("meta_batch_size", 1), ("ways", 5), ("inner_iterations", 1)):
        if hasattr(config, axis):
            own = getattr(config, axis)
            values = [2 * own, max(own // 2, lowest)] if own > lowest else [2 * own, 4 * own]
            chosen += [Point(axis, seeds, devices, {axis: value}) for value in values]
    return [point for point in chosen if point.axis != "seeds" or point.seeds != seeds]


def matrix_products(devices: Sequence[jax.Device]) -> Callable[[int], None]:
    """1024×1024 float32 matrix products, one at a time on each device and on all devices at once.

    They follow one another inside one program, and in full precision, as training's do.

    **Returns:** a function that makes `n` times four of them on each device and waits.
    """
    mesh = Mesh(np.array(devices), ("device",))
    by_device = PartitionSpec("device")

    def products(factor, other, n):
        def several(_, product):
            for _ in range(_PEAK_PRODUCTS):
                product = jnp.matmul(factor[0], product, precision="float32")
            return product

        return jax.lax.fori_loop(0, n, several, other[0])[None]

    specs = (by_device, by_device, PartitionSpec())
    program = jax.jit(jax.shard_map(products, mesh=mesh, in_specs=specs, out_specs=by_device, check_vma=False))
    factor = np.random.default_rng(0).normal(size=(len(devices), _PEAK_SIZE, _PEAK_SIZE)).astype(np.float32)
    # Orthogonal, so that products of products neither grow nor vanish.
    factor = jax.device_put(np.linalg.qr(factor)[0], NamedSharding(mesh, by_device))
    return lambda n: jax.block_until_ready(program(factor, factor, np.int32(n)))


def _timed(call: Callable[[int], Any], n: int) -> float:
    """Seconds that `call(n)` takes."""
    began = time.perf_counter()
    call(n)
    return time.perf_counter() - began


def _repetitions(call: Callable[[int], Any], seconds: float) -> int:
    """The n for which `call(n)` takes at least half of `seconds`, by doubling, after a warm-up."""
    call(1)
    n = 1
    while _timed(call, n) < seconds / 2:
        n *= 2
    return n


def peak_memory(device: jax.Device) -> int:
    """Bytes that this process held at most: on the GPU, where JAX counts them, else of main memory."""
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    import resource  # which Windows lacks; the other commands do without

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Bench:
    """One workload in this process: its images, its programs one at a time, and what was measured of them."""

    def __init__(self, workload: Workload, devices: Sequence[jax.Device], repeats: int, settings: dict[str, Any]):
        self.workload, self.devices, self.repeats, self.settings = workload, devices, repeats, settings
        self.images = None
        if workload.images is not None:
            images = np.frombuffer(np.random.default_rng(0).bytes(math.prod(workload.images)), np.uint8)
            everywhere = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec())
            self.images = jax.device_put(images.reshape(workload.images), everywhere)
        self._states, self._products = {}, {}
        self._key, self._programs = None, None

    def _program(self, config: Any, seeds: int, devices: Sequence[jax.Device]) -> Programs:
        """Programs that train `seeds` runs like `config`; those of the point before, where they are the same."""
        programs = Programs(same_program(config), self.images, seeds, devices)
        key = (same_program(config), programs.train.width, programs.train.devices)
        if key != self._key:
            self._key, self._programs = key, programs
            gc.collect()  # the images that the programs before kept on the devices
        return self._programs

    def _state(self, config: Any) -> Any:
        """A first state, which seeds can share as each trains on tasks of its own."""
        ways = getattr(config, "ways", None)
        if ways not in self._states:
            state = start(config.learner(self.images), jax.random.PRNGKey(0))
            self._states[ways] = jax.device_get(eqx.filter(state, eqx.is_array))
        return self._states[ways]

    def measure(self, point: Point, seconds: float) -> dict[str, Any]:
        """Rates of a point, from calls that take about `seconds` each, by turns where not all seeds fit at once."""
        configs = _configs(self.workload, point.seeds, self.settings | point.changes)
        devices = self.devices[: point.devices]
        programs = self._program(configs[0], point.seeds, devices)
        units = [programs.unit(Training(config, Path(), self._state(configs[0]))) for config in configs]

        def turn(iterations):
            for begin in range(0, len(units), programs.train.width):
                programs.train(units[begin : begin + programs.train.width], np.int32(iterations))

        used = programs.train.devices
        if used not in self._products:
            products = matrix_products(devices[:used])
            self._products[used] = products, _repetitions(products, _PEAK_TURN)
        products, times = self._products[used]
        # Training's own calls take seconds; with short ones the time between them would count.
        turns = -(-len(units) // programs.train.width)
        iterations, taken, product_taken = _repetitions(turn, turns * seconds), [], []
        # By turns, so that whatever disturbs one of them disturbs the other.
        for _ in range(self.repeats):
            product_taken.append(_timed(products, times))
            taken.append(_timed(turn, iterations))
        peak = 2 * _PEAK_SIZE**3 * _PEAK_PRODUCTS * times * used / float(np.median(product_taken))
        rates = sorted(iterations * point.seeds / s for s in taken)
        rate = float(np.median(rates))
        count = flops.by_hand(configs[0], self.workload.layers)
        return {
            "axis": point.axis,
            "seeds": point.seeds,
            "devices": used,
            **{name: getattr(configs[0], name) for name in _AXES if hasattr(configs[0], name)},
            "iterations_per_call": iterations,
            "outer_iterations_per_second": rate,
            "lowest_and_highest": [rates[0], rates[-1]],
            "images_per_second": rate * flops.examples_per_iteration(configs[0]),
            "flops_per_second": rate * count,
            "peak_flops_per_second": peak,
            "share_of_peak": rate * count / peak,
            "compile_seconds": programs.train.compile_seconds,
        }


_AXES = {
    "seeds": "seeds trained together",
    "devices": "devices",
    "meta_batch_size": "meta-batch size (tasks)",
    "ways": "ways N (classes in a task)",
    "inner_iterations": "inner iterations k",
}


def measure(
    name: str, devices: int | None, repeats: int, seconds: float, seeds: int | None = None, **settings: Any
) -> dict[str, Any]:
    """Measure one workload in this process, which should be a fresh one.

    **Arguments:** its name, how many devices (all by default), timed calls of each point, the seconds after which no
    further point is begun (the paper's own configuration is always measured), with how many `seeds` that is, and
    settings of the configurations (`FewShotClassification`); the `order` of tasks is else that of `paper` there.

    **Returns:** what goes into the JSON file, and under `made` the environment.
    """
    began = time.perf_counter()
    workload = workloads()[name]
    chosen = use_devices(devices)
    # Compile times are of programs compiled afresh.
    jax.config.update("jax_enable_compilation_cache", False)
    settings = {"order": presets.order_of_tasks("paper", chosen[0].platform)} | settings
    config = _configs(workload, 1, settings)[0]
    todo = points(config, len(chosen), chosen[0].platform, seeds)
    bench, measured, memory = _Bench(workload, chosen, repeats, settings), [], 0
    with tqdm(todo, desc=f"{name:18}", unit="point") as bar:
        for point in bar:
            if measured and time.perf_counter() - began > seconds:
                break
            at = point.changes or {"seeds": point.seeds, "devices": point.devices}
            bar.set_postfix_str(", ".join(f"{label} {value}" for label, value in at.items()))
            measured.append(bench.measure(point, _GROWTH_TURN if measured else _PAPER_TURN))
            memory = memory or peak_memory(chosen[0])
    by_hand, by_xla = flops.by_hand(config, workload.layers), flops.by_xla(config, workload.images)
    return {
        "name": name,
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "seed"},
        "images_per_iteration": flops.examples_per_iteration(config),
        "flops_per_iteration_by_hand": by_hand,
        "flops_per_iteration_by_xla": by_xla,
        "flops_per_second_by_xla": by_xla * measured[0]["outer_iterations_per_second"],
        "peak_memory_bytes": memory,
        "points": measured,
        "left_out_for_time": [point._asdict() for point in todo[len(measured) :]],
        "seconds": time.perf_counter() - began,
        "made": environment(chosen),
    }


def _in_a_fresh_process(function: Callable, *arguments: Any, **settings: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments, **settings).result()


def platform_of(devices: int | None = None) -> str:
    """What JAX trains on here, "cpu" or "gpu", for a process that is to leave the GPU's memory to others: as soon as
    JAX has started, it holds most of it. Raises what `use_devices` raises."""
    return _in_a_fresh_process(_platform, devices)


def _platform(devices):
    return use_devices(devices)[0].platform


def paper_speed(name: str, devices: int | None = None, order: str = "exact") -> float:
    """Floating-point operations a second of one workload as `paper` trains it, in total over seeds, from one call.

    The tasks are in that `order` (`FewShotClassification`); a GPU trains three seeds together, a CPU one a core.
    """
    return _in_a_fresh_process(_paper_speed, name, devices, order)


def _paper_speed(name, devices, order):
    seeds = None if _platform(devices) == "cpu" else _SEEDS
    return measure(name, devices, 1, 0.0, seeds, order=order)["points"][0]["flops_per_second"]


def bench(
    only: Sequence[str] = (),
    repeats: int = 5,
    devices: int | None = None,
    out: str | os.PathLike | None = None,
    seconds: float = SECONDS,
    seeds: int | None = None,
    **settings: Any,
) -> list[Path]:
    """Measure workloads, print two tables, and write `bench.png`, `bench.svg`, `bench.md` and `bench.json`.

    **Arguments:**

    - `only`: which of `workloads()`; all by default.
    - `repeats`: timed calls whose median is taken.
    - `devices`: how many cores or GPUs to train on, all by default.
    - `out`: the folder to write to, `figures/` by default.
    - `seconds`: time for all of them together. What does not fit is left out, and said to be.
    - `seeds`: with how many the paper's configurations are measured; by default one a core, or eight a GPU.
    - further `settings` of the classifications' configurations, such as `order` or `precision`.

    **Returns:** the files written. Raises `ValueError` for an impossible argument, `RuntimeError` for more devices than
    there are.
    """
    unknown = [name for name in only if name not in workloads()]
    if unknown:
        raise ValueError(f"nothing called {', '.join(unknown)} to measure; there are {', '.join(workloads())}")
    asked = {"repeats": repeats, "devices": devices, "seconds": seconds, "seeds": seeds}
    for what, given in asked.items():
        if given is not None and given < 1:
            raise ValueError(f"`{what}` is {given}; expected 1 or more")
    load, began, results = os.getloadavg()[0] if hasattr(os, "getloadavg") else None, time.perf_counter(), []
    if load is not None and load > _IDLE:
        print(f"Something else ran here in the last minute (load {load:.1f}); rates may come out low.", file=sys.stderr)
    names = [name for name in workloads() if name in only or not only]
    for i, name in enumerate(names):
        left = (seconds - (time.perf_counter() - began)) / (len(names) - i)
        results.append(_in_a_fresh_process(measure, name, devices, repeats, left, seeds, **settings))
    made = results[0]["made"]
    results = [{key: value for key, value in result.items() if key != "made"} for result in results]
    shown = f"**The paper's configurations on {made['device']}**\n\n{paper_table(results)}\n"
    print(f"\n{shown}")
    print(f"\nHow they grow\n\n{growth_table(results)}")
    grown = {label: {r["name"]: _line(growth(r, axis), axis) for r in results} for axis, label in _AXES.items()}
    papers = {result["name"]: result["points"][0] for result in results}
    drawn = plots.speed(grown, papers, f"Speed of the paper's trainings, in total over seeds, on {made['device']}")
    folder = Path(out or places.figures_directory())
    contents = {
        "made": {**made, "platform": platform.platform()},
        "how": "Medians of timed calls after a warm-up, each call waited for; rates are totals over seeds. Images are "
        "random bytes of the data's shape, since timing does not depend on what they show; the sine's images are its "
        "points. FLOPs by hand count the layers' multiplications and additions; the share is theirs. The peak is that "
        f"of {_PEAK_SIZE}×{_PEAK_SIZE} float32 products on as many devices as the point uses, timed by turns with it. "
        "Programs are compiled afresh. Peak memory is the process's after the paper's configuration, data included.",
        "asked": {"only": list(only), **asked, **settings},
        "load_average_before": load,
        "seconds": time.perf_counter() - began,
        "workloads": results,
    }
    write_text(folder / "bench.md", shown)
    return [*write_figure(drawn, folder, "bench"), folder / "bench.md", write_json(folder, "bench", contents)]


def _line(along: Sequence[dict[str, Any]], axis: str) -> dict[int, float]:
    """Images a second by the axis's value, as a share of what the paper's configuration reaches."""
    own = next((point["images_per_second"] for point in along if point["axis"] == "paper"), 1)
    return {point[axis]: point["images_per_second"] / own for point in along}


def paper_table(results: Sequence[dict[str, Any]]) -> str:
    """The paper's configurations, one a row, as Markdown."""
    rows = []
    for result in results:
        paper = result["points"][0]
        alone = [point["outer_iterations_per_second"] for point in result["points"] if point["seeds"] == 1]
        rows.append(
            {
                "": result["name"],
                "seeds": paper["seeds"],
                "devices": paper["devices"],
                "outer it/s": f"{paper['outer_iterations_per_second']:,.1f}",
                "one seed alone": f"{alone[0]:,.1f}" if alone else "",
                "images/s": f"{paper['images_per_second']:,.0f}",
                "GFLOP/s by hand": f"{paper['flops_per_second'] / 1e9:,.1f}",
                "by XLA": f"{result['flops_per_second_by_xla'] / 1e9:,.1f}",
                "product peak": f"{paper['peak_flops_per_second'] / 1e9:,.1f}",
                "share": f"{paper['share_of_peak']:.0%}",
                "compile s": f"{paper['compile_seconds']:.1f}",
                "memory MB": f"{result['peak_memory_bytes'] / 1e6:,.0f}",
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def growth_table(results: Sequence[dict[str, Any]]) -> str:
    """Rates where each axis grows, one workload and axis a row, as Markdown."""
    rows = []
    for result in results:
        for axis, label in _AXES.items():
            line = growth(result, axis)
            if len(line) > 1:
                cells = [f"{point[axis]}: {point['outer_iterations_per_second']:,.1f}" for point in line]
                rows.append({"": result["name"], "axis": label, "outer it/s in total": ", ".join(cells)})
        if result["left_out_for_time"]:
            count = len(result["left_out_for_time"])
            rows.append({"": result["name"], "axis": f"{count} left out for time", "outer it/s in total": ""})
    return pd.DataFrame(rows, columns=["", "axis", "outer it/s in total"]).to_markdown(
        index=False, disable_numparse=True
    )


def growth(result: dict[str, Any], axis: str) -> list[dict[str, Any]]:
    """The points along an axis with the paper's configuration among them, in order; none where there is no axis."""
    along = [point for point in result["points"] if point["axis"] in ("paper", axis) and axis in point]
    return sorted(along, key=lambda point: point[axis])
