"""The house rules: floors, light imports, documented public names, no stray paths."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradflow as gf

ROOT = Path(gf.__file__).parent
#: From the ground up; a module imports from its own floor and from those below.
FLOORS = [
    {"_jax", "_cache", "validation", "bibliography", "numerics", "registry"},
    {"networks", "losses", "data"},
    {"cells", "kernels", "measures"},
    {"risks"},
    {"flows"},
    {"integrators"},
    {"paths", "integration", "observables", "certificates", "rates", "symbolic"},
    {"claims"},
    {"plots", "report"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def floor(dotted: str) -> str:
    return dotted.split(".")[1]


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "gradflow":
                names |= {f"gradflow.{alias.name}" for alias in node.names}
    return {n for n in names if n.startswith("gradflow.") and n != "gradflow.__version__"}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_upward_import(path):
    here = LEVEL[floor(dotted(path))]
    for name in imports(path):
        assert floor(name) in LEVEL, f"{name} stands on no floor"
        assert LEVEL[floor(name)] <= here, f"{dotted(path)} imports {name} from above"


def test_symbolic_imports_only_shared_names():
    for path in (ROOT / "symbolic").glob("*.py"):
        assert {floor(n) for n in imports(path)} <= {"symbolic", "validation"}, path


def test_no_circular_imports():
    graph = {dotted(p): imports(p) for p in MODULES}
    graph = {m: {n for n in used if n in graph and n != m} for m, used in graph.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_claims_read_public_names_only():
    for path in (ROOT / "claims").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradflow"):
                if floor(f"{node.module}.x") == "claims":
                    continue
                assert not [a.name for a in node.names if a.name.startswith("_")], path


@pytest.mark.parametrize("name", gf.__all__)
def test_public_names_are_documented(name):
    thing = getattr(gf, name)
    assert inspect.getdoc(thing if callable(thing) or inspect.ismodule(thing) else type(thing))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gf.nonsense


def test_import_is_light_and_switches_to_float64():
    code = (
        "import sys, gradflow; heavy = {'jax', 'diffrax', 'sympy', 'matplotlib', 'xarray'};"
        "print(sorted(heavy & set(sys.modules)));"
        "import jax; print(jax.numpy.zeros(()).dtype)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "float64"]


def test_float64_also_when_jax_came_first():
    code = "import jax, gradflow; print(jax.numpy.ones(3).dtype)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "float64"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_say_what_they_are_for(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), path
    assert not re.search(r"/(work|tmp|home|root|Users)/", text)
