"""The house rules that the import linter (pyproject.toml) cannot say: light imports, documented
public names, named types, short functions, no type switches, no stray paths."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import gradflow as gf
from gradflow import protocols

ROOT = Path(gf.__file__).parent
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


#: Ceilings that only ever come down.
MOST_ANY = 4.5  # uses of ``Any`` per 1,000 lines
LONG = 80  # lines, docstring apart
MOST_TYPE_SWITCHES = 14  # ``isinstance`` on a class of ours, outside claims/ and refusals
MOST_LOOSE_SEAMS = 0  # methods of gradflow.protocols with ``Any`` in the signature


@cache
def trees() -> dict[str, ast.Module]:
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in MODULES}


def guards(tree: ast.Module) -> set[ast.AST]:
    """Tests of ``if`` statements that do nothing but refuse bad input."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        for inner in ast.walk(node.test)
    }


def names_in(node: ast.AST) -> set[str]:
    """Plain and dotted names used below a node, by their last part."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
    }


def test_types_are_named():
    uses = [
        f"{path}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    lines = sum(len(path.read_text().splitlines()) for path in MODULES)
    assert 1000 * len(uses) / lines <= MOST_ANY, f"{len(uses)} uses in {lines} lines"


def test_functions_fit_on_a_screen():
    long = {
        f"{path}:{node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno - len((ast.get_docstring(node) or "").split("\n")) >= LONG
    }
    assert not long


def test_callers_ask_a_method_instead_of_the_type():
    ours = {
        node.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    switches = [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees().items()
        if not path.startswith("claims/")
        for node in set(ast.walk(tree)) - guards(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and names_in(node.args[1]) & ours
    ]
    assert len(switches) <= MOST_TYPE_SWITCHES, "\n".join(switches)


def test_claims_read_public_names_only():
    for path in (ROOT / "claims").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradflow"):
                if (node.module or "").startswith("gradflow.claims"):
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
    assert ast.get_docstring(trees()[str(path.relative_to(ROOT))]), path
    assert not re.search(r"/(work|tmp|home|root|Users)/", path.read_text())


def asked_of(seam: type) -> dict[str, object]:
    """What a seam asks for: its public methods and properties, and calling."""
    members = {n: inspect.getattr_static(seam, n) for n in dir(seam)}
    return {
        name: member
        for name, member in members.items()
        if (name == "__call__" or not name.startswith("_"))
        and getattr(member, "__isabstractmethod__", False)
    }


@pytest.mark.parametrize("name", protocols.__all__)
def test_seams_are_abstract_and_documented(name):
    seam = getattr(protocols, name)
    assert inspect.isabstract(seam) or name == "Path"  # (of which attributes are asked)
    assert inspect.getdoc(seam)
    undocumented = [n for n, member in asked_of(seam).items() if not inspect.getdoc(member)]
    assert not undocumented
    assert f"`{name}`" in inspect.getdoc(protocols)


def test_seams_are_typed():
    loose = [
        f"{name}.{member}"
        for name in protocols.__all__
        for member, function in asked_of(getattr(protocols, name)).items()
        if re.search(r"\bAny\b", str(inspect.signature(getattr(function, "fget", function))))
    ]
    assert len(loose) <= MOST_LOOSE_SEAMS, loose
