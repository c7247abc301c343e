"""The README keeps its word: commands are those of CI, code runs, files exist, methods are all there."""

import re
import tomllib
from pathlib import Path

import jax.numpy as jnp
import pytest

from sparks_jax.metrics import HIGHER_IS_BETTER
from tests.roster import METHODS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_there_are_two_commands_and_their_extras_exist():
    commands = [line for line in TEXT.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("sparks explain")
    assert commands[1].endswith("-m pytest")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(extra in extras for command in commands for extra in re.findall(r"\.\[(\w+)\]", command))
    assert "readme_command 1" in (ROOT / ".ci/run").read_text()
    assert "readme_command 2" in (ROOT / ".ci/run").read_text()


def test_the_code_runs(optimized):
    pytest.importorskip("skimage", reason="the photographs of the README need scikit-image")
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["phi"].shape == (224, 224, 3)
    assert jnp.isfinite(names["phi"]).all()
    assert names["maps"].shape == (1, 224, 224)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_files_named_exist(file):
    text = (ROOT / file).read_text()
    linked = re.findall(r"\]\(((?!http)[^)]+)\)", text) + re.findall(
        r"`((?:sparks_jax|tests|experiments)/[\w./]+)`", text
    )
    assert linked
    missing = [name for name in linked if not (ROOT / name).exists()]
    assert missing in ([], ["sparks_jax/attribution/expected.py"])  # the file that the worked example adds


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_is_in_the_table(method):
    table = TEXT[TEXT.index("## Methods") : TEXT.index("## Measured")]
    assert f"`{method.name}`" in table


@pytest.mark.parametrize("name", HIGHER_IS_BETTER)
def test_every_metric_is_in_the_table_with_its_direction(name):
    table = TEXT[TEXT.index("## Metrics") : TEXT.index("## Measured")]
    assert f"`{name}` {'↑' if HIGHER_IS_BETTER[name] else '↓'}" in table
