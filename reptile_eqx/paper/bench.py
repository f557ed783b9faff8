"""How fast training runs here, beside what this machine's matrix products reach: `reptile-eqx bench`.

Each of the paper's training configurations is measured in a process of its own, so that its peak memory is its own
and nothing that was compiled before helps it: first as the paper has it, then with fewer and more seeds, tasks and
inner iterations. Every rate is the median of several calls of the compiled program, each waited for, after a warm-up.
"""

import dataclasses
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import children
from ..bars import tqdm
from ..datasets import FACTS, ImageClasses
from ..files import figures_directory
from ..runs.configuration import numbers_of
from ..runs.devices import use_devices
from ..runs.processes import as_json, write
from ..runs.programs import Programs
from ..runs.records import environment
from ..training import start
from .catalogue import Scale, classification_runs, sine_runs
from .experiments import FewShotClassification
from .operations import examples_per_iteration, of_iteration

SECONDS = 250.0
"""Default time for all configurations together; two idle cores measure everything in less than five minutes."""
WORKLOADS = ("sine", "omniglot-5way", "omniglot-20way", "mini-imagenet-5way")
"""What is measured: the sine waves of Section 4, Table 3's columns, Table 4."""
GROWN = {"seeds": "seeds", "meta_batch_size": "tasks", "inner_iterations": "k"}
"""What a workload is measured with fewer and more of, and how a table calls it."""

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


def points(config: Any, devices: int, on_cpu: bool, seeds: int | None = None) -> Iterator[dict[str, int]]:
    """What is measured, by the values of `GROWN` that differ from the paper's: first nothing but the seeds.

    A CPU trains a seed a device, so the paper's configuration is measured with as many seeds as there are devices; a
    GPU trains seeds in one batched program, and each is given eight; both where `seeds` does not say how many.
    """
    seeds = seeds or (devices if on_cpu else 8 * devices)
    yield {"seeds": seeds}
    for count in sorted({1, 2, 4, 8} if on_cpu else {1, 2, 4, 8, 16, 32}):
        if count != seeds:
            yield {"seeds": count}
    for axis in ("meta_batch_size", "inner_iterations"):
        own = getattr(config, axis)
        for value in (2 * own, own // 2) if own > 1 else (2, 4):
            yield {"seeds": seeds, axis: value}


def matrix_products(devices: Sequence[jax.Device]) -> Callable[[int], None]:
    """1024×1024 float32 matrix products, one at a time on each device and on all devices at once.

    They follow one another inside one program, and in full precision, as training's do.

    **Returns:** a function that makes 4·n of them on each device and waits.
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


def _random_data(config, devices):
    """Random bytes of the shape of a configuration's dataset: timing does not depend on what images show."""
    if not isinstance(config, FewShotClassification):
        return None
    facts = FACTS[config.dataset]
    images = np.frombuffer(np.random.default_rng(0).bytes(math.prod(facts.shape)), np.uint8).reshape(facts.shape)
    everywhere = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec())
    return ImageClasses(jax.device_put(images, everywhere), (), config.dataset, "random bytes", facts)


