"""The structure holds: imports go down, pillars are apart, files and functions are small, names are nouns."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sparks_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Level of each module or sub-package: it imports only strictly lower ones, or its own.
LEVELS = {
    "types": 0,
    "stream": 1, "designs": 1.2, "sensitivity": 1.4, "images": 1, "segments": 1.2, "fourier": 1, "linalg": 1,
    "scores": 2, "models": 2.5, "data": 2,
    "attribution": 3, "verify": 3, "concepts": 3, "featviz": 3, "lipschitz": 3,
    "metrics": 4, "alignment": 4.2, "human": 4.2,
    "viz": 5, "jobs": 5.5, "lens": 6, "cli_lens": 6.5, "cli": 7,
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "common", "base", "core", "helpers", "misc"}
MAY_PRINT = 5
MAY_TOUCH_FILES = {"data", "models/weights.py", "models/bundled.py", "models/squeezenet.py", "models/efficientnet.py"}


def area(path):
    """The module or sub-package a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(path):
    return LEVELS.get(area(path), 8)  # the package's own __init__ and __main__ may see everything


def tree(path):
    return ast.parse(path.read_text())


def imports(path):
    """Modules of the package imported anywhere in a file, as dotted names below `sparks_jax`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("sparks_jax.") for a in node.names if a.name.startswith("sparks_jax."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "sparks_jax":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("sparks_jax."):
                yield node.module.removeprefix("sparks_jax.")


def imported_modules(path):
    """Top-level names of everything a file imports, with the line, and whether inside a function."""
    whole = tree(path)
    inside = {id(node) for outer in ast.walk(whole) if isinstance(outer, ast.FunctionDef) for node in ast.walk(outer)}
    for node in ast.walk(whole):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from ((name.split(".")[0], node.lineno, id(node) in inside) for name in names)


each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


@each_file
def test_imports_go_down(path):
    for name in imports(path):
        target = name.split(".")[0]
        if target in LEVELS and target != area(path):
            assert LEVELS[target] < level(path), f"{path.name} (level {level(path)}) imports {name}"


@each_file
def test_only_viz_imports_matplotlib_and_only_inside_functions(path):
    found = [(line, inside) for name, line, inside in imported_modules(path) if name == "matplotlib"]
    assert not found or (area(path) == "viz" and path.stem == "viz" and all(inside for _, inside in found)), found


@each_file
def test_only_the_upper_floors_print_or_log(path):
    calls = {n.func.id for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    modules = {name for name, _, _ in imported_modules(path)}
    if level(path) < MAY_PRINT:
        assert not calls & {"print", "input"}
        assert not modules & {"logging", "tqdm", "warnings"}


@each_file
def test_only_data_and_weights_touch_files(path):
    place = str(path.relative_to(PACKAGE))
    if level(path) < MAY_PRINT and area(path) not in MAY_TOUCH_FILES and place not in MAY_TOUCH_FILES:
        calls = {n.func.id for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert "open" not in calls
        assert not {name for name, _, _ in imported_modules(path)} & {"pathlib", "os", "shutil", "tempfile"}


@each_file
def test_numerical_modules_hold_no_jit(path):
    if level(path) < MAY_PRINT and area(path) not in {"models", "data"}:
        names = {ast.unparse(n) for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)}
        assert not names & {"jax.jit", "jax.pmap", "nnx.jit"}


@each_file
def test_files_and_functions_are_small(path):
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has a body of {lines} lines"


@each_file
def test_names_are_nouns_and_annotations_are_live(path):
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}
    assert "from __future__ import annotations" not in path.read_text()


def test_no_import_cycle():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {i for i in imports(path) if i != name}
    done, active = set(), []

    def visit(name):
        assert name not in active, " -> ".join([*active[active.index(name) :], name])
        if name in graph and name not in done:
            active.append(name)
            for other in graph[name]:
                visit(other)
            active.pop()
            done.add(name)

    for name in graph:
        visit(name)
    assert done == set(graph)


def test_importing_the_package_is_light():
    """No picture, data or oracle library comes with `import sparks_jax`, and little time over jax and flax."""
    code = (
        "import time, sys, jax, flax.nnx; start = time.perf_counter(); import sparks_jax; "
        "print(time.perf_counter() - start, *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"matplotlib", "skimage", "sklearn", "PIL", "h5py", "torch", "tensorflow", "tqdm", "safetensors"}
    assert not heavy & set(out[1:])
    assert float(out[0]) < 1.5
