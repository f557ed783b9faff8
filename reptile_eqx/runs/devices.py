"""Cores, GPUs and hosts: set up before JAX starts, and one program on all of them."""

import functools
import glob
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from ..checks import whole
from ..files import data_directory


def use_devices(
    devices: int | None = None,
    compilation_cache: str | os.PathLike | None = None,
    distributed: bool | Mapping[str, Any] = False,
) -> list[jax.Device]:
    """Give JAX this machine's cores or GPUs, and a place to keep compiled programs. Call it before using JAX.

    JAX fixes its devices when it first computes something, so a notebook calls this in its first cell. A second
    call with the same number is harmless.

    **Arguments:**

    - `devices`: how many CPU cores, or GPUs where JAX has them, to train on in each process; by default all that it is
      bound to and, in a container, that its quota allows.
    - `compilation_cache`: the directory where compiled programs are kept; by default what JAX is set to
      (`JAX_COMPILATION_CACHE_DIR`), or else `data/cache/xla`, where the oldest make room when there are over 2 GB.
    - `distributed`: whether this is one of several processes, on one host or many, which all run the same Python.
      `True` where JAX detects who started them: SLURM, Open MPI's `mpirun`, Kubernetes (with its Python package).
      Otherwise the arguments of `jax.distributed.initialize`, such as
      `dict(coordinator_address="host:1234", num_processes=2, process_id=0)`, or under another MPI
      `dict(cluster_detection_method="mpi4py")`.

    **Returns:** the devices of all processes. Raises `ValueError` for a number below one or where the processes cannot
    be told, `RuntimeError` where JAX has started already with fewer, or before the processes were joined, and where
    they do not find each other. Warns where an NVIDIA GPU is there and JAX does not use it, and where JAX has started
    already with fewer cores than there are.
    """
    devices = None if devices is None else whole("devices", devices)
    told = compilation_cache or jax.config.values["jax_compilation_cache_dir"]
    if not told:
        _keep_within(_programs(), _MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(told or _programs()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    try:
        jax.config.update("jax_num_cpu_devices", devices or _cores())
    except RuntimeError:
        pass  # JAX has started; whether that matters is checked on what it has.
    if distributed and not jax.distributed.is_initialized():
        _join({} if distributed is True else dict(distributed))
    if jax.default_backend() == "cpu" and _nvidia_gpu() and not _cpu_on_purpose():
        warnings.warn(
            "this machine has an NVIDIA GPU, but JAX uses the CPU: pip install 'reptile-eqx[cuda]' "
            "(or set JAX_PLATFORMS=cpu to mean it)",
            stacklevel=2,
        )
    found = jax.local_devices()
    if devices is not None and len(found) < devices:
        raise RuntimeError(
            f"asked for {devices} devices, but JAX has {len(found)} ({found[0].platform}): it may have started before "
            "this call; restart the kernel and call use_devices first, or ask for fewer"
        )
    if devices is None and jax.default_backend() == "cpu" and len(found) < _cores():
        warnings.warn(
            f"JAX had started with {len(found)} CPU device before use_devices was called, so that of {_cores()} cores "
            "no more are trained on: restart the kernel and call it before anything else of JAX",
            stacklevel=2,
        )
    return [d for process in range(jax.process_count()) for d in jax.local_devices(process)[:devices]]


_MOST_BYTES = 2 * 2**30


def _programs() -> Path:
    """Where compiled programs are kept, if JAX is not told otherwise."""
    return data_directory() / "cache" / "xla"


def _keep_within(folder: Path, most: int) -> None:
    """Remove a folder's oldest files until it has no more than `most` bytes.

    JAX can do so as well, but its own way stops for ever at a file that a killed process left half-written.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # Another process may be removing it, too.
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        with suppress(OSError):
            path.unlink()
            total -= size


def _compiled(lowered: jax.stages.Lowered, options: dict[str, str | bool]) -> jax.stages.Compiled:
    """Compile a program, or read it; where what is kept of it cannot be read, that is removed, for good.

    JAX compiles such a program anew each time, with a warning, and never writes over it.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        compiled = lowered.compile(options)
    for warning in seen:
        if unreadable := re.search(
            "Error reading persistent compilation cache entry for '([^']+)'", str(warning.message)
        ):
            for path in _programs().glob(f"{glob.escape(unreadable[1])}-*"):
                path.unlink(missing_ok=True)
            warnings.warn(
                f"compiled programs in {_programs()} could not be read and were removed: {unreadable[1]}", stacklevel=2
            )
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return compiled


def _join(arguments: dict[str, Any]) -> None:
    """Become one of several processes; raises what `use_devices` says it does."""
    try:
        jax.distributed.initialize(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`distributed` takes the arguments of jax.distributed.initialize: coordinator_address, num_processes and "
            "process_id, which JAX finds by itself under SLURM, Open MPI's mpirun and Kubernetes only, or "
            f"cluster_detection_method; given {arguments}: {error}"
        ) from error
    except RuntimeError as error:
        raise RuntimeError(
            "the processes could not be joined: call use_devices before JAX computes anything (in a notebook, restart "
            f"the kernel), with an address that all of them reach; given {arguments}: {error}"
        ) from error


_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _cores() -> int:
    """Cores that this process is bound to, or fewer where a container's quota is less than that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _QUOTA.read_text().split() if _QUOTA.exists() else ("max", "")
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))


@functools.cache
def _compiler_options(platform: str) -> dict[str, str | bool]:
    """How XLA should order a program: on a CPU, where its operations follow one another anyway, to need little memory
    instead of to allow several at once. The cores' caches make that 5 % of 5-way Omniglot's speed."""
    options: dict[str, str | bool] = {}
    if platform == "cpu":
        options["xla_cpu_scheduler_type"] = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except jax.errors.JaxRuntimeError:
        return {}  # an XLA that does not know them yet
    return options


def _nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _cpu_on_purpose() -> bool:
    return "cpu" in (jax.config.values["jax_platforms"] or "")


def mesh_for(devices: Sequence[jax.Device], units: int, tasks: int = 1) -> Mesh:
    """A mesh with axes `seed` and `task` for `units` that each can spread over up to `tasks` devices."""
    grid = device_grid([device.process_index for device in devices], units, tasks)
    return Mesh(np.array(devices)[grid], ("seed", "task"))


def device_grid(processes: Sequence[int], units: int, tasks: int = 1) -> Int[np.ndarray, "seed task"]:
    """Which devices work on what, by their position; `processes` says to which process each of them belongs.

    Units come first; where there are fewer than devices, each gets several. Devices are taken evenly out of all, so
    that every process has its part, even if it is to repeat what another does.
    """
    count, least = len(processes), len(set(processes))
    seeds = min(count, units)
    each = min(tasks, count // seeds)
    if seeds * each < least:
        seeds, each = least, 1
    return (np.arange(seeds * each) * count // (seeds * each)).reshape(seeds, each)


def replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """A pytree of arrays with a copy on each of the mesh's devices; copies that are there already serve as they are."""

    def place(leaf):
        there = {}
        if isinstance(leaf, jax.Array):
            there = {shard.device: shard.data for shard in leaf.addressable_shards if shard.data.shape == leaf.shape}
        copies = [there[d] if d in there else jax.device_put(leaf, d) for d in mesh.local_devices]
        sharding = NamedSharding(mesh, PartitionSpec())
        return jax.make_array_from_single_device_arrays(np.shape(leaf), sharding, copies)

    return jax.tree.map(place, tree)


class Spread:
    """One program spread over a mesh of devices, and applied to several units of work at once: seeds, slices of tasks.

    On CPU cores each device takes one unit at a time, which is the best use of cores; a GPU takes as many as
    there are, in one batched program. What a unit's result is does not depend on the units beside it. Results take
    the place of the units on the devices (donated buffers), not on the host.
    """

    def __init__(
        self, program: Callable, shared: PyTree, units: int, devices: Sequence[jax.Device] | None = None, tasks: int = 1
    ):
        """`program(shared, unit, *common)` maps pytrees of arrays to one; every device has a copy of `shared`.

        `units` is how many units there will be in all, `devices` the devices to use (all by default). With `tasks`
        above 1 and fewer units than devices, a unit is spread over up to so many devices, which its program knows as
        the axis `task` (`training.train`).
        """
        self._mesh = mesh_for(jax.devices() if devices is None else devices, units, tasks)
        self.devices = self._mesh.size  # on which it runs: no more than there are units and their tasks
        seeds = self._mesh.shape["seed"]
        per_device = 1 if self._mesh.devices.flat[0].platform == "cpu" else -(-units // seeds)
        self.width = seeds * per_device
        self.compile_seconds = 0.0
        self._shared = replicated(shared, self._mesh)
        self._compiled = None

        def on_one_device(shared, units, *common):
            if per_device == 1:
                # A vmap over one unit would still turn its matrix products into batched, slower ones.
                result = program(shared, jax.tree.map(lambda leaf: leaf[0], units), *common)
                return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], result)
            return jax.vmap(lambda unit: program(shared, unit, *common))(units)

        self._program = on_one_device

    def __call__(self, units: Sequence[PyTree], *common) -> list[PyTree]:
        """Results of up to `width` units (pytrees of numpy arrays), in their order. `common` are scalars for all."""
        if not 1 <= len(units) <= self.width:
            raise ValueError(f"{len(units)} units for a program of {self.width} at once")
        padded = [*units, *[units[-1]] * (self.width - len(units))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        arguments = (self._shared, self._by_seed(stacked), *replicated(common, self._mesh))
        if self._compiled is None:
            self._compiled = self._compile(arguments)
        results = multihost_utils.process_allgather(self._compiled(*arguments), tiled=True)
        return [jax.tree.map(lambda leaf: leaf[i], results) for i in range(len(units))]

    def _by_seed(self, stacked):
        sharding = NamedSharding(self._mesh, PartitionSpec("seed"))

        def place(leaf):
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(place, stacked)

    def _compile(self, arguments):
        started = time.perf_counter()
        everywhere, by_seed = PartitionSpec(), PartitionSpec("seed")
        sharded = jax.shard_map(
            self._program,
            mesh=self._mesh,
            in_specs=(everywhere, by_seed, *[everywhere] * (len(arguments) - 2)),
            out_specs=by_seed,
            check_vma=False,
        )
        with warnings.catch_warnings():
            # A seed has no result of its shape to give its place to.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            lowered = jax.jit(sharded, donate_argnums=1).lower(*arguments)
        compiled = _compiled(lowered, _compiler_options(self._mesh.devices.flat[0].platform))
        self.compile_seconds = time.perf_counter() - started
        return compiled
