"""How fast training runs here, beside what this machine's matrix products reach: `reptile-eqx bench`.

Each of the paper's training configurations is measured in a process of its own, so that its peak memory is its own
and nothing that was compiled before helps it: first as the paper has it, then with more seeds, tasks and inner
iterations. Every rate is the median of several calls of the compiled program, each waited for, after a warm-up.
"""

import dataclasses
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
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from tqdm import tqdm

from ..datasets import FACTS, ImageClasses
from ..files import figures_directory, write
from ..runs.configuration import numbers_of, same_program
from ..runs.devices import use_devices
from ..runs.programs import Programs
from ..runs.records import environment
from ..training import start
from .catalogue import Scale, classification_runs, sine_runs
from .experiments import FewShotClassification
from .operations import examples_per_iteration, of_iteration
from .report import write_figure, write_json

SECONDS = 250.0
"""Default time for all configurations together; two idle cores measure everything in less than five minutes."""
WORKLOADS = ("sine", "omniglot-5way", "omniglot-20way", "mini-imagenet-5way")
"""What is measured: the sine waves of Section 4, Table 3's columns, Table 4."""
GROWN = {
    "seeds": "seeds trained together",
    "meta_batch_size": "meta-batch size (tasks)",
    "inner_iterations": "inner iterations k",
}
"""What a workload is measured with more of, and its axis."""

_PAPER_TURN, _GROWTH_TURN = 1.0, 0.4  # seconds that a timed call is to take, where one iteration does not take longer
_SEEDS = 3  # of the paper's profile, which a GPU trains in one program
_IDLE = 0.5  # load average of a minute, above which it is said that something else runs
_PEAK_TURN, _PEAK_SIZE, _PEAK_PRODUCTS = 0.1, 1024, 4


def configurations(name: str, seeds: int, **settings: Any) -> list[Any]:
    """A workload's run configurations, one for each seed, with those of the `settings` that they have."""
    scale = Scale("paper", seeds)
    configs = sine_runs(scale, "reptile") if name == "sine" else classification_runs(scale, f"{name}-reptile")
    own = {field: value for field, value in settings.items() if hasattr(configs[0], field)}
    return [dataclasses.replace(config, **own) for config in configs]


class Point(NamedTuple):
    """What is measured at once: which axis grows ("paper": none), how many seeds, and a setting that is changed."""

    axis: str
    seeds: int
    changes: dict[str, int]


