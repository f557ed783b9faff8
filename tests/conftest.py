"""Every test runs with jaxtyping's runtime checks on, two virtual CPU devices, and a home of its own."""

import importlib.metadata
import os

# Nearly all of the tests' time is compilation, and XLA's newer code generator for a CPU takes more than twice as long
# as its older one. Releases without the older one end a process that asks for it. Set before JAX reads it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    if [int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2]] < [0, 11]
    else "--xla_backend_optimization_level=0",
)

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("reptile_eqx", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 2)
if not hasattr(jax, "enable_x64"):  # older JAX has it under another name
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


def pytest_collection_modifyitems(items):
    """The notebooks first: they take longest, and no core is to wait for them at the end."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory):
    """Programs that several tests share are compiled once, whichever of pytest-xdist's processes runs them."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Started here, before a test asks for all cores, of which a machine may have one.
    assert len(jax.devices()) == 2


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs, caches and figures of a test land in its own folder."""
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