def _measured(
    configs: Sequence[Any], data: Any, devices: Sequence[jax.Device], repeats: int, seconds: float
) -> dict[str, Any]:
    """Rates of one point, from calls that take about `seconds` each, by turns where not all seeds fit at once."""
    programs = Programs(configs[0], data, len(configs), devices)
    # A first state, which seeds can share as each trains on tasks of its own.
    state = start(configs[0].learner(data, numbers_of(configs[0])), jax.random.PRNGKey(0))
    state = jax.device_get(eqx.filter(state, eqx.is_array))
    units = [programs.unit(config, state) for config in configs]

    def turn(iterations):
        for begin in range(0, len(units), programs.train.width):
            programs.train(units[begin : begin + programs.train.width], np.int32(iterations))

    used = programs.train.devices
    products = matrix_products(devices[:used])
    times = _repetitions(products, _PEAK_TURN)
    # Training's own calls take seconds; with short ones the time between them would count.
    iterations = _repetitions(turn, -(-len(units) // programs.train.width) * seconds)
    # By turns, so that whatever disturbs one of them disturbs the other.
    taken = [(_timed(products, times), _timed(turn, iterations)) for _ in range(repeats)]
    peak = 2 * _PEAK_SIZE**3 * _PEAK_PRODUCTS * times * used / float(np.median([product for product, _ in taken]))
    rates = sorted(iterations * len(configs) / seconds for _, seconds in taken)
    rate = float(np.median(rates))
    return {
        "seeds": len(configs),
        "devices": used,
        **{name: getattr(configs[0], name) for name in GROWN if hasattr(configs[0], name)},
        "iterations_per_call": iterations,
        "outer_iterations_per_second": rate,
        "lowest_and_highest": [rates[0], rates[-1]],
        "images_per_second": rate * examples_per_iteration(configs[0]),
        "flops_per_second": rate * of_iteration(configs[0]),
        "peak_flops_per_second": peak,
        "share_of_peak": rate * of_iteration(configs[0]) / peak,
        "compile_seconds": programs.train.compile_seconds,
    }


def measure(
    name: str, devices: int | None, repeats: int, seconds: float, seeds: int | None = None, **settings: Any
) -> dict[str, Any]:
    """Measure one workload in this process, which should be a fresh one.

    **Arguments:** its name, how many devices (all by default), timed calls of each point, the seconds after which no
    further point is begun (the paper's own configuration is always measured), with how many `seeds` that is, and
    settings of the configurations (`FewShotClassification`), whose `order` is that of the profile `paper` here where
    none is given.

    **Returns:** what goes into the JSON file, and under `made` the environment.
    """
    began = time.perf_counter()
    chosen = use_devices(devices)
    # Compile times are of programs compiled afresh.
    jax.config.update("jax_enable_compilation_cache", False)
    settings = {"order": Scale("paper", platform=chosen[0].platform).order} | settings
    (config,) = configurations(name, 1, **settings)
    todo = list(points(config, len(chosen), chosen[0].platform == "cpu", seeds))
    data, measured, memory = _random_data(config, chosen), [], 0
    with tqdm(todo, desc=f"{name:18}", unit="point") as bar:
        for point in bar:
            if measured and time.perf_counter() - began > seconds:
                break
            bar.set_postfix_str(", ".join(f"{GROWN[axis]} {value}" for axis, value in point.items()))
            configs = configurations(name, **settings | point)
            measured.append(_measured(configs, data, chosen, repeats, _GROWTH_TURN if measured else _PAPER_TURN))
            memory = memory or peak_memory(chosen[0])
    return {
        "name": name,
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "seed"},
        "images_per_iteration": examples_per_iteration(config),
        "flops_per_iteration_by_hand": of_iteration(config),
        "peak_memory_bytes": memory,
        "points": measured,
        "left_out_for_time": todo[len(measured) :],
        "seconds": time.perf_counter() - began,
        "made": environment(chosen),
    }


def platform_of(devices: int | None = None) -> str:
    """What JAX trains on here, "cpu" or "gpu", for a process that is to leave the GPU's memory to others: as soon as
    JAX has started, it holds most of it. Raises what `use_devices` raises."""
    return children.result(_platform, devices)


def _platform(devices):
    return use_devices(devices)[0].platform


def paper_speed(name: str, devices: int | None = None, order: str = "exact") -> float:
    """Floating-point operations a second of one workload as `paper` trains it, in total over seeds, from one call.

    The tasks are in that `order` (`FewShotClassification`); a GPU trains three seeds together, a CPU one a core.
    """
    return children.result(_paper_speed, name, devices, order)


def _paper_speed(name, devices, order):
    seeds = None if _platform(devices) == "cpu" else _SEEDS
    return measure(name, devices, 1, 0.0, seeds, order=order)["points"][0]["flops_per_second"]


def folder_of(out: str | os.PathLike | None) -> Path:
    """Where `bench` writes: `out`, or `figures/bench/`."""
    return Path(out or figures_directory() / "bench")


def bench(
    only: Sequence[str] = (),
    repeats: int = 5,
    devices: int | None = None,
    out: str | os.PathLike | None = None,
    seconds: float = SECONDS,
    seeds: int | None = None,
    **settings: Any,
) -> list[Path]:
    """Measure workloads, print a table, and write it as `bench.md`, and all that was measured as `bench.json`.

    **Arguments:**

    - `only`: which of `WORKLOADS`; all by default.
    - `repeats`: timed calls whose median is taken.
    - `devices`: how many cores or GPUs to train on, all by default.
    - `out`: the folder to write to, `figures/bench/` by default.
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
        results.append(children.result(measure, name, devices, repeats, left, seeds, **settings))
    made = [result.pop("made") for result in results][0]
    shown = f"**The paper's configurations on {made['device']}**\n\n{table(results)}\n"
    print(f"\n{shown}")
    contents = {
        "made": {**made, "platform": platform.platform()},
        "asked": {"only": list(only), **asked, **settings},
        "load_average_before": load,
        "seconds": time.perf_counter() - began,
        "workloads": results,
    }
    folder = folder_of(out)
    write(folder / "bench.md", shown)
    write(folder / "bench.json", as_json(contents, indent=1) + "\n")
    return [folder / "bench.md", folder / "bench.json"]


def table(results: Sequence[dict[str, Any]]) -> str:
    """The paper's configurations and how they grow, one a row, as Markdown."""
    rows = []
    for result in results:
        paper, *grown = result["points"]
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
        for axis, called in GROWN.items():
            along = sorted((p[axis], p["outer_iterations_per_second"]) for p in grown if p[axis] != paper[axis])
            row[f"it/s by {called}"] = ", ".join(f"{value}: {rate:,.1f}" for value, rate in along)
        rows.append(row | {"left out": len(result["left_out_for_time"])})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