def points(config: Any, devices: int, on_cpu: bool, seeds: int | None = None) -> list[Point]:
    """The paper's configuration, then more and fewer of each of `GROWN`.

    A CPU trains a seed a device, so the paper's configuration is measured with as many seeds as there are devices; a
    GPU trains seeds in one batched program, and is given eight; both where `seeds` does not say how many.
    """
    seeds = seeds or (devices if on_cpu else 8 * devices)
    grown = {1, 2, 4, 8} if on_cpu else {1, 2, 4, 8, 16, 32, 8 * devices, 32 * devices}
    chosen = [Point("paper", seeds, {})]
    chosen += [Point("seeds", count, {}) for count in sorted(grown - {seeds}, key=lambda count: (count < seeds, count))]
    for axis in ("meta_batch_size", "inner_iterations"):
        own = getattr(config, axis)
        values = (2 * own, own // 2) if own > 1 else (2, 4)
        chosen += [Point(axis, seeds, {axis: value}) for value in values]
    return chosen


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

    def __init__(self, name: str, devices: Sequence[jax.Device], repeats: int, settings: dict[str, Any]):
        self.name, self.devices, self.repeats, self.settings = name, devices, repeats, settings
        self.data, self._state, self._products, self._key, self._programs = None, None, {}, None, None
        (config,) = configurations(name, 1)
        if isinstance(config, FewShotClassification):
            facts = FACTS[config.dataset]
            images = np.frombuffer(np.random.default_rng(0).bytes(math.prod(facts.shape)), np.uint8)
            everywhere = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec())
            images = jax.device_put(images.reshape(facts.shape), everywhere)
            self.data = ImageClasses(images, (), config.dataset, "random bytes", facts)

    def _program(self, config: Any, seeds: int) -> Programs:
        """Programs that train `seeds` runs like `config`; those of the point before, where they are the same."""
        programs = Programs(config, self.data, seeds, self.devices)
        key = (same_program(config), programs.train.width)
        if key != self._key:
            self._key, self._programs = key, programs
            gc.collect()  # the images that the programs before kept on the devices
        return self._programs

    def _first_state(self, config: Any) -> Any:
        """A first state, which seeds can share as each trains on tasks of its own."""
        if self._state is None:
            state = start(config.learner(self.data, numbers_of(config)), jax.random.PRNGKey(0))
            self._state = jax.device_get(eqx.filter(state, eqx.is_array))
        return self._state

    def measure(self, point: Point, seconds: float) -> dict[str, Any]:
        """Rates of a point, from calls that take about `seconds` each, by turns where not all seeds fit at once."""
        configs = configurations(self.name, point.seeds, **self.settings | point.changes)
        programs = self._program(configs[0], point.seeds)
        units = [programs.unit(config, self._first_state(config)) for config in configs]

        def turn(iterations):
            for begin in range(0, len(units), programs.train.width):
                programs.train(units[begin : begin + programs.train.width], np.int32(iterations))

        used = programs.train.devices
        if used not in self._products:
            products = matrix_products(self.devices[:used])
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
        rate, count = float(np.median(rates)), of_iteration(configs[0])
        return {
            "axis": point.axis,
            "seeds": point.seeds,
            "devices": used,
            **{name: getattr(configs[0], name) for name in GROWN if hasattr(configs[0], name)},
            "iterations_per_call": iterations,
            "outer_iterations_per_second": rate,
            "lowest_and_highest": [rates[0], rates[-1]],
            "images_per_second": rate * examples_per_iteration(configs[0]),
            "flops_per_second": rate * count,
            "peak_flops_per_second": peak,
            "share_of_peak": rate * count / peak,
            "compile_seconds": programs.train.compile_seconds,
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
    chosen = use_devices(devices)
    # Compile times are of programs compiled afresh.
    jax.config.update("jax_enable_compilation_cache", False)
    settings = {"order": Scale("paper", platform=chosen[0].platform).order} | settings
    (config,) = configurations(name, 1, **settings)
    todo = points(config, len(chosen), chosen[0].platform == "cpu", seeds)
    bench, measured, memory = _Bench(name, chosen, repeats, settings), [], 0
    with tqdm(todo, desc=f"{name:18}", unit="point") as bar:
        for point in bar:
            if measured and time.perf_counter() - began > seconds:
                break
            at = point.changes or {"seeds": point.seeds}
            bar.set_postfix_str(", ".join(f"{label} {value}" for label, value in at.items()))
            measured.append(bench.measure(point, _GROWTH_TURN if measured else _PAPER_TURN))
            memory = memory or peak_memory(chosen[0])
    return {
        "name": name,
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "seed"},
        "images_per_iteration": examples_per_iteration(config),
        "flops_per_iteration_by_hand": of_iteration(config),
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
    """Measure workloads, print a table, and write `bench.png`, `bench.svg`, `bench.md` and `bench.json`.

    **Arguments:**

    - `only`: which of `WORKLOADS`; all by default.
    - `repeats`: timed calls whose median is taken.
    - `devices`: how many cores or GPUs to train on, all by default.
    - `out`: the folder to write to, `figures/` by default.
    - `seconds`: time for all of them together. What does not fit is left out, and said to be.
    - `seeds`: with how many the paper's configurations are measured; by default one a core, or eight a GPU.
    - further `settings` of the classifications' configurations, such as `order` or `precision`.

    **Returns:** the files written. Raises `ValueError` for an impossible argument, `RuntimeError` for more devices than
    there are.
    """
    unknown = [name for name in only if name not in WORKLOADS]
    if unknown:
        raise ValueError(f"nothing called {', '.join(unknown)} to measure; there are {', '.join(WORKLOADS)}")
    asked = {"repeats": repeats, "devices": devices, "seconds": seconds, "seeds": seeds}
    for what, given in asked.items():
        if given is not None and given < 1:
            raise ValueError(f"`{what}` is {given}; expected 1 or more")
    load, began, results = os.getloadavg()[0] if hasattr(os, "getloadavg") else None, time.perf_counter(), []
    if load is not None and load > _IDLE:
        print(f"Something else ran here in the last minute (load {load:.1f}); rates may come out low.", file=sys.stderr)
    names = [name for name in WORKLOADS if name in only or not only]
    for i, name in enumerate(names):
        left = (seconds - (time.perf_counter() - began)) / (len(names) - i)
        results.append(_in_a_fresh_process(measure, name, devices, repeats, left, seeds, **settings))
    made = [result.pop("made") for result in results][0]
    shown = f"**The paper's configurations on {made['device']}**\n\n{table(results)}\n"
    print(f"\n{shown}")
    folder = Path(out or figures_directory())
    contents = {
        "made": {**made, "platform": platform.platform()},
        "asked": {"only": list(only), **asked, **settings},
        "load_average_before": load,
        "seconds": time.perf_counter() - began,
        "workloads": results,
    }
    write(folder / "bench.md", shown)
    return [
        *write_figure(figure(results, made["device"]), folder, "bench"),
        folder / "bench.md",
        write_json(folder, "bench", contents),
    ]


def table(results: Sequence[dict[str, Any]]) -> str:
    """The paper's configurations and how they grow, one a row, as Markdown."""
    rows = []
    for result in results:
        paper = result["points"][0]
        row = {
            "": result["name"],
            "seeds": paper["seeds"],
            "devices": paper["devices"],
            "outer it/s": f"{paper['outer_iterations_per_second']:,.1f}",
            "images/s": f"{paper['images_per_second']:,.0f}",
            "GFLOP/s by hand": f"{paper['flops_per_second'] / 1e9:,.1f}",
            "product peak": f"{paper['peak_flops_per_second'] / 1e9:,.1f}",
            "share": f"{paper['share_of_peak']:.0%}",
            "compile s": f"{paper['compile_seconds']:.1f}",
            "memory MB": f"{result['peak_memory_bytes'] / 1e6:,.0f}",
        }
        for axis, label in GROWN.items():
            line = grown(result, axis)
            cells = [f"{point[axis]}: {point['outer_iterations_per_second']:,.1f}" for point in line]
            row[f"it/s by {label}"] = ", ".join(cells) if len(line) > 1 else ""
        rows.append(row | {"left out for time": len(result["left_out_for_time"])})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def grown(result: dict[str, Any], axis: str) -> list[dict[str, Any]]:
    """The points along an axis with the paper's configuration among them, in order; none where there is no axis."""
    along = [point for point in result["points"] if point["axis"] in ("paper", axis) and axis in point]
    return sorted(along, key=lambda point: point[axis])


def figure(results: Sequence[dict[str, Any]], device: str) -> Figure:
    """How the rate grows along each of `GROWN`, from the paper's configuration, and the shares of the peak."""
    drawn, (*panels, bars) = plt.subplots(1, len(GROWN) + 1, figsize=(16, 4), layout="constrained")
    colours, markers = ("#009E73", "#0072B2", "#D55E00", "#E69F00"), "o^sD"
    for i, result in enumerate(results):
        paper = result["points"][0]
        look = dict(color=colours[i], marker=markers[i])
        for axes, (axis, label) in zip(panels, GROWN.items(), strict=True):
            line = grown(result, axis)
            rates = [point["images_per_second"] / paper["images_per_second"] for point in line]
            axes.plot([point[axis] for point in line], rates, label=result["name"], **look)
            axes.set(xlabel=label, ylabel="images / s (paper's setting = 1)", ylim=(0, None))
        share = 100 * paper["share_of_peak"]
        bars.bar(result["name"].replace("-5", "\n5").replace("-20", "\n20"), share, color=colours[i])
        bars.text(i, share, f"{share:.0f} %\n{paper['images_per_second']:,.0f}/s", ha="center", va="bottom")
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.25)
    bars.set(ylabel="share of the matrix-product peak (%)", ylim=(0, 118), yticks=range(0, 101, 20))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    drawn.suptitle(f"Speed of the paper's trainings, in total over seeds, on {device}; images, or the sine's points")
    return drawn
