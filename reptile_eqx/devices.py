"""Cores and GPUs: set up before JAX starts, and one program on all of them."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from . import places


def use_devices(devices: int | None = None, compilation_cache: str | os.PathLike | None = None) -> list[jax.Device]:
    """Give JAX this machine's cores or GPUs, and a place to keep compiled programs. Call it before using JAX.

    JAX fixes its devices when it first computes something, so a notebook calls this in its first cell. A second
    call with the same number is harmless.

    **Arguments:**

    - `devices`: how many CPU cores, or GPUs where JAX has them, to train on; all by default.
    - `compilation_cache`: the directory where compiled programs are kept, `data/cache/xla` by default.

    **Returns:** the devices. Raises `ValueError` for a number below one, `RuntimeError` where JAX has started
    already with another number. Warns where an NVIDIA GPU is there and JAX does not use it.
    """
    if devices is not None and devices < 1:
        raise ValueError(f"`devices` is how many cores or GPUs to use, at least 1; given {devices}")
    cache = Path(compilation_cache or places.data_directory() / "cache" / "xla")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", devices or cores)
    except RuntimeError:
        pass  # JAX has started; whether that matters is checked on what it has.
    if jax.default_backend() == "cpu" and _nvidia_gpu() and not _cpu_on_purpose():
        warnings.warn(
            "this machine has an NVIDIA GPU, but JAX uses the CPU: pip install 'reptile-eqx[cuda]' "
            "(or set JAX_PLATFORMS=cpu to mean it)",
            stacklevel=2,
        )
    found = jax.devices()
    if devices is not None and len(found) < devices:
        raise RuntimeError(
            f"asked for {devices} devices, but JAX has {len(found)} ({found[0].platform}): it may have started before "
            "this call; restart the kernel and call use_devices first, or ask for fewer"
        )
    return found[:devices]


def _nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _cpu_on_purpose() -> bool:
    return "cpu" in (jax.config.jax_platforms or "")


class SideBySide:
    """One program over a mesh of devices, applied to several units of work at once: a seed, a slice of tasks.

    On CPU cores each device takes one unit at a time, which is the best use of cores; a GPU takes as many as
    there are, in one batched program. What a unit's result is does not depend on the units beside it.
    """

    def __init__(self, program: Callable, shared: PyTree, units: int, devices: Sequence[jax.Device] | None = None):
        """`program(shared, unit, *common)` maps pytrees of arrays to one; `shared` is copied to every device once.

        `units` is how many units there will be in all, `devices` the devices to use (all by default).
        """
        devices = jax.devices() if devices is None else devices
        per_device = 1 if devices[0].platform == "cpu" else -(-units // len(devices))
        devices = devices[: max(1, min(len(devices), units))]
        self.width = len(devices) * per_device
        self.compile_seconds = 0.0
        self._mesh = Mesh(np.array(devices), ("unit",))
        self._shared = jax.device_put(shared, NamedSharding(self._mesh, PartitionSpec()))
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
            raise ValueError(f"{len(units)} units for a program of {self.width} places")
        padded = [*units, *[units[-1]] * (self.width - len(units))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        stacked = jax.device_put(stacked, NamedSharding(self._mesh, PartitionSpec("unit")))
        arguments = (self._shared, stacked, *jax.device_put(common, NamedSharding(self._mesh, PartitionSpec())))
        if self._compiled is None:
            self._compiled = self._compile(arguments)
        results = jax.device_get(self._compiled(*arguments))
        return [jax.tree.map(lambda leaf: leaf[i], results) for i in range(len(units))]

    def _compile(self, arguments):
        started = time.perf_counter()
        everywhere, by_unit = PartitionSpec(), PartitionSpec("unit")
        sharded = jax.shard_map(
            self._program,
            mesh=self._mesh,
            in_specs=(everywhere, by_unit, *[everywhere] * (len(arguments) - 2)),
            out_specs=by_unit,
            check_vma=False,
        )
        compiled = jax.jit(sharded).lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - started
        return compiled
