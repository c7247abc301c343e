"""The worked example of CONTRIBUTING.md runs, and obeys every law of the roster."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests import test_laws
from tests.roster import METHODS, Method

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FUNCTION, ROSTER_LINE, CLOSED_FORM = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def names():
    names = {"jax": jax, "jnp": jnp, "Method": Method}
    exec(FUNCTION, names)
    exec(CLOSED_FORM, names)
    return names


@pytest.fixture(scope="module")
def method(names):
    return eval(ROSTER_LINE, names)


def laws_for_random_samplers():
    """Every law that is asked of SmoothGrad, which is random, samples and streams as the example does."""
    smoothgrad = next(m for m in METHODS if m.name == "smoothgrad")
    for name, law in vars(test_laws).items():
        if name.startswith("test_"):
            marks = [m for m in law.pytestmark if m.name == "parametrize"]
            if all(smoothgrad in mark.args[1] for mark in marks):
                yield name


@pytest.mark.parametrize("law", list(laws_for_random_samplers()))
def test_the_example_obeys(law, method, network, image, key):
    given = dict(method=method, network=network, image=image, key=key)
    if law == "test_memory_is_flat_in_samples":
        method = method._replace(options={"baselines": jnp.full((2, 64, 64, 3), 0.5)})
        given["method"] = method
    law = getattr(test_laws, law)
    assert set(inspect.signature(law).parameters) <= set(given)
    law(**{name: given[name] for name in inspect.signature(law).parameters})


def test_its_closed_form(names):
    names["test_expected_gradients_of_a_square"]()
    assert "expected_gradients" in names


def test_its_export_line_is_an_export_line():
    line = re.search(r"```text\n(.*?)\n```", TEXT).group(1)
    exports = (Path(__file__).parents[1] / "sparks_jax/attribution/__init__.py").read_text().splitlines()
    shape = lambda text: re.sub(r"\w+", "x", text)
    assert shape(line) in {shape(other) for other in exports}
