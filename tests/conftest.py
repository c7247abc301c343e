"""One platform for all tests: eight CPU devices, no silent rank promotion, a small network and a small image."""

import gc
import os
import shutil
from importlib.metadata import version
from pathlib import Path

# Most programs of the tests run once: compiling them is the cost. CI compiles the laws in full on the newest Python.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):  # the older code generator takes half the time; later versions have none
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

gc.set_threshold(50_000, 20, 100)  # compiled programs are many objects, and to look at them all takes seconds

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forgets the compiled programs of a worker that holds many: each maps pages, and Linux allows 65,530 mappings."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_text().count("\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)


def _optimized():
    """For programs that run for long, or are timed."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")


optimized, optimized_module = pytest.fixture(_optimized), pytest.fixture(scope="module")(_optimized)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def image():
    return jax.random.uniform(jax.random.key(1), (8, 8, 3))


@pytest.fixture
def network():
    from tests.tiny import TinyNet

    return TinyNet(seed=0)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, for pages."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
