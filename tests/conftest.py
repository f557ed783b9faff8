"""Every test runs with jaxtyping's runtime checks on, two virtual CPU devices, and a home of its own."""

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("reptile_eqx", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 2)
if not hasattr(jax, "enable_x64"):  # older JAX has it under another name
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory):
    """Programs that several tests share are compiled once."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs, caches and figures of a test land in its own folder."""
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
