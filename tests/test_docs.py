"""What is written is true: doctests pass, and public functions say formula, example and reference."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparks_jax

MODULES = sorted(
    {m.name for m in pkgutil.walk_packages(sparks_jax.__path__, "sparks_jax.") if not m.name.endswith("__main__")}
)
# Scientific areas: their public functions are in papers, and say which.
SCIENCE = ("designs", "sensitivity", "images", "segments", "fourier", "linalg", "scores", "attribution", "metrics")
SCIENCE += ("verify", "featviz", "lipschitz", "alignment", "human")


def module(name):
    # importlib returns the module even where a function of the same name shadows it in its package.
    return importlib.import_module(name)


def public_functions():
    seen = {}
    for name in MODULES:
        for attribute, value in vars(module(name)).items():
            if inspect.isfunction(value) and not attribute.startswith("_") and value.__module__ == name:
                seen[f"{name}.{attribute}"] = value
    return seen


FUNCTIONS = public_functions()
SCIENTIFIC = [n for n in FUNCTIONS if n.split(".")[1] in SCIENCE]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(module(name), extraglobs=dict(jax=jax, jnp=jnp, np=np), optionflags=flags)
    assert results.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    assert doc
    assert doc.splitlines()[0].rstrip(".") != ""
    assert doc.splitlines()[0].endswith((".", ":", "?")), "the first line is a sentence"


@pytest.mark.parametrize("name", SCIENTIFIC)
def test_scientific_functions_show_an_example_and_a_reference(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    assert "Example:" in doc
    assert ">>>" in doc
    assert "Reference:" in doc
    assert any(year in doc for year in map(str, range(1940, 2027))), "the reference has a year"


@pytest.mark.parametrize(
    "name", [n for n in SCIENTIFIC if n.split(".")[1] in ("sensitivity", "attribution", "metrics")]
)
def test_methods_show_their_formula_and_cost(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    if {"f", "features", "g"} & set(parameters) and "who" not in parameters:
        assert "$" in doc
        assert "Cost:" in doc


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_documented_exist(name):
    """No argument is described that the function does not have."""
    doc, described, inside = inspect.getdoc(FUNCTIONS[name]), [], False
    for line in doc.splitlines():
        if line.rstrip() == "Args:":
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            described.append(line.strip().split(":")[0].split(" (")[0].lstrip("*"))
    assert set(described) <= set(inspect.signature(FUNCTIONS[name]).parameters)
